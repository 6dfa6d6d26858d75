"""What each group of parameters adds to the resolution of simulated series: from files, references never the truth.

Series are simulated with errors in poses, image warp, stage angles, defocus, magnification and odd aberrations.
Half-maps reconstructed at the starting values are the first references; each rung refines all series with more
parameters than the one before, at the resolution of its references, and reconstructs half-maps, the references of the
next. The last line is a reconstruction with all parameters true: what perfect refinement would reach. With ``--alone``
every group is refined by itself from the start, once.

    python benchmarks/multiparticle_ladder.py --kind tilts
    python benchmarks/multiparticle_ladder.py --kind frames
    python benchmarks/multiparticle_ladder.py --kind tilts --alone
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import halfmap
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction import HalfMaps, accumulate, combine
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.refine import refine_series
from halfmap.multiparticle.schedule import Schedule
from support.simulated_series import SimulatedFiles

SPECIMEN, SYMMETRY = "compact-d2-120", "D2"
COMMON = {
    "specimen": (SPECIMEN,),
    "pixel_size_angstrom": 3.0,
    "size_pixel": (224, 224),
    "margin_angstrom": 40.0,
    "position_error_angstrom": 3.0,
    "angle_error_degrees": 3.0,
    "magnification_error_percent": 0.7,
    "odd_aberration_rad": 0.5,
    "workers": 1,
}
KINDS = {
    "tilts": {
        "number": 2,
        "particles_per_series": (20,),
        "tilt_step_degrees": 8.0,
        "snr": 0.05,
        "image_warp_nodes": (2, 2),
        "image_warp_angstrom": 3.0,
        "stage_angle_error_degrees": 0.7,
        "defocus_error_angstrom": 1000.0,
    },
    "frames": {
        "number": 4,
        "particles_per_series": (24,),
        "size_pixel": (320, 320),
        "frames": 8,
        "snr": 0.25,
        "ice_thickness_angstrom": 300.0,
        "motion_error_nodes": (1, 1),
        "motion_error_angstrom": 3.0,
        "defocus_error_angstrom": 1000.0,
    },
}
POSES = {"positions": True, "angles": True}
FIRST = {"tilts": {**POSES, "image_warp": "2x2"}, "frames": {**POSES, "image_warp": "1x1"}}
MICROSCOPE = {"magnification": True, "odd_zernike_order": 3}
LADDER = {
    "tilts": (
        ("image warp, poses", FIRST["tilts"]),
        ("+ defocus", {**FIRST["tilts"], "defocus": True}),
        ("+ stage angles", {**FIRST["tilts"], "defocus": True, "stage_angles": True}),
        ("+ magnification, odd 3", {**FIRST["tilts"], "defocus": True, "stage_angles": True, **MICROSCOPE}),
    ),
    "frames": (
        ("image warp, poses", FIRST["frames"]),
        ("the same again", FIRST["frames"]),
        ("+ defocus", {**FIRST["frames"], "defocus": True}),
        ("+ magnification, odd 3", {**FIRST["frames"], "defocus": True, **MICROSCOPE}),
    ),
}
ALONE = {
    "image warp": {"image_warp": "2x2"},
    "positions": {"positions": True},
    "angles": {"angles": True},
    "poses": POSES,
    "stage angles": {"stage_angles": True},
    "defocus": {"defocus": True},
    "magnification": {"magnification": True},
    "odd aberrations": {"odd_zernike_order": 3},
}

CTF_RESOLUTION_ANGSTROM = 12.0
"Coarser images show the CTF's first rings only, whose heights erring poses change as another defocus would."
SMOOTHED_SHELLS = 5
"The FSC of a symmetric particle has few independent components in a shell, and dips by chance."


@dataclass(frozen=True)
class Status:
    """Series, poses and half-maps at one rung."""

    series: dict[str, TiltSeries | FrameSeries]
    particles: dict[str, SpeciesParticles]
    maps: HalfMaps


def main() -> None:
    """Simulate, climb, and print a line for each rung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), default="tilts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="each group by itself, from the start")
    parser.add_argument("--folder", type=Path, help="where files are kept; a temporary one where left out")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = options.folder or Path(tempfile.mkdtemp())
    files = simulated(options.kind, options.seed, folder)
    print(f"{'':28}halves   smoothed  to truth  angle  place  defocus   CPU")
    start = status_at(files, true=False)
    show("start", files, start, 0.0)
    if options.alone:
        for name, choice in ALONE.items():
            climb(f"{name} alone", files, start, choice)
    else:
        here = start
        for name, choice in LADDER[options.kind]:
            here = climb(name, files, here, choice)
    show("true parameters", files, status_at(files, true=True), 0.0)


