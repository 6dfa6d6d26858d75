"""Populations from files, by commands alone: simulate, create, add-source, add-species, refine, estimate-weights.

    python benchmarks/multiparticle_from_files.py ladder --kind tilts [--alone]
    python benchmarks/multiparticle_from_files.py ladder --kind frames
    python benchmarks/multiparticle_from_files.py two-species [--seeds 1 2 3]
    python benchmarks/multiparticle_from_files.py two-truths [--runs 10]
    python benchmarks/multiparticle_from_files.py error-bars [--seeds 1 2 3]
    python benchmarks/multiparticle_from_files.py growth

``ladder``: what each group of parameters adds, in the order in which M's tutorial adds them, or each by itself. The
references are never the truth: the first refinement fits nothing and makes half-maps at the erring start.
``two-species``: a small species alone, beside a large one in the same images, and beside a large one whose images were
moved by a warp of their own.
``two-truths``: half-sets of two structures: what they share beyond the join, before and after refinement.
``error-bars``: errors over error bars of each group of parameters, all others true, in a crowded field and a wide one.
``growth``: CPU seconds and memory, beside what the command says it needs, against particles, tilts and box.
"""

import argparse
import io
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from class2d_memory import HALFMAP, peak_mebibytes

from halfmap.cli.main import main as main_of_halfmap
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.rotations import rotation_vector_from_matrix
from halfmap.geometry.shapes import soft_sphere
from halfmap.io import mrc
from halfmap.io.species_particles import read_species_particles_of_m, write_species_particles_of_m
from halfmap.jobs.population_files import open_population
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import refine_series
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.species import fitted
from support.simulated_series import SimulatedFiles

DIAMETER = 120
SPECIMEN, SYMMETRY = "compact-d2-120", "D2"
COMMON = (
    "--pixel-size 3 --margin 40 --position-error 3 --angle-error 3 --magnification-error-percent 0.7 "
    "--odd-aberration-rad 0.5"
)
KINDS = {
    "tilts": "--number 2 --particles-per-series 20 --size 224,224 --tilt-step 8 --snr 0.05 --image-warp-nodes 2,2 "
    "--image-warp 3 --stage-angle-error 0.7 --defocus-error 1000 --temporal-samples 2 --drift 1.5",
    "frames": "--number 4 --particles-per-series 24 --size 320,320 --frames 8 --snr 0.25 --ice-thickness 300 "
    "--motion-error-nodes 1,1 --motion-error 3 --defocus-error 1000",
}
POSES, OPTICS = "--positions --angles", "--magnification --odd-zernike-order 3"
CTF = "--ctf-resolution 12"
FIRST = {"tilts": f"--image-warp 2x2 {POSES}", "frames": f"--image-warp 1x1 {POSES}"}
LADDER = {
    "tilts": (
        ("image warp, poses", (), FIRST["tilts"]),
        ("+ defocus", (), f"{FIRST['tilts']} --defocus"),
        ("+ stage angles", (), f"{FIRST['tilts']} --defocus --stage-angles"),
        ("+ magnification, odd 3", (), f"{FIRST['tilts']} --defocus --stage-angles {OPTICS}"),
        ("+ weights of tilts", ("estimate-weights m --resolve images",), ""),
        ("+ 2 temporal samples", ("resample-trajectories m one 2",), f"{FIRST['tilts']} --defocus --stage-angles"),
    ),
    "frames": (
        ("image warp, poses", (), FIRST["frames"]),
        ("the same again", (), FIRST["frames"]),
        ("+ defocus", (), f"{FIRST['frames']} --defocus"),
        ("+ magnification, odd 3", (), f"{FIRST['frames']} --defocus {OPTICS}"),
        ("+ weights of frames", ("estimate-weights m --resolve images",), ""),
    ),
}
ALONE = {
    "image warp": "--image-warp 2x2",
    "positions": "--positions",
    "angles": "--angles",
    "poses": POSES,
    "stage angles": "--stage-angles",
    "defocus": "--defocus",
    "magnification": "--magnification",
    "odd aberrations": "--odd-zernike-order 3",
}
SMALL, LARGE = "compact-c1-80", "compact-d2-160"
FIELD = (
    "--pixel-size 4 --size 192,192 --tilt-step 10 --snr 0.2 --defocus-error 0 --axis-offset 0 --min-defocus 15000 "
    "--max-defocus 15001 --astigmatism 0 --image-warp-nodes 2,2 --image-warp 5 --position-error 2 --angle-error 2 "
    "--margin 60"
)
TRUTHS = ("compact-c1-100", "compact-c1-101")
OF_TRUTHS = (
    "--pixel-size 4 --size 160,160 --tilt-step 12 --snr 0.3 --particles-per-series 12,12 --image-warp-nodes 2,2 "
    "--image-warp 3 --margin 50"
)
BARS_SPECIMEN = "compact-c1-100"
OF_BARS = "--pixel-size 4 --tilt-step 8 --snr 0.1 --particles-per-series 20 --reference-resolution 6 --margin 60"
BARS = {
    "poses": ("--position-error 3 --angle-error 3", {"positions": True, "angles": True}),
    "image warp": ("--image-warp 3 --image-warp-nodes 2,2", {"image_warp": "2x2"}),
    "defocus": ("--defocus-error 1000", {"defocus": True}),
}
GROWTH = (
    (10, 16, 40),
    (20, 16, 40),
    (40, 16, 40),
    (80, 16, 40),
    (20, 31, 40),
    (20, 61, 40),
    (20, 16, 60),
    (20, 16, 80),
)


