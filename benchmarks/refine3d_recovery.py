"""3D refinement against ground truth, ours and RELION's, on simulated particles.

    python benchmarks/refine3d_recovery.py [--sets betagal-800 …] [--seeds 1 2 3] [--folder FOLDER]
    python benchmarks/refine3d_recovery.py --folder FOLDER --sets ribosome-600 --only RUN    figures of a folder
    python benchmarks/refine3d_recovery.py --relion    run RELION too, hours on two cores, and write its figures down

β-galactosidase (D2, 72 px of 3.54 Å, SNR 0.12), apoferritin (O, 96 px of 1.8 Å, SNR 0.12) and a ribosome (C1, 96 px of
3.5 Å, SNR 0.25), the number of particles after the name; offsets of σ 7 Å along each axis, defocus 1 to 2.5 µm,
coloured noise. Both programs begin with the true map low-passed at 60 Å, and use the same circular mask.

A refinement may turn and move the particle; both are fitted to the poses (`halfmap.refinement.agreement`). Where the
low-passed reference has no hand, it may end in the mirror image, which is told and compared as such. Angle and
shift are median errors over all particles, angles the smallest over the symmetry. Half-maps: where their FSC falls
below 0.143, unmasked, and corrected for a mask that is made from the truth. Truth: where the FSC of the mean of the
unfiltered half-maps with the truth, in that mask, falls below 0.5. Promise: |√(2F / (1 + F)) − FSC with the truth|,
mean and largest over the shells beyond the join where the latter is between 0.95 and 0.3, F the corrected FSC. CPU:
user and system time of all processes of the whole command, ours with post-processing but without local resolution; of
RELION's three processes the two that work, since the leader only waits for them. RELION's figures are kept, with the
command that gave them, in `refine3d_recovery_relion.json`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from class2d_recovery import HALFMAP, cpu_seconds, median
from recovery_arguments import recovery_arguments

from halfmap.data.volumes import Volume
from halfmap.io.mrc import read_volume
from halfmap.io.relion import read_particles
from halfmap.postprocessing.half_map_fsc import resolution_angstrom
from halfmap.postprocessing.masks import automatic_mask
from halfmap.refinement import agreement

SHARED = Path(__file__).parents[2] / "shared" / "data"
KEPT = Path(__file__).with_name("refine3d_recovery_relion.json")
DATA_SEED, SHIFT_ANGSTROM, LOW_PASS_ANGSTROM, JOIN_ANGSTROM = 1, 7.0, 60.0, 40.0
HALF_TURN = np.diag([-1.0, -1.0, 1.0])
"""V(−x) seen from this times A shows what V shows from A."""
TIMED_RANK = (
    'TIMEFORMAT="rank $OMPI_COMM_WORLD_RANK CPU %U %S"; time "$@"'  # bash's own time, one line for each process
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a set shows, and how it is refined."""

    source: tuple[str, str]
    symmetry: str
    number: int
    box_pixel: int
    pixel_size_angstrom: float
    snr: float
    mask_diameter_angstrom: float


def betagal(number: int) -> Recipe:
    return Recipe(
        source=("--map", "maps/betagal_sharpened_72.mrc"),
        symmetry="D2",
        number=number,
        box_pixel=72,
        pixel_size_angstrom=3.54,
        snr=0.12,
        mask_diameter_angstrom=200,
    )


def ribosome(number: int) -> Recipe:
    return Recipe(
        source=("--map", "maps/ribosome70s_4v5a_96.mrc"),
        symmetry="C1",
        number=number,
        box_pixel=96,
        pixel_size_angstrom=3.5,
        snr=0.25,
        mask_diameter_angstrom=300,
    )


