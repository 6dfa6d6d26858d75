"""2D classification against ground truth, ours and RELION's, on simulated particles.

    python benchmarks/class2d_recovery.py [--sets betagal-0.2 …] [--seeds 1 2 3] [--folder FOLDER]
    python benchmarks/class2d_recovery.py --folder FOLDER --sets mixture --only RUN    figures of a folder, of either
    python benchmarks/class2d_recovery.py --relion     run RELION too, hours on one core, and write its figures down

Three sets of 2,000 particles, 64 px of 3.54 Å, offsets of σ 3 px along each axis, defocus 1 to 2.5 µm, mildly
coloured noise: β-galactosidase at SNR 0.2 and at 0.1, and a mixture of it with a barrel of the same width and 20 %
junk at 0.15. Both programs get the same particles, 20 classes, in-plane angles of 6°, offsets of 1 px within 5 px,
and 25 iterations of EM.

Figures are over all particles: one in a class of another structure or of junk counts as infinitely wrong in the
medians. Views: median angle to the mean view of the class. In-plane, shift: median error against the consensus of
the class. FRC: of averages with the nearest true projection, over classes of a structure: the mean up to
10 Å, weighted by particles and with equal weights, and where the weighted mean curve falls below 0.5. An average holds
nothing beyond the band that its program used, so that counts too. RELION's figures are kept, with the command
that gave them, in `class2d_recovery_relion.json`.
"""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from recovery_arguments import recovery_arguments

from halfmap.classification import agreement
from halfmap.classification.agreement import JUNK, Truth
from halfmap.classification.nearest_projection import nearest_projections
from halfmap.data.particles import ParticleSet
from halfmap.fourier.shells import resolution_at_threshold
from halfmap.grid import ImageGrid
from halfmap.io.mrc import map_data, read_volume
from halfmap.io.relion import read_particles

HALFMAP = str(Path(sys.executable).with_name("halfmap"))
BETAGAL = Path(__file__).parents[2] / "shared" / "data" / "maps" / "betagal_3.54A.mrc"
KEPT = Path(__file__).with_name("class2d_recovery_relion.json")
PIXEL_ANGSTROM, BOX_PIXEL, N_PARTICLES, DATA_SEED = 3.54, 64, 2000, 1
CLASSES, ITERATIONS, MASK_ANGSTROM, FINEST_ANGSTROM = 20, 25, 200.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a set shows; specimens come before the map."""

    specimens: tuple[str, ...] = ()
    symmetries: tuple[str, ...] = ("D2",)
    snr: float
    junk: float = 0.0


SETS = {
    "betagal-0.2": Recipe(snr=0.2),
    "betagal-0.1": Recipe(snr=0.1),
    "mixture": Recipe(specimens=("groel-like-d7-190",), symmetries=("D7", "D2"), snr=0.15, junk=0.2),
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a classification of a set achieved; see the head of this file."""

    view_spread_degrees: float
    in_plane_degrees: float
    shift_angstrom: float
    mean_frc: float
    mean_frc_of_classes: float
    resolution_angstrom: float
    purity: float
    effective_classes: float
    occupied_classes: int
    junk_f1: float = float("nan")
    junk_area_under_curve: float = float("nan")
    cpu_seconds: float = float("nan")

    def known(self) -> dict[str, float]:
        """Return those that are numbers."""
        return {key: value for key, value in asdict(self).items() if not np.isnan(value)}


COLUMNS = {
    "view_spread_degrees": ("views °", ".2f", min),
    "in_plane_degrees": ("in-plane °", ".2f", min),
    "shift_angstrom": ("shift Å", ".2f", min),
    "mean_frc": ("mean FRC", ".3f", max),
    "mean_frc_of_classes": ("of classes", ".3f", max),
    "resolution_angstrom": ("FRC 0.5 at Å", ".2f", min),
    "purity": ("purity", ".3f", max),
    "junk_f1": ("junk F1", ".3f", max),
    "junk_area_under_curve": ("junk AUC", ".3f", max),
    "effective_classes": ("effective classes", ".1f", None),
    "occupied_classes": ("occupied", "d", None),
    "cpu_seconds": ("CPU s", ".0f", None),
}


