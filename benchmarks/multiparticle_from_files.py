"""Populations from files, by commands alone: simulate, create, add-source, add-species, refine, estimate-weights.

    python benchmarks/multiparticle_from_files.py ladder --kind tilts|frames [--alone]
    python benchmarks/multiparticle_from_files.py ladder --kind faulty-tilts|faulty-frames [--alone]
    python benchmarks/multiparticle_from_files.py ladder --kind fine-tilts|fine-frames [--alone]
    python benchmarks/multiparticle_from_files.py two-species [--seeds 1 2 3]
    python benchmarks/multiparticle_from_files.py growth

``ladder``: what each group of parameters adds, in the order in which M's tutorial adds them, or each by itself. The
references are never the truth: the first refinement fits nothing and makes half-maps at the erring start. Faulty
series have images that show hardly anything and are not known as bad; fine ones have small pixels, and files that say
1.4 mm of a spherical aberration of 2.7 mm.
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
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What is done next: commands of `halfmap population`, then a refinement with what is to be fitted."""

    name: str
    fit: str = ""
    first: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A simulation, what is fitted to it one after the other, and what by itself; what the truth is told by."""

    simulate: str
    ladder: tuple[Rung, ...]
    alone: tuple[Rung, ...]
    ideal: tuple[Rung, ...] = (Rung(name="true parameters"),)
    specimen: str = "compact-d2-120"
    diameter: int = 120
    always: str = "--ctf-resolution 12"


SYMMETRY = "D2"
ERRORS = (
    "--pixel-size 3 --margin 40 --position-error 3 --angle-error 3 --magnification-error-percent 0.7 "
    "--odd-aberration-rad 0.5 --defocus-error 1000 --temporal-samples 2 --drift 1.5"
)
TILTS = (
    f"tilt-series {ERRORS} --number 2 --particles-per-series 20 --size 224,224 --tilt-step 8 --snr 0.05 "
    "--image-warp-nodes 2,2 --image-warp 3 --stage-angle-error 0.7"
)
FRAMES = (
    f"frame-series {ERRORS} --number 4 --particles-per-series 24 --size 320,320 --frames 8 --snr 0.25 "
    "--ice-thickness 300 --motion-error-nodes 1,1 --motion-error 3"
)
FINE = (
    "--pixel-size 1.3 --size 320,320 --margin 30 --position-error 1 --angle-error 1 --defocus-error 300 "
    "--spherical-aberration 1.4 --spherical-aberration-error 1.3 --b-factor 30 --ice-thickness 300"
)
POSES, OPTICS, CS = "--positions --angles", "--magnification --odd-zernike-order 3", "--spherical-aberration"
OF_TILTS, OF_FRAMES = f"--image-warp 2x2 {POSES}", f"--image-warp 1x1 {POSES}"
WEIGHTS, TWO_SAMPLES, ONE_SAMPLE = (
    ("estimate-weights m --resolve images",),
    ("resample-trajectories m one 2",),
    ("resample-trajectories m one 1",),
)
POSES_ALONE = (
    Rung(name="positions", fit="--positions"),
    Rung(name="angles", fit="--angles"),
    Rung(name="positions and angles", fit=POSES),
    Rung(name="the same, 2 temporal samples", first=TWO_SAMPLES, fit=POSES),
)
OPTICS_ALONE = (
    Rung(name="defocus", fit="--defocus"),
    Rung(name="magnification", fit="--magnification"),
    Rung(name="odd aberrations", fit="--odd-zernike-order 3"),
    Rung(name="weights", first=WEIGHTS),
)
IDEAL = (
    Rung(name="true parameters, two poses"),
    Rung(name="true parameters, one pose a particle", first=ONE_SAMPLE),
)
IDEAL_OF_FAULTY = (Rung(name="true parameters"), Rung(name="true parameters, weights", first=WEIGHTS))
FINE_ALONE = (
    Rung(name="poses", fit=POSES),
    Rung(name="defocus", fit="--defocus"),
    Rung(name="Cs", fit=CS),
    Rung(name="defocus, Cs", fit=f"--defocus {CS}"),
)


def weights_first(fit: str) -> tuple[Rung, ...]:
    """Return rungs that tell what it is worth to estimate weights, by coarse maps, before anything is fitted."""
    weights = f"{WEIGHTS[0]} --weight-coarsest 40"
    return (
        Rung(name="weights", first=(weights,)),
        Rung(name="image warp, poses", fit=fit),
        Rung(name="weights, then image warp, poses", first=(weights, "refine m --workers 1"), fit=fit),
    )


KINDS = {
    "tilts": Kind(
        simulate=TILTS,
        ladder=(
            Rung(name="image warp, poses", fit=OF_TILTS),
            Rung(name="+ defocus", fit=f"{OF_TILTS} --defocus"),
            Rung(name="+ stage angles", fit=f"{OF_TILTS} --defocus --stage-angles"),
            Rung(name="+ magnification, odd 3", fit=f"{OF_TILTS} --defocus --stage-angles {OPTICS}"),
            Rung(name="+ weights of tilts", first=WEIGHTS),
            Rung(name="+ 2 temporal samples", first=TWO_SAMPLES, fit=f"{OF_TILTS} --defocus --stage-angles"),
        ),
        alone=(
            Rung(name="image warp", fit="--image-warp 2x2"),
            *POSES_ALONE,
            Rung(name="stage angles", fit="--stage-angles"),
            *OPTICS_ALONE,
        ),
        ideal=IDEAL,
    ),
    "frames": Kind(
        simulate=FRAMES,
        ladder=(
            Rung(name="image warp, poses", fit=OF_FRAMES),
            Rung(name="the same again", fit=OF_FRAMES),
            Rung(name="+ defocus", fit=f"{OF_FRAMES} --defocus"),
            Rung(name="+ magnification, odd 3", fit=f"{OF_FRAMES} --defocus {OPTICS}"),
            Rung(name="+ weights of frames", first=WEIGHTS),
            Rung(name="+ 2 temporal samples", first=TWO_SAMPLES, fit=f"{OF_FRAMES} --defocus"),
        ),
        alone=(
            Rung(name="image warp", fit="--image-warp 1x1"),
            *POSES_ALONE,
            Rung(name="doming", fit="--doming"),
            *OPTICS_ALONE,
        ),
        ideal=IDEAL,
    ),
    "faulty-tilts": Kind(
        simulate=f"{TILTS} --bad-images 3,6,9,12 --no-exclude-bad-images",
        ladder=(
            Rung(name="image warp, poses", fit=OF_TILTS),
            Rung(name="+ defocus", fit=f"{OF_TILTS} --defocus"),
            Rung(name="+ weights of tilts", first=WEIGHTS),
            Rung(name="the same again", fit=f"{OF_TILTS} --defocus"),
        ),
        alone=weights_first(OF_TILTS),
        ideal=IDEAL_OF_FAULTY,
    ),
    "faulty-frames": Kind(
        simulate=f"{FRAMES} --bad-images 0,1 --no-exclude-bad-images",
        ladder=(
            Rung(name="image warp, poses", fit=OF_FRAMES),
            Rung(name="+ defocus", fit=f"{OF_FRAMES} --defocus"),
            Rung(name="+ weights of frames", first=WEIGHTS),
            Rung(name="the same again", fit=f"{OF_FRAMES} --defocus"),
        ),
        alone=weights_first(OF_FRAMES),
        ideal=IDEAL_OF_FAULTY,
    ),
    "fine-tilts": Kind(
        specimen="compact-d2-80",
        diameter=80,
        simulate=f"tilt-series {FINE} --number 2 --particles-per-series 20 --tilt-step 8 --snr 0.2 "
        "--image-warp-nodes 1,1 --image-warp 1",
        ladder=(
            Rung(name="image warp, poses", fit=f"--image-warp 1x1 {POSES}"),
            Rung(name="+ defocus", fit=f"--image-warp 1x1 {POSES} --defocus"),
            Rung(name="+ Cs", fit=f"--image-warp 1x1 {POSES} --defocus {CS}"),
            Rung(name="the same again", fit=f"--image-warp 1x1 {POSES} --defocus {CS}"),
        ),
        alone=FINE_ALONE,
        always="",
    ),
    "fine-frames": Kind(
        specimen="compact-d2-80",
        diameter=80,
        simulate=f"frame-series {FINE} --number 4 --particles-per-series 24 --frames 8 --snr 1 "
        "--motion-error-nodes 1,1 --motion-error 1",
        ladder=(
            Rung(name="image warp, poses", fit=OF_FRAMES),
            Rung(name="+ defocus", fit=f"{OF_FRAMES} --defocus"),
            Rung(name="+ Cs", fit=f"{OF_FRAMES} --defocus {CS}"),
            Rung(name="the same again", fit=f"{OF_FRAMES} --defocus {CS}"),
        ),
        alone=FINE_ALONE,
        always="",
    ),
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
    kind = KINDS[options.kind]
    simulate, _, settings = kind.simulate.partition(" ")
    project = new_project(folder / "climb", f"{simulate} --specimen {kind.specimen} {settings} --seed {options.seed}")
    ideal = copied(project, "ideal")
    for true in (ideal.folder / "sim/truth").glob("warp_*/*.xml"):
        shutil.copyfile(true, ideal.folder / "sim" / true.relative_to(ideal.folder / "sim/truth"))
    samples = 2 if "--temporal-samples 2" in settings else 1
    ideal.add_species("one", kind.specimen, SYMMETRY, kind.diameter, folder="sim/truth", samples=samples)
    project.add_species("one", kind.specimen, SYMMETRY, kind.diameter)
    print(
        "| | half-maps, masked | unmasked | to the truth | angle | place | defocus | Cs | CPU s |\n" + "|---" * 9 + "|"
    )
    climb(project, kind, Rung(name="start"))
    if options.alone:
        for number, rung in enumerate(kind.alone):
            climb(copied(project, f"alone_{number}"), kind, rung)
        return
    for rung in kind.ladder:
        climb(project, kind, rung)
    for rung in kind.ideal:
        climb(ideal, kind, rung)


def climb(project: Project, kind: Kind, rung: Rung) -> None:
    """Take a rung, and print what came of it."""
    seconds = sum(project.run(f"population {one}") for one in rung.first)
    seconds += project.refine(f"{rung.fit} {kind.always if rung.fit else ''}")
    stated, unmasked, truth = project.resolutions("one", kind.specimen)
    opened, files = open_population(project.folder / "m"), SimulatedFiles(project.folder / "sim")
    found, source = opened.species[0].particles(), opened.sources[0]
    squares = []
    for item in source.source.items:
        root = item.name.split(".")[0]
        mine = found.take(np.array([one == item.name for one in found.source_name]))
        poses = mine.position_angstrom, mine.rotation
        series = source.read_item(item)
        one = files.agreement(root, kind.specimen, series, poses, symmetry=SYMMETRY)
        squares.append((one.angle_degrees, one.position_angstrom, one.defocus_angstrom, one.spherical_aberration_mm))
    angle, place, defocus, aberration = np.sqrt(np.mean(np.square(squares), axis=0))
    print(
        f"| {rung.name} | {stated:.2f} Å | {unmasked:.2f} Å | {truth:.2f} Å | {angle:.1f}° | {place:.2f} Å | "
        f"{defocus:.0f} Å | {aberration:.2f} mm | {seconds:.0f} |",
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