@dataclass(frozen=True)
class Project:
    """A folder with a simulation ``sim`` and a population ``m``."""

    folder: Path

    def run(self, command: str) -> float:
        """Run a command of halfmap in the folder; return its CPU seconds, without those of starting."""
        os.chdir(self.folder)
        said = io.StringIO()
        began = time.process_time()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                main_of_halfmap(command.split())
        except SystemExit as end:
            if end.code:
                raise SystemExit(f"halfmap {command}\n{said.getvalue()}") from end
        return time.process_time() - began

    def refine(self, choice: str) -> float:
        """Refine; return its CPU seconds."""
        return self.run(f"population refine m {choice} --workers 1")

    def add_species(
        self, name: str, specimen: str, symmetry: str, diameter: int, *, folder: str = "sim/species", samples: int = 1
    ) -> None:
        """Add a specimen of the simulation."""
        halves = self.folder / "sim/species" / f"{specimen}"
        self.run(
            f"population add-species m --name {name} --diameter {diameter} --symmetry {symmetry} --workers 1 "
            f"--temporal-samples {samples} "
            f"--half1 {halves}_half1.mrc --mask {halves}_mask.mrc --particles {folder}/{specimen}_particles.star"
        )

    def maps(self, name: str) -> tuple[Volume, Volume]:
        """Return a species' half-maps."""
        found = open_population(self.folder / "m").find_species(name)
        first, second = (mrc.read_volume(found.file(f"half{half}.mrc")) for half in (1, 2))
        return first, second

    def resolutions(self, name: str, specimen: str) -> tuple[float, float, float]:
        """Return the resolution that the species states, that of half-maps without mask, and that to the truth."""
        first, second = self.maps(name)
        stated = open_population(self.folder / "m").find_species(name).species.resolution_angstrom
        grid = first.grid
        unmasked = shells.fsc(grid.rfft(first.values), grid.rfft(second.values), grid)
        mean = Volume(values=(first.values + second.values) / 2, grid=grid)
        to_truth = fsc(mean, fitted(SimulatedFiles(self.folder / "sim").true_map(specimen), grid))
        return (
            float(stated or np.nan),
            shells.resolution_at_threshold(unmasked, grid),
            shells.resolution_at_threshold(to_truth, grid, 0.5),
        )


def fsc(first: Volume, second: Volume) -> torch.Tensor:
    """Return the FSC inside the sphere of the particle, half as wide as the box."""
    grid = first.grid
    sphere = soft_sphere(grid, grid.side * grid.pixel_size_angstrom / 4, 12.0)
    return shells.fsc(grid.rfft(first.values * sphere), grid.rfft(second.values * sphere), grid)


def new_project(folder: Path, simulate: str) -> Project:
    """Simulate into a new project and make a population of its series."""
    (folder / ".halfmap").mkdir(parents=True)
    project = Project(folder)
    project.run(f"simulate {simulate} --workers 1 --out sim")
    kind = "tiltseries" if "tilt-series" in simulate else "frameseries"
    project.run("population create m --name benchmark")
    project.run(f"population add-source m sim/warp_{kind}.settings --name series")
    return project