def make_set(folder: Path, name: str) -> Path:
    """Simulate a set, unless the folder holds it."""
    recipe, made = SETS[name], folder / name
    (folder / ".halfmap").mkdir(exist_ok=True)  # a project of its own: paths in STAR files start here
    if not (made / "SUCCESS").exists():
        command = [HALFMAP, "simulate", "particles", "--map", str(BETAGAL), "--out", name, "--no-float16"]
        for specimen in recipe.specimens:
            command += ["--specimen", specimen]
        for flag, value in (
            ("--number", N_PARTICLES), ("--box", BOX_PIXEL), ("--pixel-size", PIXEL_ANGSTROM), ("--seed", DATA_SEED),
            ("--shift-sigma", 3 * PIXEL_ANGSTROM), ("--snr", recipe.snr), ("--junk-fraction", recipe.junk),
        ):  # fmt: skip
            command += [flag, str(value)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return made


def read_truth(made: Path, symmetries: tuple[str, ...]) -> tuple[Truth, ParticleSet]:
    particles = read_particles(made / "ground_truth.star")
    is_junk = particles["halfmapIsJunk"].astype(str) == "1"
    truth = Truth(
        structure=np.where(is_junk, JUNK, particles["class_number"]),
        rotation=particles["rotation"],
        origin_angstrom=particles["origin_angstrom"],
        symmetries=symmetries,
    )
    return truth, particles


def read_run(run: Path) -> tuple[ParticleSet, torch.Tensor]:
    """Return the particles and averages of the last iteration in the folder of a run, ours or RELION's."""
    data = max(run.glob("run_it*_data.star"), key=lambda path: int(re.findall(r"it(\d+)", path.name)[-1]))
    averages = map_data(str(data).replace("_data.star", "_classes.mrcs"))
    return read_particles(data), torch.from_numpy(np.array(averages, dtype=np.float32))


def figures(
    made: Path,
    symmetries: tuple[str, ...],
    found: ParticleSet,
    averages: torch.Tensor,
    cpu_seconds: float = float("nan"),
) -> Figures:
    """Return the figures of a classification of a simulated set."""
    truth, particles = read_truth(made, symmetries)
    rows = particles.rows_of_uids(found.uid)
    numbers = np.zeros(len(particles), dtype=np.int64)
    rotation, origin = np.tile(np.eye(3), (len(particles), 1, 1)), np.zeros((len(particles), 2))
    numbers[rows], rotation[rows], origin[rows] = found["class_number"], found["rotation"], found["origin_angstrom"]
    poses = agreement.pose_errors(truth, numbers, rotation, origin)
    junk = agreement.junk_separation(truth, numbers)
    occupied, sizes = np.unique(numbers[numbers > 0], return_counts=True)
    maps = [read_volume(path) for path in sorted(made.glob("reference_class*.mrc"))]
    grid = ImageGrid.square(maps[0].grid.side, maps[0].grid.pixel_size_angstrom)
    # averages of structures with their true projections, weighted by particles
    shown = [number for number, structure in agreement.majority(truth, numbers).items() if structure != JUNK]
    nearest = nearest_projections(
        averages[np.array(shown) - 1],
        grid,
        maps,
        symmetries=symmetries,
        mask_diameter_angstrom=MASK_ANGSTROM,
        finest_angstrom=FINEST_ANGSTROM,
    )
    weight = np.array([np.sum(numbers == number) for number in shown]) / np.isin(numbers, shown).sum()
    curve = torch.from_numpy(weight @ np.nan_to_num(nearest.frc))
    return Figures(
        view_spread_degrees=median(agreement.view_spread_degrees(truth, numbers)),
        in_plane_degrees=median(poses.in_plane_degrees),
        shift_angstrom=median(poses.shift_angstrom),
        mean_frc=float(weight @ np.nan_to_num(nearest.mean_frc)),
        mean_frc_of_classes=float(np.nan_to_num(nearest.mean_frc).mean()),
        resolution_angstrom=resolution_at_threshold(curve, grid, 0.5),
        purity=agreement.purity(truth, numbers),
        junk_f1=junk.f1 if (truth.structure == JUNK).any() else float("nan"),
        junk_area_under_curve=junk.area_under_curve,
        effective_classes=agreement.effective_number(sizes),
        occupied_classes=len(occupied),
        cpu_seconds=cpu_seconds,
    )


def median(errors: np.ndarray) -> float:
    return float(np.median(errors[~np.isnan(errors)]))


def perfect_spread(made: Path, name: str) -> float:
    truth, _ = read_truth(made, SETS[name].symmetries)
    return median(agreement.view_spread_degrees(truth, agreement.partition_of_views(truth, CLASSES)))


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Run a command and return user and system time of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_halfmap(folder: Path, name: str, seed: int, extra: list[str]) -> Figures:
    out = f"halfmap_{name}_{seed}"
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [
        *(HALFMAP, "class2d", f"{name}/particles.star", "--out", out, "--classes", str(CLASSES), "--algorithm", "em"),
        *(
            "--iterations",
            str(ITERATIONS),
            "--mask-diameter",
            str(MASK_ANGSTROM),
            "--psi-step",
            "6",
            "--seed",
            str(seed),
        ),
        *("--offset-range", "5px", "--offset-step", "1px", "--regularisation", "2", *extra),
    ]
    spent = cpu_seconds(command, folder)
    return figures(folder / name, SETS[name].symmetries, *read_run(folder / out), spent)


def relion_command(name: str) -> list[str]:
    return [
        *("relion_refine", "--i", f"{name}/particles.star", "--o", f"relion_{name}/run", "--K", str(CLASSES)),
        *("--iter", str(ITERATIONS), "--ctf", "--tau2_fudge", "2", "--particle_diameter", f"{MASK_ANGSTROM:g}"),
        *("--psi_step", "12", "--offset_range", "5", "--offset_step", "2", "--oversampling", "1"),  # coarse steps
        *("--flatten_solvent", "--zero_mask", "--norm", "--scale", "--pad", "2", "--j", "1", "--random_seed", "1"),
        *("--dont_combine_weights_via_disc", "--preread_images"),
    ]


def run_relion(folder: Path, name: str) -> None:
    """Run RELION unless its folder is complete, and write its figures down."""
    out = folder / f"relion_{name}"
    if not (out / "cpu_seconds").exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "cpu_seconds").write_text(f"{cpu_seconds(relion_command(name), folder):.0f}\n")
    spent = float((out / "cpu_seconds").read_text())
    version = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=True).stdout
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[name] = {
        "program": f"relion_refine {version.splitlines()[0].split()[-1]}",
        "command": shlex.join(relion_command(name)),
        "data": {**asdict(SETS[name]), "particles": N_PARTICLES, "seed": DATA_SEED},
        "figures": figures(folder / name, SETS[name].symmetries, *read_run(out), spent).known(),
    }
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")


