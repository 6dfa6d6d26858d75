"""First maps made from particles alone against ground truth, on simulated particles.

    python benchmarks/initial_model_recovery.py [--sets betagal-800 …] [--seeds 1 2 3] [--folder FOLDER]
    python benchmarks/initial_model_recovery.py --folder FOLDER --sets ribosome-600 --only RUN    figures of a folder

The sets are those of `refine3d_recovery.py`: β-galactosidase (D2) and a ribosome (C1). Images do not tell the hand, and
a map may lie anywhere: truth and map are brought together by the poses (`halfmap.refinement.agreement`), for the truth
and for its mirror image, and the hand with the smaller median error of angles counts. Truth: where the FSC of the map
with the truth, in a mask made from the truth, falls below 0.5. Angle: median error, the smallest over the symmetry.
CPU: user and system time of all processes of the whole command.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from class2d_recovery import HALFMAP, cpu_seconds, median
from recovery_arguments import recovery_arguments
from refine3d_recovery import SETS, make_set, on_grid_of

from halfmap.data.volumes import Volume
from halfmap.fourier.shells import fsc, resolution_at_threshold
from halfmap.io.mrc import read_volume
from halfmap.io.relion import read_particles
from halfmap.postprocessing.masks import automatic_mask
from halfmap.refinement import agreement

BETTER_THAN_ANGSTROM = 20.0
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
    truth, found = read_particles(made / "ground_truth.star"), read_particles(run / "particles.star")
    true = truth.take(truth.rows_of_uids(found.uid))
    reference = read_volume(made / "reference_class001.mrc")
    model = on_grid_of(read_volume(run / "initial_model.mrc"), reference)
    poses = (true["origin_angstrom"], found["rotation"], found["origin_angstrom"], symmetry)
    tried = []
    for is_mirrored in (False, True):
        rotation = HALF_TURN @ true["rotation"] if is_mirrored else true["rotation"]
        frame = agreement.fitted_frame(rotation, *poses)
        angle = median(agreement.pose_errors(frame, rotation, *poses).angle_degrees)
        tried.append((angle, is_mirrored, frame))
    angle, is_mirrored, frame = min(tried, key=lambda one: one[0])
    shown = agreement.in_frame(inverted(reference) if is_mirrored else reference, frame)
    mask, grid = automatic_mask(shown).values.double(), shown.grid
    curve = fsc(grid.rfft(model.values.double() * mask), grid.rfft(shown.values.double() * mask), grid)
    return Figures(
        truth_angstrom=resolution_at_threshold(curve, grid, 0.5), angle_degrees=angle, is_mirrored=is_mirrored
    )


def inverted(volume: Volume) -> Volume:
    """Return a map of even side inverted through its centre voxel, n // 2."""
    values = volume.values.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    return Volume(values=values, grid=volume.grid)


def run_halfmap(folder: Path, name: str, seed: int) -> tuple[Path, float]:
    """Make an initial model; return its folder and the CPU seconds that it took."""
    recipe, out = SETS[name], f"initial_{name}_{seed}"
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [
        *(HALFMAP, "initial-model", f"{name}/particles.star", "--out", out, "--symmetry", recipe.symmetry),
        *("--mask-diameter", f"{recipe.mask_diameter_angstrom:g}", "--seed", str(seed)),
    ]
    return folder / out, cpu_seconds(command, folder)


def row(name: str, label: str, found: Figures, spent: float) -> str:
    hand = "mirrored" if found.is_mirrored else "true"
    return f"| {name} | {label} | {found.truth_angstrom:.1f} | {found.angle_degrees:.1f} | {hand} | {spent:.0f} |"


def main() -> None:
    options = recovery_arguments(
        __doc__.splitlines()[0],
        sets=SETS,
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
            made, symmetry = make_set(folder, name), SETS[name].symmetry
            if options.only:
                print(row(name, options.only.name, figures(made, symmetry, options.only), np.nan))
                return
            for seed in options.seeds:
                run, spent = run_halfmap(folder, name, seed)
                reached.append(figures(made, symmetry, run))
                print(row(name, f"seed {seed}", reached[-1], spent), flush=True)
    good = sum(one.truth_angstrom < BETTER_THAN_ANGSTROM for one in reached)
    print(f"\n{good} of {len(reached)} are better than {BETTER_THAN_ANGSTROM:g} Å.")


if __name__ == "__main__":
    main()
