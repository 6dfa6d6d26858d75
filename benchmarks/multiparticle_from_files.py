"""Populations from files, by commands alone: simulate, create, add-source, add-species, refine, estimate-weights.

    python benchmarks/multiparticle_from_files.py ladder --kind tilts [--alone]
    python benchmarks/multiparticle_from_files.py ladder --kind frames [--alone]
    python benchmarks/multiparticle_from_files.py two-species [--seeds 1 2 3]
    python benchmarks/multiparticle_from_files.py growth

``ladder``: what each group of parameters adds, in the order in which M's tutorial adds them, or each by itself. The
references are never the truth: the first refinement fits nothing and makes half-maps at the erring start.
``two-species``: a small species in images that hold a large one, refined without it and with it; and the same where the
large one's images were moved by a warp of their own.
``growth``: CPU seconds and memory, beside what the command says it needs, against particles, tilts and box.
"""

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from class2d_memory import HALFMAP, peak_mebibytes
from population_projects import Project, copied, new_project

from halfmap.io import mrc
from halfmap.io.species_particles import read_species_particles_of_m, write_species_particles_of_m
from halfmap.jobs.population_files import open_population
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
OPTICS_ALONE = {
    "defocus": "--defocus",
    "magnification": "--magnification",
    "odd aberrations": "--odd-zernike-order 3",
}
ALONE = {
    "tilts": {
        "image warp": "--image-warp 2x2",
        "positions": "--positions",
        "angles": "--angles",
        "poses": POSES,
        "stage angles": "--stage-angles",
        **OPTICS_ALONE,
    },
    "frames": {
        "image warp": "--image-warp 1x1",
        "positions": "--positions",
        "angles": "--angles",
        "poses": POSES,
        "doming": "--doming",
        **OPTICS_ALONE,
    },
}
SMALL, LARGE = "compact-c1-80", "compact-d2-160"
FIELD = (
    "--pixel-size 4 --size 192,192 --tilt-step 10 --snr 0.04 --defocus-error 0 --axis-offset 0 --min-defocus 15000 "
    "--max-defocus 15001 --astigmatism 0 --image-warp-nodes 2,2 --image-warp 5 --position-error 2 --angle-error 2 "
    "--margin 60"
)
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
        for number, (name, choice) in enumerate(ALONE[options.kind].items()):
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
    """Refine a small species in images that hold a large one, too: without it and with it, moving alike or not."""
    print("| seed | the large species | | half-maps, masked | to the truth | place |\n|---|---|---|---|---|---|")
    both = f"tilt-series --specimen {SMALL} --specimen {LARGE} {FIELD} --number 2"
    for seed in options.seeds:
        for moves, other in (("moves with it", seed), ("moves otherwise", seed + 100)):
            place = folder / f"{seed}_{other}"
            project = new_project(place, f"{both} --particles-per-series 6,0 --seed {seed}")
            large = Project(folder / f"large_{seed}_{other}")
            (large.folder / ".halfmap").mkdir(parents=True)
            large.run(f"simulate {both} --particles-per-series 0,16 --seed {other} --workers 1 --out sim")
            add_images(project.folder / "sim", large.folder / "sim")
            project.add_species("small", SMALL, "C1", 80)
            alone = copied(project, f"alone_{seed}_{other}")
            shutil.copyfile(large.folder / f"sim/species/{LARGE}_particles.star", place / "large.star")
            with_names_only(place / "large.star")
            halves = large.folder / "sim/species" / LARGE
            project.run(
                f"population add-species m --name large --diameter 160 --symmetry D2 --half1 {halves}_half1.mrc "
                f"--mask {halves}_mask.mrc --particles large.star --workers 1"
            )
            for how, one in (("left out", alone), ("refined, too", project)):
                one.refine("--image-warp 2x2 --positions")
                stated, _, truth = one.resolutions("small", SMALL)
                error = place_error(one)
                print(f"| {seed} | {moves} | {how} | {stated:.1f} Å | {truth:.1f} Å | {error:.2f} Å |", flush=True)


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


def growth(options: argparse.Namespace, folder: Path) -> None:
    """Measure one refinement of one item against its size."""
    print("| particles | tilts | box px | CPU s | said, MiB | measured, MiB |\n|---|---|---|---|---|---|")
    for n, tilts, box in GROWTH:
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


def log_of(project: Project) -> str:
    """Return what the refinement said."""
    return (project.folder / "refined/run.log").read_text()


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ladder", "two-species", "growth"])
    parser.add_argument("--kind", choices=list(KINDS), default="tilts")
    parser.add_argument("--alone", action="store_true", help="each group by itself, from the start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, help="where files are kept; a temporary one where left out")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    {"ladder": ladder, "two-species": two_species, "growth": growth}[options.what](options, folder)


if __name__ == "__main__":
    main()