def row(label: str, found: Figures) -> str:
    values = [format(getattr(found, key), how) for key, (_, how, _) in COLUMNS.items()]
    return f"| {label} | {' | '.join(values)} |"


def verdict(ours: list[Figures], theirs: Figures) -> str:
    """Return in which figures the median of our seeds is at least as good."""
    marks = []
    for key, (_, _, better) in COLUMNS.items():
        mine, other = float(np.median([getattr(one, key) for one in ours])), float(getattr(theirs, key))
        if key == "effective_classes":
            marks.append("yes" if mine >= 0.8 * other else "no")
        elif better is None or np.isnan(other):
            marks.append("")
        else:
            marks.append("yes" if mine == better(mine, other) else "no")
    return f"| median as good | {' | '.join(marks)} |"


def main() -> None:
    options = recovery_arguments(
        __doc__.splitlines()[0],
        sets=SETS,
        default_sets=SETS,
        default_seeds=(1, 2, 3),
        relion_program="relion_refine",
    )
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.sets:
            made = make_set(folder, name)
            print(
                f"\n{name}: a perfect partition into {CLASSES} classes spreads over {perfect_spread(made, name):.2f}°\n"
            )
            print(f"| run | {' | '.join(head for head, _, _ in COLUMNS.values())} |")
            print(f"|---|{'---|' * len(COLUMNS)}", flush=True)
            if options.only:
                print(row(options.only.name, figures(made, SETS[name].symmetries, *read_run(options.only))))
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
                    print(verdict(ours, theirs))


if __name__ == "__main__":
    main()
