"""3D classification of a mixture whose truth is known, ours and RELION's, in one run.

    python benchmarks/class3d_purity.py [--snr 0.2 0.1 0.05] [--number 600] [--seeds 1 2 3] [--no-relion]

β-galactosidase, and the same without a quarter of it, half of the particles each: 48 px of 5.31 Å, defocus 1 to
2.5 µm, coloured noise. The poses are known, as after a refinement, and kept (`--skip-alignment`, `--skip_align`); two
classes begin from the one whole map, low-passed to 60 Å; 25 iterations at most, T = 4. Right: the share of particles
in the class of their structure, classes named as fits best; chance is 0.5. Larger: the share of the larger class. CPU:
user and system time of the whole command, in one process of one thread.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from class2d_recovery import HALFMAP, cpu_seconds
from scipy.optimize import linear_sum_assignment

from halfmap.data.volumes import Volume
from halfmap.geometry.shapes import raised_cosine_edge
from halfmap.io.mrc import read_volume, write_volume
from halfmap.io.relion import read_particles, write_particles

BETAGAL = Path(__file__).parents[2] / "shared" / "data" / "maps" / "betagal_sharpened_72.mrc"
BOX_PIXEL, PIXEL_ANGSTROM, MASK_ANGSTROM, ITERATIONS, DATA_SEED = 48, 5.31, 200.0, 25, 1
EDGE_ANGSTROM = 8.0


def write_maps(folder: Path) -> None:
    """Write the particle, and the particle without the quarter at positive x and y."""
    whole = read_volume(BETAGAL)
    x, y, _ = whole.grid.positions(dtype=torch.float32).unbind(-1)
    kept = raised_cosine_edge(torch.minimum(x, y), EDGE_ANGSTROM)
    write_volume(folder / "whole.mrc", whole)
    write_volume(folder / "part.mrc", Volume(values=whole.values * kept, grid=whole.grid))


def make_set(
    folder: Path, number: int, snr: float, *, kind: str = "mixture", second: str = "part"
) -> tuple[str, np.ndarray]:
    """Simulate a mixture of two maps; return its name, which begins with its kind, and the structure of each particle.

    The table has poses, but no classes.
    """
    name = f"{kind}_{number}_{snr:g}"
    command = [HALFMAP, "simulate", "particles", "--map", "whole.mrc", "--map", f"{second}.mrc", "--out", name]
    for flag, value in (
        ("--number", number), ("--box", BOX_PIXEL), ("--pixel-size", PIXEL_ANGSTROM), ("--snr", snr),
        ("--seed", DATA_SEED),
    ):  # fmt: skip
        command += [flag, str(value)]
    subprocess.run([*command, "--no-float16"], cwd=folder, check=True, capture_output=True)
    truth = read_particles(folder / name / "ground_truth.star")
    write_particles(folder / f"{name}.star", truth.without_columns("class_number"))
    return name, np.asarray(truth["class_number"])


def halfmap_command(name: str, out: str, seed: int) -> list[str]:
    return [
        *(
            HALFMAP,
            "class3d",
            f"{name}.star",
            "--reference",
            f"{name}/reference_class001.mrc",
            "--classes",
            "2",
            "--skip-alignment",
        ),
        *("--mask-diameter", f"{MASK_ANGSTROM:g}", "--iterations", str(ITERATIONS), "--seed", str(seed)),
        *("--out", out, "--workers", "1", "--threads", "1"),
    ]


def relion_command(name: str, out: str, seed: int) -> list[str]:
    return [
        *(
            "relion_refine",
            "--i",
            f"{name}.star",
            "--o",
            f"{out}/run",
            "--ref",
            f"{name}/reference_class001.mrc",
            "--K",
            "2",
        ),
        *("--ini_high", "60", "--firstiter_cc", "--iter", str(ITERATIONS), "--tau2_fudge", "4", "--skip_align"),
        *("--particle_diameter", f"{MASK_ANGSTROM:g}", "--sym", "C1", "--ctf", "--norm", "--scale", "--pad", "2"),
        *("--flatten_solvent", "--zero_mask", "--oversampling", "0", "--random_seed", str(seed), "--j", "1"),
        *("--dont_combine_weights_via_disc", "--preread_images"),
    ]


def shares(data: Path, structure: np.ndarray, made: Path) -> tuple[float, float]:
    """Return the share of particles in their structure's class, and that of the larger class."""
    truth, found = read_particles(made / "ground_truth.star"), read_particles(data)
    true = structure[truth.rows_of_uids(found.uid)]
    table = np.zeros((2, 2))
    np.add.at(table, (np.asarray(found["class_number"]) - 1, true - true.min()), 1)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / table.sum()), float(table.sum(1).max() / table.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snr", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    parser.add_argument("--number", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--relion", action=argparse.BooleanOptionalAction, default=True, help="run RELION too")
    parser.add_argument("--folder", help="where to work")
    options = parser.parse_args()
    programs = {"halfmap": halfmap_command}
    if options.relion:
        if shutil.which("relion_refine") is None:
            parser.error("RELION is not installed: apt-get install relion")
        programs["RELION"] = relion_command
    print("| SNR | program | seed | right | larger | iterations | CPU s |\n|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        (folder / ".halfmap").mkdir()  # a project of its own: paths in STAR files start here
        write_maps(folder)
        for snr in options.snr:
            name, structure = make_set(folder, options.number, snr)
            for program, command in programs.items():
                for seed in options.seeds:
                    out = f"{program}_{name}_{seed}"
                    if program == "RELION":
                        (folder / out).mkdir()
                    spent = cpu_seconds(command(name, out, seed), folder)
                    data = max((folder / out).glob("run_it*_data.star"))
                    right, larger = shares(data, structure, folder / name)
                    iterations = int(data.name[6:9])
                    print(
                        f"| {snr:g} | {program} | {seed} | {right:.3f} | {larger:.2f} | {iterations} | {spent:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