def copied(project: Project, name: str) -> Project:
    """Return a copy of a project, beside it."""
    return Project(Path(shutil.copytree(project.folder, project.folder.with_name(name))))


def ladder(options: argparse.Namespace, folder: Path) -> None:
    """Climb, or take each rung by itself."""
    command = "tilt-series" if options.kind == "tilts" else "frame-series"
    settings = f"{command} --specimen {SPECIMEN} {COMMON} {KINDS[options.kind]} --seed {options.seed}"
    project = new_project(folder / "climb", settings)
    ideal = copied(project, "ideal")
    for true in (ideal.folder / "sim/truth").glob("warp_*/*.xml"):
        shutil.copyfile(true, ideal.folder / "sim" / true.relative_to(ideal.folder / "sim/truth"))
    ideal.add_species("one", SPECIMEN, SYMMETRY, DIAMETER, folder="sim/truth", samples=2)
    project.add_species("one", SPECIMEN, SYMMETRY, DIAMETER)
    print("| | half-maps, masked | unmasked | to the truth | angle | place | defocus | CPU s |\n" + "|---" * 8 + "|")
    show("start", project, project.refine(""))
    if options.alone:
        for number, (name, choice) in enumerate(ALONE.items()):
            alone = copied(project, f"alone_{number}")
            show(name, alone, alone.refine(f"{choice} {CTF}"))
    else:
        for name, first, choice in LADDER[options.kind]:
            seconds = sum(project.run(f"population {one}") for one in first)
            show(name, project, seconds + project.refine(f"{choice} {CTF}"))
    show("true parameters", ideal, ideal.refine(""))


def show(name: str, project: Project, seconds: float) -> None:
    """Print a rung."""
    stated, unmasked, truth = project.resolutions("one", SPECIMEN)
    opened, files = open_population(project.folder / "m"), SimulatedFiles(project.folder / "sim")
    found, source = opened.species[0].particles(), opened.sources[0]
    squares = []
    for item in source.source.items:
        root = item.name.split(".")[0]
        mine = found.take(np.array([one == item.name for one in found.source_name]))
        poses = mine.position_angstrom, mine.rotation
        series = source.read_item(item)
        one = files.agreement(root, SPECIMEN, series, poses, symmetry=SYMMETRY)
        squares.append((one.angle_degrees**2, one.position_angstrom**2, one.defocus_angstrom**2))
    angle, place, defocus = np.sqrt(np.mean(squares, axis=0))
    print(
        f"| {name} | {stated:.1f} Å | {unmasked:.1f} Å | {truth:.1f} Å | {angle:.1f}° | {place:.2f} Å | "
        f"{defocus:.0f} Å | {seconds:.0f} |",
        flush=True,
    )


def two_species(options: argparse.Namespace, folder: Path) -> None:
    """Refine a small species alone, with a large one, and with a large one that moves otherwise."""
    print("| seed | beside it | half-maps, masked | to the truth | place |\n|---|---|---|---|---|")
    for seed in options.seeds:
        for label, other in (("nothing", None), ("a large species", seed), ("one that moves otherwise", seed + 100)):
            place = folder / f"{seed}_{other}"
            both = f"tilt-series --specimen {SMALL} --specimen {LARGE} {FIELD}"
            project = new_project(place, f"{both} --particles-per-series 16,0 --seed {seed} --number 2")
            project.add_species("small", SMALL, "C1", 80)
            if other is not None:
                large = Project(place / "large")
                (large.folder / ".halfmap").mkdir(parents=True)
                large.run(
                    f"simulate {both} --particles-per-series 0,24 --seed {other} --number 2 --workers 1 --out sim"
                )
                add_images(project.folder / "sim", large.folder / "sim")
                shutil.copyfile(large.folder / f"sim/species/{LARGE}_particles.star", place / "large.star")
                with_names_only(place / "large.star")
                halves = place / "large/sim/species" / LARGE
                project.run(
                    f"population add-species m --name large --diameter 160 --symmetry D2 --half1 {halves}_half1.mrc "
                    f"--mask {halves}_mask.mrc --particles large.star --workers 1"
                )
            project.refine("--image-warp 2x2 --positions")
            stated, _, truth = project.resolutions("small", SMALL)
            print(f"| {seed} | {label} | {stated:.1f} Å | {truth:.1f} Å | {place_error(project):.2f} Å |", flush=True)


