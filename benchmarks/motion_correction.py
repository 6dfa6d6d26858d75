"""How much motion `halfmap motion` leaves in simulated movies, and RELION's own program on the same ones.

    python benchmarks/motion_correction.py --folder /tmp/motion

Movies are those of `halfmap simulate frame-series` (drift of the whole frame, local motion, gain, radiation damage),
as float32, which RELION 3.1 reads. Then the same again with a bad frame (empty, of usual light) and hot pixels. Motion
that is left is the root mean square over 10 × 10 places and all frames that were good, without what is constant at a
place, which nothing can tell. Of halfmap the item's grids count, and apart from them the polynomial that RELION's
files can hold. CPU seconds are those of whole commands, start included, one thread each.
"""

import argparse
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from halfmap.ctf_estimation.estimate import estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import power_spectra, windows_of
from halfmap.ctf_estimation.rings import Microscope
from halfmap.data.image_series import FrameSeries
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import movement
from halfmap.imaging.frame_average import frame_average
from halfmap.io import mrc
from halfmap.io.detector import Detector
from halfmap.io.frames import open_movie
from halfmap.io.relion_motion import read_corrected_movies
from halfmap.io.warp_series import SeriesSizes, read_series

PIXEL, DOSE, BAD_FRAME, N_HOT = 1.2, 1.5, 6, 40
RELION = "relion_run_motioncorr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--movies", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--copies", type=int, default=1, help="list each movie so often, for what one movie costs")
    given = parser.parse_args()
    simulation = simulated(given)
    for is_bad in (False, True):
        folder = given.folder / ("bad" if is_bad else "good")
        names = converted(simulation, folder, is_bad=is_bad, copies=given.copies)
        cpu = run(folder, ["halfmap", "motion", "movies.star", *arguments_of_halfmap()])
        job = max((folder / "MotionCorr").glob("job*"))
        print(f"{'bad frame, hot pixels' if is_bad else 'good movies'}: motion {left(simulation, names, None):.2f} px")
        print(f"  halfmap  {left(simulation, names, items(job, given.frames)):.3f} px left, {cpu:.1f} CPU s")
        print(f"  halfmap, as RELION's file has it  {left(simulation, names, of_relion(folder, job)):.3f} px left")
        if shutil.which(RELION):
            cpu = run(folder, [RELION, *arguments_of_relion()])
            print(
                f"  RELION   {left(simulation, names, of_relion(folder, folder / 'MC')):.3f} px left, {cpu:.1f} CPU s"
            )
        if not is_bad:
            rings(simulation, folder, job, names)


def rings(simulation: Path, folder: Path, job: Path, names: Sequence[str]) -> None:
    """Print to which resolution rings go in plain sums, and how wrong the defocus is."""
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)
    for name in names:
        source = open_movie(
            folder / f"Movies/{name}.mrcs",
            pixel_size_angstrom=PIXEL,
            detector=Detector(gain_path=folder / "gain.mrc"),
        )
        sizes = SeriesSizes(n_frames=len(source), dose_per_frame_e_per_angstrom2=DOSE)
        true = read_series(simulation / f"truth/warp_frameseries/{name}.xml", sizes)
        assert isinstance(true, FrameSeries)
        defocus = float(true.defocus_angstrom.values.flatten()[0])
        images = {"not moved": source.total(), "true motion": frame_average(source, true)}
        for program, path in (("halfmap", job), ("RELION", folder / "MC")):
            if (path / f"Movies/{name}_noDW.mrc").exists():
                images[program] = mrc.read_image(path / f"Movies/{name}_noDW.mrc")
        for kind, image in images.items():
            windows = windows_of((image.shape[0], image.shape[1]), PIXEL, 512)
            spectra = power_spectra(torch.from_numpy(image), windows, pixel_size_angstrom=PIXEL)
            found = estimate(spectra, microscope, CtfEstimationParams())
            print(
                f"  {name}, {kind}: rings to {found.max_resolution_angstrom:.2f} Å, depth {found.ring_depth:.3f}, "
                f"defocus {found.lens.defocus_angstrom - defocus:+.0f} Å{', ' + found.failure if found.failure else ''}"
            )