def simulated(kind: str, seed: int, folder: Path) -> SimulatedFiles:
    """Simulate series in a folder, or take those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    out = folder / f"{kind}_{seed}"
    if not (out / "SUCCESS").exists():
        make = halfmap.simulate_tilt_series if kind == "tilts" else halfmap.simulate_frame_series
        make(**{**COMMON, **KINDS[kind]}, seed=seed, out=out)
    return SimulatedFiles(out)


def status_at(files: SimulatedFiles, *, true: bool) -> Status:
    """Return what the files say, or the truth, and the half-maps that it makes."""
    series = {item: files.series(item, true=true) for item in files.items}
    particles = {item: files.particles(SPECIMEN, item, true=true) for item in files.items}
    return Status(series, particles, reconstructed(files, series, particles))


def climb(name: str, files: SimulatedFiles, here: Status, choice: dict) -> Status:
    """Refine all series against the half-maps, reconstruct, and print the line."""
    before = time.process_time()
    resolution = max(resolution_of(here.maps.fsc, here.maps.half1), 2 * here.maps.half1.grid.pixel_size_angstrom)
    series, particles = {}, {}
    for item in files.items:
        problem = files.problem(
            item,
            {SPECIMEN: resolution},
            series=here.series[item],
            particles={SPECIMEN: here.particles[item]},
            halves={SPECIMEN: (here.maps.half1, here.maps.half2)},
        )
        result = refine_series(
            problem, ParameterChoice(**choice), schedule=Schedule(ctf_resolution_angstrom=CTF_RESOLUTION_ANGSTROM)
        )
        fitted = result.species[0]
        assert fitted is not None
        series[item] = result.series
        particles[item] = here.particles[item].with_poses(fitted.position_angstrom, fitted.rotation)
    spent = time.process_time() - before
    reached = Status(series, particles, reconstructed(files, series, particles))
    show(name, files, reached, spent)
    return reached


def reconstructed(
    files: SimulatedFiles, series: dict[str, TiltSeries | FrameSeries], particles: dict[str, SpeciesParticles]
) -> HalfMaps:
    """Return half-maps of all series."""
    species = files.species(SPECIMEN, SYMMETRY)
    params = ReconstructionParams()
    sums = [accumulate(series[item], files.images(item), particles[item], species, params) for item in files.items]
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    return combine(total, species, params)


def show(name: str, files: SimulatedFiles, status: Status, seconds: float) -> None:
    """Print resolutions and errors."""
    agreements = [
        files.agreement(
            item,
            SPECIMEN,
            status.series[item],
            (status.particles[item].position_angstrom, status.particles[item].rotation),
            symmetry=SYMMETRY,
        )
        for item in files.items
    ]
    angle, place, defocus = (
        (sum(getattr(one, field) ** 2 for one in agreements) / len(agreements)) ** 0.5
        for field in ("angle_degrees", "position_angstrom", "defocus_angstrom")
    )
    halves, truth = resolution_of(status.maps.fsc, status.maps.half1), to_truth(files, status.maps)
    over_shells = resolution_of(smoothed(status.maps.fsc), status.maps.half1)
    resolutions = "  ".join(f"{one:5.2f} Å" for one in (halves, over_shells, truth))
    print(
        f"{name:28}{resolutions}  {angle:5.2f}° {place:5.2f} Å {defocus:6.0f} Å  {seconds:4.0f} s",
        flush=True,
    )


def resolution_of(curve: torch.Tensor, volume: Volume) -> float:
    """Return where the FSC of half-maps falls below 0.143."""
    return shells.resolution_at_threshold(curve, volume.grid)


def smoothed(curve: torch.Tensor) -> torch.Tensor:
    """Return the mean of an FSC over neighbouring shells."""
    reach = SMOOTHED_SHELLS // 2
    padded = torch.nn.functional.pad(curve[None], (reach, reach), mode="replicate")[0]
    return padded.unfold(0, SMOOTHED_SHELLS, 1).mean(-1)


def to_truth(files: SimulatedFiles, maps: HalfMaps) -> float:
    """Return where the FSC of the mean map with the truth falls below 0.5, inside the sphere of the particle."""
    true = files.true_map(SPECIMEN)
    grid = true.grid
    sphere = soft_sphere(grid, grid.side * grid.pixel_size_angstrom / 4, 12.0)
    mean = (maps.half1.values + maps.half2.values) / 2
    first, second = (grid.rfft(values * sphere) for values in (mean, true.values))
    return shells.resolution_at_threshold(shells.fsc(first, second, grid), grid, 0.5)


if __name__ == "__main__":
    main()
