"""CPU seconds of 2D classification, ours against RELION's, in one run; and how ours grow.

    python benchmarks/class2d_speed.py [--particles 600] [--classes 10] [--iterations 25] [--no-relion]
    python benchmarks/class2d_speed.py --growth [--sizes 1000 2000 4000 8000] [--numbers 10 20 40] [--iterations 5]

The first: 600 particles of 96 px, 10 classes, 25 iterations of EM, in-plane angles of 6°, offsets of 1 px within
5 px, on two cores: two threads of `relion_refine` 3.1, two worker processes of ours, neither stopping early and without
the closing stage. User and system time of all processes, start-up and compilation included; quality of both from the
same run beside it, as in `class2d_recovery.py`. RELION 5 with its vectorised path is estimated to need 1 / 2.6 of 3.1.

The second: ours alone, with 1k to 8k particles of 64 px in 20 classes, and 2k particles in 10 to 40 classes. The
machine's sgemm is measured in both.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from class2d_recovery import HALFMAP, cpu_seconds, figures, read_run

from halfmap import keyed_random

SPECIMEN, SYMMETRIES, WIDTH_ANGSTROM, MASK_ANGSTROM = "betagal-like-d2-180", ("D2",), 240.0, 200.0
RELION_5_IS_FASTER = 2.6
GEMM_SIDE = 2048


def sgemm_gflops(threads: int, repeats: int = 7) -> float:
    """Return the best rate of a single-precision product of two matrices of 2048²."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.from_numpy(keyed_random.uniform(1, "gemm", [0, 1], size=(GEMM_SIDE, GEMM_SIDE))).float()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2e-9 * GEMM_SIDE**3 / best


def make_set(folder: Path, number: int, box: int) -> Path:
    made = folder / f"particles_{number}_{box}"
    (folder / ".halfmap").mkdir(exist_ok=True)  # a project of its own: paths in STAR files start here
    command = [HALFMAP, "simulate", "particles", "--specimen", SPECIMEN, "--number", str(number), "--box", str(box)]
    command += ["--pixel-size", f"{WIDTH_ANGSTROM / box:g}", "--snr", "0.1", "--no-float16", "--out", made.name]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return made


def halfmap_command(made: Path, out: str, classes: int, iterations: int, workers: int) -> list[str]:
    return [
        *(HALFMAP, "class2d", f"{made.name}/particles.star", "--out", out, "--classes", str(classes)),
        *("--algorithm", "em", "--iterations", str(iterations), "--no-stop-early", "--closing-passes", "0"),
        *("--mask-diameter", f"{MASK_ANGSTROM:g}", "--psi-step", "6", "--offset-range", "5px", "--offset-step", "1px"),
        *("--regularisation", "2", "--workers", str(workers), "--threads", "1"),
    ]


def relion_command(made: Path, out: str, classes: int, iterations: int, threads: int) -> list[str]:
    return [
        *("relion_refine", "--i", f"{made.name}/particles.star", "--o", f"{out}/run", "--K", str(classes)),
        *("--iter", str(iterations), "--ctf", "--tau2_fudge", "2", "--particle_diameter", f"{MASK_ANGSTROM:g}"),
        *("--psi_step", "12", "--offset_range", "5", "--offset_step", "2", "--oversampling", "1"),  # coarse steps
        *("--flatten_solvent", "--zero_mask", "--norm", "--scale", "--pad", "2", "--j", str(threads)),
        *("--random_seed", "1", "--dont_combine_weights_via_disc", "--preread_images"),
    ]


def against_relion(folder: Path, options: argparse.Namespace) -> None:
    made = make_set(folder, options.particles, options.box)
    run = (options.classes, options.iterations, options.cores)
    spent = cpu_seconds(halfmap_command(made, "halfmap", *run), folder)
    found = {"halfmap": figures(made, SYMMETRIES, *read_run(folder / "halfmap"), spent)}
    if options.relion:
        (folder / "relion").mkdir()
        spent = cpu_seconds(relion_command(made, "relion", *run), folder)
        found["RELION 3.1"] = figures(made, SYMMETRIES, *read_run(folder / "relion"), spent)
    print("\n| program | CPU s | views ° | in-plane ° | shift Å | mean FRC | effective classes |")
    print("|---|---|---|---|---|---|---|")
    for label, one in found.items():
        print(
            f"| {label} | {one.cpu_seconds:.1f} | {one.view_spread_degrees:.2f} | {one.in_plane_degrees:.2f} "
            f"| {one.shift_angstrom:.2f} | {one.mean_frc:.3f} | {one.effective_classes:.1f} |"
        )
    if "RELION 3.1" in found:
        theirs, ours = found["RELION 3.1"].cpu_seconds, found["halfmap"].cpu_seconds
        print(f"\nRELION 5, estimated: {theirs / RELION_5_IS_FASTER:.0f} CPU s.")
        print(f"RELION 3.1 / ours: {theirs / ours:.1f}; RELION 5 / ours: {theirs / RELION_5_IS_FASTER / ours:.1f}.")


def growth(folder: Path, options: argparse.Namespace) -> None:
    middle = sorted(options.numbers)[len(options.numbers) // 2]
    least = sorted(options.sizes)[min(1, len(options.sizes) - 1)]
    cases = [(size, middle) for size in options.sizes]
    cases += [(least, number) for number in options.numbers if number != middle]
    print("\n| particles | classes | CPU s | µs for a particle, class and iteration |")
    print("|---|---|---|---|")
    made = {size: make_set(folder, size, 64) for size in options.sizes}
    for size, classes in cases:
        out = f"grown_{size}_{classes}"
        spent = cpu_seconds(halfmap_command(made[size], out, classes, options.iterations, options.cores), folder)
        each = 1e6 * spent / (size * classes * options.iterations)
        print(f"| {size} | {classes} | {spent:.1f} | {each:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--box", type=int, default=96)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--relion", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--growth", action="store_true", help="ours alone, with growing numbers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--numbers", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--folder", help="where to work; a folder in memory keeps the disk's moods out of it")
    options = parser.parse_args()
    if options.relion and not options.growth and shutil.which("relion_refine") is None:
        raise SystemExit("RELION is not installed: apt-get install relion, or --no-relion")
    cores = len(os.sched_getaffinity(0))
    print(f"sgemm of {GEMM_SIDE}³: {sgemm_gflops(1):.0f} GFLOP/s on one core, {sgemm_gflops(cores):.0f} on {cores}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        (growth if options.growth else against_relion)(Path(name), options)


if __name__ == "__main__":
    main()