def place_error(project: Project) -> float:
    """Return the rms error of places of the small species."""
    opened, files = open_population(project.folder / "m"), SimulatedFiles(project.folder / "sim")
    found, source = opened.find_species("small").particles(), opened.sources[0]
    squares = []
    for item in source.source.items:
        mine = found.take(np.array([one == item.name for one in found.source_name]))
        poses = mine.position_angstrom, mine.rotation
        one = files.agreement(item.name.split(".")[0], SMALL, source.read_item(item), poses)
        squares.append(one.position_angstrom**2)
    return float(np.sqrt(np.mean(squares)))


def add_images(sim: Path, other: Path) -> None:
    """Add the images of another simulation of the same series to those of a simulation."""
    for path in sorted((sim / "warp_frameseries/average").glob("*.mrc")):
        first, second = (mrc.StackSource([str(one / path.relative_to(sim))]) for one in (sim, other))
        values = np.asarray(first.read(np.array([0])) + second.read(np.array([0])))[0]
        mrc.write_image(path, values, first.grid)


def with_names_only(path: Path) -> None:
    """Take the hashes out of a table of particles, so that they are linked by the names of their items."""
    found = read_species_particles_of_m(path)
    write_species_particles_of_m(path, replace(found, source_hash=np.array([""] * len(found), dtype=object)))


def two_truths(options: argparse.Namespace, folder: Path) -> None:
    """Refine half-sets of two structures together, and see what they come to share."""
    print("| run | band | truths | before | after | expected after |\n|---|---|---|---|---|---|")
    rises = []
    for run in range(options.first, options.first + options.runs):
        specimens = " ".join(f"--specimen {one}" for one in TRUTHS)
        project = new_project(folder / f"run{run}", f"tilt-series {specimens} {OF_TRUTHS} --number 2 --seed {run}")
        sim = project.folder / "sim"
        tables = [read_species_particles_of_m(sim / f"species/{one}_particles.star") for one in TRUTHS]
        write_species_particles_of_m(project.folder / "both.star", of_two_halves(*tables))
        halves = [sim / f"species/{one}_half{half}.mrc" for half, one in enumerate(TRUTHS, 1)]
        project.run(
            f"population add-species m --name one --diameter 100 --half1 {halves[0]} --half2 {halves[1]} "
            "--particles both.star --workers 1"
        )
        project.refine("")
        before = project.maps("one")
        project.refine(f"--image-warp 5x5 --volume-warp 3x3x2x4 --stage-angles {POSES} --defocus {CTF}")
        after, grid = project.maps("one"), before[0].grid
        true = [fitted(SimulatedFiles(sim).true_map(one), grid) for one in TRUTHS]
        # what two halves share where each knows nothing but its own truth
        expected = fsc(*true) * torch.stack([fsc(*pair) for pair in zip(after, true, strict=True)]).prod(0)
        curves = (fsc(*true), fsc(*before), fsc(*after), expected)
        of_shell = grid.side * grid.pixel_size_angstrom / np.maximum(1, np.arange(len(expected)))
        for coarse, fine in ((40.0, 20.0), (20.0, 12.0), (12.0, 8.5)):
            band = torch.from_numpy((of_shell < coarse) & (of_shell >= fine))
            means = [float(curve[band].mean()) for curve in curves]
            rises.append((coarse, fine, *means))
            print(
                f"| {run} | {coarse:g} to {fine:g} Å | " + " | ".join(f"{one:.3f}" for one in means) + " |", flush=True
            )
    for limits in dict.fromkeys(row[:2] for row in rises):
        table = np.array([row[2:] for row in rises if row[:2] == limits])
        excess = table[:, 2] - table[:, 3]
        error = excess.std(ddof=1) / np.sqrt(len(excess)) if len(excess) > 1 else np.nan
        means = ", ".join(f"{one:.3f}" for one in table.mean(0))
        print(
            f"{limits}: mean of {len(excess)} runs {means}; above what is expected {excess.mean():+.3f} ± {error:.3f}"
        )


def of_two_halves(first, second):
    """Return the particles of two species as the two half-sets of one."""
    found = [replace(one, random_subset=np.full(len(one), half)) for half, one in enumerate((first, second), 1)]
    fields = ("position_angstrom", "rotation", "random_subset", "source_name", "source_hash", "uid")
    joined = {name: np.concatenate([getattr(one, name) for one in found]) for name in fields}
    return replace(found[0], **joined)