SETS = {
    "betagal-800": betagal(800),
    "betagal-2000": betagal(2000),
    "apoferritin-1000": Recipe(
        source=("--model", "models/apoferritin_24mer_centred.pdb"),
        symmetry="O",
        number=1000,
        box_pixel=96,
        pixel_size_angstrom=1.8,
        snr=0.12,
        mask_diameter_angstrom=160,
    ),
    "ribosome-600": ribosome(600),
    "ribosome-3000": ribosome(3000),
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a refinement of a set achieved; see the head of this file."""

    angle_degrees: float
    shift_angstrom: float
    unmasked_angstrom: float
    corrected_angstrom: float
    truth_angstrom: float
    promise_mean: float
    promise_largest: float
    iterations: int
    cpu_seconds: float = float("nan")
    hand: str = "true"


COLUMNS = {
    "angle_degrees": ("angle °", ".2f"),
    "shift_angstrom": ("shift Å", ".2f"),
    "unmasked_angstrom": ("FSC 0.143 unmasked Å", ".2f"),
    "corrected_angstrom": ("in the mask Å", ".2f"),
    "truth_angstrom": ("truth 0.5 at Å", ".2f"),
    "promise_mean": ("promise, mean", ".3f"),
    "promise_largest": ("largest", ".3f"),
    "iterations": ("iterations", "d"),
    "cpu_seconds": ("CPU s", ".0f"),
    "hand": ("hand", "s"),
}


def make_set(folder: Path, name: str, recipe: Recipe, data_seed: int = DATA_SEED) -> Path:
    """Simulate a set, unless the folder holds it."""
    made = folder / name
    (folder / ".halfmap").mkdir(exist_ok=True)  # a project of its own: paths in STAR files start here
    if not (made / "SUCCESS").exists():
        flag, file = recipe.source
        command = [HALFMAP, "simulate", "particles", flag, str(SHARED / file), "--out", name, "--no-float16"]
        for flag, value in (
            ("--number", recipe.number), ("--box", recipe.box_pixel), ("--pixel-size", recipe.pixel_size_angstrom),
            ("--snr", recipe.snr), ("--shift-sigma", SHIFT_ANGSTROM), ("--seed", data_seed),
        ):  # fmt: skip
            command += [flag, str(value)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return made


def compared(made: Path, symmetry: str, run: Path) -> tuple[str, agreement.PoseErrors, agreement.MapAgreement]:
    """Return the hand of a refinement of a simulated set, ours or RELION's, and how far poses and maps are right."""
    truth, found = read_particles(made / "ground_truth.star"), read_particles(run / "run_data.star")
    true = truth.take(truth.rows_of_uids(found.uid))
    halves = [read_volume(run / f"run_half{h}_class001_unfil.mrc") for h in (1, 2)]
    attempts = {}
    for hand, turn in (("true", np.eye(3)), ("mirrored", HALF_TURN)):
        poses = (
            true["rotation"],
            true["origin_angstrom"],
            turn @ found["rotation"],
            found["origin_angstrom"],
            symmetry,
        )
        frame = agreement.fitted_frame(*poses)
        attempts[hand] = (agreement.pose_errors(frame, *poses), frame)
    hand = min(attempts, key=lambda one: median(attempts[one][0].angle_degrees))
    errors, frame = attempts[hand]
    reference = agreement.in_frame(read_volume(made / "reference_class001.mrc"), frame)
    if hand == "mirrored":
        halves = [inverted(half) for half in halves]
    first, second = (on_grid_of(half, reference) for half in halves)
    maps = agreement.map_agreement(
        first, second, reference, automatic_mask(reference), join_resolution_angstrom=JOIN_ANGSTROM
    )
    return hand, errors, maps


def figures(made: Path, symmetry: str, run: Path, spent: float = float("nan")) -> Figures:
    """Return the figures of a refinement of a simulated set, ours or RELION's."""
    hand, errors, maps = compared(made, symmetry, run)
    mean, largest = maps.calibration
    return Figures(
        angle_degrees=median(errors.angle_degrees),
        shift_angstrom=median(errors.shift_angstrom),
        unmasked_angstrom=resolution_angstrom(maps.halves.unmasked, maps.halves.grid),
        corrected_angstrom=maps.halves.resolution_angstrom,
        truth_angstrom=maps.resolution_angstrom,
        promise_mean=mean,
        promise_largest=largest,
        iterations=max(int(re.findall(r"it(\d+)", path.name)[-1]) for path in run.glob("run_it*_data.star")),
        cpu_seconds=spent,
        hand=hand,
    )


def inverted(volume: Volume) -> Volume:
    """Return V(−x) about the centre voxel."""
    axes = (0, 1, 2)
    even = tuple(1 - side % 2 for side in volume.grid.shape)
    return Volume(values=volume.values.flip(axes).roll(even, axes), grid=volume.grid)


def on_grid_of(volume: Volume, like: Volume) -> Volume:
    """Return a map whose header rounds its pixel size with the pixel size of another; its box must be the same."""
    if not np.isclose(volume.grid.pixel_size_angstrom, like.grid.pixel_size_angstrom, rtol=1e-3):
        raise SystemExit(f"The maps of a run must have pixels of {like.grid.pixel_size_angstrom} Å; got {volume.grid}.")
    return Volume(values=volume.values, grid=like.grid)


def run_halfmap(folder: Path, name: str, seed: int, extra: list[str]) -> Figures:
    recipe, out = SETS[name], f"halfmap_{name}_{seed}"
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [
        *(HALFMAP, "refine3d", f"{name}/particles.star", "--out", out, "--symmetry", recipe.symmetry),
        *("--reference", f"{name}/reference_class001.mrc", "--initial-low-pass", f"{LOW_PASS_ANGSTROM:g}"),
        *("--mask-diameter", f"{recipe.mask_diameter_angstrom:g}", "--seed", str(seed), "--no-local-resolution"),
        *extra,
    ]
    spent = cpu_seconds(command, folder)
    return figures(folder / name, recipe.symmetry, folder / out, spent)


def relion_command(name: str) -> list[str]:
    recipe = SETS[name]
    return [
        *("relion_refine_mpi", "--i", f"{name}/particles.star", "--o", f"{name}-relion/run", "--auto_refine"),
        *("--split_random_halves", "--ref", f"{name}/reference_class001.mrc", "--ini_high", f"{LOW_PASS_ANGSTROM:g}"),
        *("--firstiter_cc", "--ctf", "--particle_diameter", f"{recipe.mask_diameter_angstrom:g}"),
        *("--sym", recipe.symmetry, "--healpix_order", "2", "--auto_local_healpix_order", "4"),
        *("--offset_range", "5", "--offset_step", "2", "--oversampling", "1", "--flatten_solvent", "--zero_mask"),
        *("--norm", "--scale", "--pad", "2", "--low_resol_join_halves", f"{JOIN_ANGSTROM:g}", "--random_seed", "1"),
        *("--j", "1", "--dont_combine_weights_via_disc", "--preread_images"),
    ]


def relion_seconds(log: str) -> float:
    """Return the CPU time of the ranks that work from the lines that `TIMED_RANK` has left."""
    ranks = {int(rank): float(u) + float(s) for rank, u, s in re.findall(r"rank (\d) CPU ([\d.]+) ([\d.]+)", log)}
    return ranks[1] + ranks[2]


def run_relion(folder: Path, name: str) -> None:
    """Run RELION unless its log says that it ended, and write its figures down."""
    out, log = folder / f"{name}-relion", folder / f"{name}-relion.log"
    if not log.exists() or "rank 2 CPU" not in log.read_text():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        mpi = ["mpirun", "-n", "3", "--allow-run-as-root", "--oversubscribe", "bash", "-c", TIMED_RANK, "relion"]
        with log.open("w") as lines:
            subprocess.run(
                [*mpi, *relion_command(name)], cwd=folder, check=True, stdout=lines, stderr=subprocess.STDOUT
            )
    version = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=True).stdout
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[name] = {
        "program": f"relion_refine_mpi {version.splitlines()[0].split()[-1]}",
        "command": shlex.join(["mpirun", "-n", "3", *relion_command(name)]),
        "cpu_seconds": "user and system time of ranks 1 and 2, which work; rank 0 leads and only waits",
        "data": {**asdict(SETS[name]), "shift_sigma_angstrom": SHIFT_ANGSTROM, "seed": DATA_SEED},
        "figures": asdict(figures(folder / name, SETS[name].symmetry, out, relion_seconds(log.read_text()))),
    }
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")