def simulated(given: argparse.Namespace) -> Path:
    folder: Path = given.folder / "simulation"
    if not (folder / "Simulate/job001/SUCCESS").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = (
            f"halfmap simulate frame-series --number {given.movies} --size {given.size},{given.size}"
            f" --pixel-size {PIXEL} --frames {given.frames} --dose {DOSE * given.frames}"
            f" --global-motion 6 --local-motion 1 --particles-per-series {given.particles} --workers 1"
        )
        run(folder, command.split())
    return folder / "Simulate/job001"


def converted(simulation: Path, folder: Path, *, is_bad: bool, copies: int) -> list[str]:
    """Write the movies as RELION reads them, and their list, in which copies come after all movies."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "Movies").mkdir(parents=True)
    (folder / ".halfmap").mkdir()
    shutil.copy(simulation / "gain.mrc", folder / "gain.mrc")
    names = []
    for path in sorted((simulation / "frames").glob("*.mrc")):
        movie = open_movie(path)
        generator = np.random.default_rng(1)
        hot = generator.integers(0, min(movie.grid.shape), (N_HOT, 2))
        with mrc.StackWriter(
            folder / f"Movies/{path.stem}.mrcs", ImageGrid(shape=movie.grid.shape, pixel_size_angstrom=PIXEL)
        ) as writer:
            for number in range(len(movie)):
                frame = movie.read([number])[0]
                if is_bad:
                    if number == BAD_FRAME:
                        frame = generator.normal(frame.mean(), frame.std(), frame.shape).astype(np.float32)
                    frame[hot[:, 0], hot[:, 1]] += 50 * frame.mean()
                writer.write(frame)
        names.append(path.stem)
    listed = list(names)
    for copy in range(1, copies):
        for name in names:
            listed.append(f"{name}_{copy}")
            (folder / f"Movies/{listed[-1]}.mrcs").symlink_to(f"{name}.mrcs")
    (folder / "movies.star").write_text(
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n"
        "_rlnMicrographOriginalPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        f"one 1 {PIXEL} 300 2.7 0.1\n\n# version 30001\n\ndata_movies\n\nloop_\n_rlnMicrographMovieName\n"
        "_rlnOpticsGroup\n" + "".join(f"Movies/{name}.mrcs 1\n" for name in listed)
    )
    return names


def arguments_of_halfmap() -> list[str]:
    return f"--gain gain.mrc --dose-per-frame {DOSE} --patches 5,5 --workers 1".split()


def arguments_of_relion() -> list[str]:
    return (
        "--i movies.star --o MC/ --use_own --j 1 --patch_x 5 --patch_y 5 --bin_factor 1 --bfactor 150"
        f" --gainref gain.mrc --dose_weighting --dose_per_frame {DOSE} --save_noDW --grouping_for_ps 3"
    ).split()


def run(folder: Path, command: Sequence[str]) -> float:
    """Run a command, and return its CPU seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def items(job: Path, n_frames: int) -> dict[str, FrameSeries]:
    sizes = SeriesSizes(n_frames=n_frames, dose_per_frame_e_per_angstrom2=DOSE)
    found = {path.stem: read_series(path, sizes) for path in sorted(job.glob("Movies/*.xml"))}
    return {name: series for name, series in found.items() if isinstance(series, FrameSeries)}


def of_relion(folder: Path, job: Path) -> dict[str, FrameSeries]:
    movies = read_corrected_movies(job / "corrected_micrographs.star", project_root=folder)
    return {series.name: series for series in movies.series}


def left(simulation: Path, names: Sequence[str], found: dict[str, FrameSeries] | None) -> float:
    """Return the motion that is left, in pixels; all of it where nothing was found."""
    squares = []
    side = np.linspace(0.05, 0.95, 10)
    for name in names:
        n = len(open_movie(simulation / f"frames/{name}.mrc"))
        sizes = SeriesSizes(n_frames=n, dose_per_frame_e_per_angstrom2=DOSE)
        true = read_series(simulation / f"truth/warp_frameseries/{name}.xml", sizes)
        places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) * np.array(true.image_size_angstrom)
        where = torch.from_numpy(places)[:, None].expand(-1, n, -1)
        difference = movement(true, where)
        if found is not None:
            difference = difference - movement(found[name], where)
        difference = difference[:, [frame for frame in range(n) if frame != BAD_FRAME]]
        squares.append((difference - difference.mean(1, keepdim=True)).square().mean())
    return float(torch.stack(squares).mean().sqrt()) / PIXEL


if __name__ == "__main__":
    main()
