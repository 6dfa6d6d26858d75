"""First maps made from particles alone against ground truth, on simulated particles.

    python benchmarks/initial_model_recovery.py [--sets betagal-800 …] [--seeds 1 2 3] [--folder FOLDER]
    python benchmarks/initial_model_recovery.py --folder FOLDER --sets ribosome-600 --only RUN    figures of a folder

The sets are those of `refine3d_recovery.py`: β-galactosidase (D2), apoferritin (O) and a ribosome (C1); weak particles
of β-galactosidase (SNR 0.06); and mixtures of two structures, 400 particles each (C1, 48 px of 5.31 Å, SNR 0.25),
parted into two classes: that of `class3d_purity.py`, β-galactosidase and the same without a quarter of it, and
β-galactosidase and apoferritin of the same contrast. Images do not tell the hand, and a map may lie
anywhere: truth and map are brought together by the poses (`halfmap.refinement.agreement`), for the truth and for its
mirror image, and the hand with the smaller median error of angles counts. Truth: where the FSC of the map with the
truth, in a mask made from the truth, falls below 0.5. Angle: median error, the smallest over the symmetry; of a class
over all of its particles. Right: share of the particles in the class of their structure. CPU: user and system time of
all processes of the whole command.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import class3d_purity
import numpy as np
import torch
from class2d_recovery import HALFMAP, cpu_seconds, median
from recovery_arguments import recovery_arguments
from refine3d_recovery import SETS, betagal, make_set, on_grid_of

from halfmap.data.particles import ParticleSet
from halfmap.data.volumes import Volume
from halfmap.fourier.shells import fsc, resolution_at_threshold
from halfmap.io.mrc import read_volume, write_volume
from halfmap.io.relion import read_particles
from halfmap.postprocessing.masks import automatic_mask
from halfmap.refinement import agreement

BETTER_THAN_ANGSTROM = 20.0
ONE_STRUCTURE = SETS | {"betagal-weak-800": replace(betagal(800), snr=0.06)}
MIXTURES = {"betagal-mixture-800": ("mixture", "part", "C1"), "apoferritin-mixture-800": ("unlike", "apoferritin", "O")}
"""Sets of two structures: their kind, what there is beside β-galactosidase, and the symmetry up to which its poses are
known."""

MIXTURE_NUMBER, MIXTURE_SNR = 800, 0.25
APOFERRITIN = Path(__file__).parents[2] / "shared" / "data" / "models" / "apoferritin_24mer_centred.pdb"
# a map inverted through its centre looks, from anywhere, as the map itself does half a turn further in the plane
HALF_TURN = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an initial model of a set achieved; see the head of this file."""

    truth_angstrom: float
    angle_degrees: float
    is_mirrored: bool


def figures(made: Path, symmetry: str, run: Path) -> Figures:
    """Return the figures of an initial model of a simulated set."""
    found, model = read_particles(run / "particles.star"), run / "initial_model.mrc"
    return agreement_of(made, found, model, made / "reference_class001.mrc", symmetry)


def agreement_of(made: Path, found: ParticleSet, model: Path, reference: Path, symmetry: str) -> Figures:
    """Return how a map, and the poses of the particles that it was made of, agree with the truth of a set."""
    truth = read_particles(made / "ground_truth.star")
    true = truth.take(truth.rows_of_uids(found.uid))
    shows = read_volume(reference)
    values = on_grid_of(read_volume(model), shows).values.double()
    poses = (true["origin_angstrom"], found["rotation"], found["origin_angstrom"], symmetry)
    tried = []
    for is_mirrored in (False, True):
        rotation = HALF_TURN @ true["rotation"] if is_mirrored else true["rotation"]
        frame = agreement.fitted_frame(rotation, *poses)
        angle = median(agreement.pose_errors(frame, rotation, *poses).angle_degrees)
        tried.append((angle, is_mirrored, frame))
    angle, is_mirrored, frame = min(tried, key=lambda one: one[0])
    shown = agreement.in_frame(inverted(shows) if is_mirrored else shows, frame)
    mask, grid = automatic_mask(shown).values.double(), shown.grid
    curve = fsc(grid.rfft(values * mask), grid.rfft(shown.values.double() * mask), grid)
    return Figures(
        truth_angstrom=resolution_at_threshold(curve, grid, 0.5), angle_degrees=angle, is_mirrored=is_mirrored
    )


def inverted(volume: Volume) -> Volume:
    """Return a map of even side inverted through its centre voxel, n // 2."""
    values = volume.values.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    return Volume(values=values, grid=volume.grid)