def row(label: str, found: Figures) -> str:
    values = [format(getattr(found, key), how) for key, (_, how) in COLUMNS.items()]
    return f"| {label} | {' | '.join(values)} |"


def verdict(ours: list[Figures], theirs: Figures, recipe: Recipe) -> str:
    """Return how the median of our seeds stands against RELION: shells of resolution, angle, time."""
    field = recipe.box_pixel * recipe.pixel_size_angstrom

    def middle(key: str) -> float:
        return float(np.median([getattr(one, key) for one in ours]))

    gained = field / middle("corrected_angstrom") - field / theirs.corrected_angstrom
    angle = middle("angle_degrees") / theirs.angle_degrees
    faster = theirs.cpu_seconds / middle("cpu_seconds")
    return (
        f"\nOur resolution in the mask is {gained:+.1f} shells finer, our angular error {angle:.2f} times that of "
        f"RELION 3.1, which takes {faster:.1f} times our CPU time, RELION 5 by estimate {faster / 2.6:.1f} times."
    )


def main() -> None:
    options = recovery_arguments(
        __doc__.splitlines()[0],
        sets=SETS,
        default_sets=SETS,
        default_seeds=(1,),
        relion_program="relion_refine_mpi",
    )
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.sets:
            recipe = SETS[name]
            made = make_set(folder, name, recipe)
            print(f"\n{name}\n\n| run | {' | '.join(head for head, _ in COLUMNS.values())} |")
            print(f"|---|{'---|' * len(COLUMNS)}", flush=True)
            if options.only:
                print(row(options.only.name, figures(made, recipe.symmetry, options.only)))
                return
            if options.relion:
                run_relion(folder, name)
            ours = []
            for seed in options.seeds:
                ours.append(run_halfmap(folder, name, seed, shlex.split(options.extra)))
                print(row(f"halfmap, seed {seed}", ours[-1]), flush=True)
            kept = json.loads(KEPT.read_text()).get(name) if KEPT.exists() else None
            if kept:
                theirs = Figures(**kept["figures"])
                print(row("RELION 3.1", theirs))
                if ours:
                    print(verdict(ours, theirs, recipe))


if __name__ == "__main__":
    main()
