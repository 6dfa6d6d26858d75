"""CPU seconds and memory of 3D refinement as boxes and sets grow.

    python benchmarks/refine3d_growth.py [--boxes 48 64 96 128] [--numbers 500 1000 2000] [--folder FOLDER]

β-galactosidase-like particles of D2 (SNR 0.12), 240 Å of field in all boxes, refined to the end from the true map
low-passed at 60 Å, in two workers of one thread: 500 particles in each box, then more of them in the second box.
Seconds are user and system time of all processes of the command, before and after the iterations too. Memory is what
all processes together hold for themselves, sampled every 50 ms; beside it what the job said beforehand that it would
need at most.
"""

import argparse
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path

from class2d_memory import peak_mebibytes
from class2d_recovery import HALFMAP

SPECIMEN, WIDTH_ANGSTROM, MASK_ANGSTROM, WORKERS = "betagal-like-d2-180", 240.0, 200.0, 2
UNITS = {"KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


def make_set(folder: Path, number: int, box: int) -> str:
    name = f"particles_{number}_{box}"
    (folder / ".halfmap").mkdir(exist_ok=True)  # a project of its own: paths in STAR files start here
    command = [HALFMAP, "simulate", "particles", "--specimen", SPECIMEN, "--number", str(number), "--box", str(box)]
    command += ["--pixel-size", f"{WIDTH_ANGSTROM / box:g}", "--snr", "0.12", "--out", name]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return name


def refine_command(name: str, out: str) -> list[str]:
    return [
        *(HALFMAP, "refine3d", f"{name}/particles.star", "--reference", f"{name}/reference_class001.mrc"),
        *("--symmetry", "D2", "--mask-diameter", f"{MASK_ANGSTROM:g}", "--initial-low-pass", "60", "--out", out),
        *("--no-local-resolution", "--workers", str(WORKERS), "--threads", "1"),
    ]


def seconds_of_children() -> float:
    """Return user and system time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def told_mebibytes(log: str) -> float:
    """Return the most memory that a job said it needs: its main process and its workers together."""
    told = re.findall(r"Needs at most ([\d.]+) (\w+) of memory for (the program|comparing)", log)
    return sum(float(number) * UNITS[unit] for number, unit, _ in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, nargs="+", default=[48, 64, 96, 128])
    parser.add_argument("--numbers", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--folder", help="where to work")
    options = parser.parse_args()
    runs = [(options.numbers[0], box) for box in options.boxes]
    runs += [(number, options.boxes[1]) for number in options.numbers[1:]]
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| particles | box, px | iterations | CPU s | per particle and iteration, ms | memory, MiB | told, MiB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        for number, box in runs:
            name = make_set(folder, number, box)
            before = seconds_of_children()
            own, _, _ = peak_mebibytes(refine_command(name, f"run_{name}"), folder)
            spent = seconds_of_children() - before
            log = (folder / f"run_{name}" / "run.log").read_text()
            iterations = len(re.findall(r"Auto: iteration", log))
            print(
                f"| {number:,} | {box} | {iterations} | {spent:.1f} | {1e3 * spent / iterations / number:.1f} "
                f"| {own:.0f} | {told_mebibytes(log):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