def run_halfmap(folder: Path, name: str, seed: int) -> tuple[Path, float]:
    """Make an initial model; return its folder and the CPU seconds that it took."""
    recipe, out = ONE_STRUCTURE[name], f"initial_{name}_{seed}"
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [
        *(HALFMAP, "initial-model", f"{name}/particles.star", "--out", out, "--symmetry", recipe.symmetry),
        *("--mask-diameter", f"{recipe.mask_diameter_angstrom:g}", "--seed", str(seed)),
    ]
    return folder / out, cpu_seconds(command, folder)


def write_apoferritin(folder: Path) -> None:
    """Write apoferritin on the grid of β-galactosidase, with as much power."""
    like = read_volume(folder / "whole.mrc")
    size = ("--box", str(like.grid.side), "--pixel-size", f"{like.grid.pixel_size_angstrom:g}", "--number", "10")
    command = [HALFMAP, "simulate", "particles", "--model", str(APOFERRITIN), *size, "--out", "apoferritin"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    made = read_volume(folder / "apoferritin" / "reference_class001.mrc")
    values = made.values * (like.values.norm() / made.values.norm())
    write_volume(folder / "apoferritin.mrc", Volume(values=values, grid=made.grid))


def part_mixture(folder: Path, mixture: str, seeds: list[int]) -> None:
    """Make two classes of a mixture for each seed, and print how they agree with both structures."""
    (folder / ".halfmap").mkdir(exist_ok=True)  # a project of its own: paths in STAR files start here
    class3d_purity.write_maps(folder)
    kind, second, symmetry = MIXTURES[mixture]
    if second == "apoferritin":
        write_apoferritin(folder)
    name, structure = class3d_purity.make_set(folder, MIXTURE_NUMBER, MIXTURE_SNR, kind=kind, second=second)
    for seed in seeds:
        run = folder / f"initial_{name}_{seed}"
        shutil.rmtree(run, ignore_errors=True)
        command = [HALFMAP, "initial-model", f"{name}.star", "--out", run.name, "--classes", "2", "--seed", str(seed)]
        command += ["--mask-diameter", f"{class3d_purity.MASK_ANGSTROM:g}"]
        spent = cpu_seconds(command, folder)
        found = read_particles(run / "particles.star")
        right, larger = class3d_purity.shares(run / "particles.star", structure, folder / name)
        print(f"| {mixture} | seed {seed}, both | right {right:.3f}, larger {larger:.2f} | | | {spent:.0f} |")
        for number in (1, 2):
            members = found.take(np.flatnonzero(np.asarray(found["class_number"]) == number))
            for shown, group in ((1, "D2"), (2, symmetry)):
                reference = folder / name / f"reference_class{shown:03d}.mrc"
                one = agreement_of(folder / name, members, run / f"run_class{number:03d}.mrc", reference, group)
                print(row(mixture, f"seed {seed}, class {number} with structure {shown}", one), flush=True)


def row(name: str, label: str, found: Figures, spent: float | None = None) -> str:
    hand = "mirrored" if found.is_mirrored else "true"
    seconds = "" if spent is None else f"{spent:.0f}"
    return f"| {name} | {label} | {found.truth_angstrom:.1f} | {found.angle_degrees:.1f} | {hand} | {seconds} |"


def main() -> None:
    options = recovery_arguments(
        __doc__.splitlines()[0],
        sets=[*ONE_STRUCTURE, *MIXTURES],
        default_sets=("betagal-800", "ribosome-600"),
        default_seeds=(1, 2, 3),
    )
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    print("| set | run | truth 0.5 at Å | angle ° | hand | CPU s |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        reached = []
        for name in options.sets:
            if name in MIXTURES:
                part_mixture(folder, name, options.seeds)
                continue
            symmetry = ONE_STRUCTURE[name].symmetry
            made = make_set(folder, name, ONE_STRUCTURE[name])
            if options.only:
                print(row(name, options.only.name, figures(made, symmetry, options.only)))
                return
            for seed in options.seeds:
                run, spent = run_halfmap(folder, name, seed)
                reached.append(figures(made, symmetry, run))
                print(row(name, f"seed {seed}", reached[-1], spent), flush=True)
    good = sum(one.truth_angstrom < BETTER_THAN_ANGSTROM for one in reached)
    print(f"\n{good} of {len(reached)} are better than {BETTER_THAN_ANGSTROM:g} Å.")


if __name__ == "__main__":
    main()