def growth(options: argparse.Namespace, folder: Path) -> None:
    """Measure one refinement of one item against its size."""
    print("| particles | tilts | box px | CPU s | said, MiB | measured, MiB |\n|---|---|---|---|---|---|")
    for n, tilts, box in GROWTH[options.first - 1 :]:
        specimen = f"compact-c1-{box * 3 // 2}"
        settings = (
            f"--pixel-size 3 --size 400,400 --tilt-step {120 / (tilts - 1):g} --snr 0.1 --particles-per-series {n}"
        )
        project = new_project(folder / f"{n}_{tilts}_{box}", f"tilt-series --specimen {specimen} {settings}")
        project.add_species("one", specimen, "C1", box * 3 // 2)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = f"population refine m --image-warp 3x3 {POSES} --defocus --workers 1 --out refined"
        own, _, _ = peak_mebibytes([HALFMAP, *command.split()], project.folder)
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        said = re.findall(r"Needs at most ([\d.]+) ([MG])iB", log_of(project))
        needs = max(float(value) * (1024 if unit == "G" else 1) for value, unit in said)
        print(f"| {n} | {tilts} | {box} | {seconds:.0f} | {needs:.0f} | {own:.0f} |", flush=True)


def error_bars(options: argparse.Namespace, folder: Path) -> None:
    """Refine one group of parameters, all others true, and compare its errors with their error bars."""
    print("| field | group | errors over error bars, rms |\n|---|---|---|")
    for field in ("--size 200,200", "--size 400,400"):
        for group, (errors, choice) in BARS.items():
            found = list[np.ndarray]()
            for seed in options.seeds:
                place = folder / f"{group} {field.split(',')[-1]} {seed}".replace(" ", "_")
                (place / ".halfmap").mkdir(parents=True)
                none = "--position-error 0 --angle-error 0 --defocus-error 0 --image-warp 0"
                specimen = f"--specimen {BARS_SPECIMEN} {field} --seed {seed}"
                Project(place).run(f"simulate tilt-series {specimen} {OF_BARS} {none} {errors} --workers 1 --out sim")
                found.append(_over_bars(SimulatedFiles(place / "sim"), choice))
            rms = float(np.sqrt(np.mean(np.square(np.concatenate(found)))))
            print(f"| {field.split()[1]} px | {group} | {rms:.2f} |", flush=True)


def _over_bars(files: SimulatedFiles, choice: dict) -> np.ndarray:
    problem = files.problem("TS_1", {BARS_SPECIMEN: 9.0})
    result = refine_series(problem, ParameterChoice(**choice), schedule=Schedule(ctf_resolution_angstrom=20.0))
    one, true = result.species[0], files.particles(BARS_SPECIMEN, "TS_1", true=True)
    if "positions" in choice:
        turn = torch.from_numpy(one.rotation[:, 0] @ true.rotation[:, 0].transpose(0, 2, 1))
        errors = [one.position_angstrom[:, 0] - true.position_angstrom[:, 0], rotation_vector_from_matrix(turn).numpy()]
        return (np.concatenate(errors, axis=1) / one.deviation).ravel()
    fields = ("defocus_angstrom",) if "defocus" in choice else ("movement_x_angstrom", "movement_y_angstrom")
    now, truth = result.series, files.series("TS_1", true=True)
    errors = [(getattr(now, name).values - getattr(truth, name).values).flatten() for name in fields]
    return torch.cat(errors).numpy() / result.deviation


def log_of(project: Project) -> str:
    """Return what the refinement said."""
    return (project.folder / "refined/run.log").read_text()


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(PARTS))
    parser.add_argument("--kind", choices=list(KINDS), default="tilts")
    parser.add_argument("--alone", action="store_true", help="each group by itself, from the start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="number of the first run, or of the first size")
    parser.add_argument("--folder", type=Path, help="where files are kept; a temporary one where left out")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    PARTS[options.what](options, folder)


PARTS = {
    "ladder": ladder,
    "two-species": two_species,
    "two-truths": two_truths,
    "error-bars": error_bars,
    "growth": growth,
}


if __name__ == "__main__":
    main()
