"""Peak memory of 2D classification: it must not grow with the stack, which is mapped and never held.

    python benchmarks/class2d_memory.py [--particles 10000 100000] [--side 64] [--classes 4] [--folder FOLDER]

Writes a stack of half precision by repeating 2,000 noisy images, and classifies it: once by EM with one iteration, once
by VDAM with three mini-batches, the last of which holds all particles; without closing stage, with coarse steps, on one
worker of one thread. Memory is what the command's processes together hold for themselves, sampled every 50 ms: pages
of mapped files, which the system gives up when memory is short, are not counted; what they come to is printed beside
it, with the size of the stack.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from halfmap import keyed_random
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.grid import ImageGrid
from halfmap.io.mrc import StackWriter
from halfmap.io.relion import write_particles

HALFMAP = str(Path(sys.executable).with_name("halfmap"))
PIXEL_ANGSTROM, DISTINCT = 3.5, 2000
RUNS = {"em": ("--iterations", "1"), "vdam": ("--minibatches", "3")}


def write_project(folder: Path, n: int, side: int) -> Path:
    """Write a stack and its table; return the stack."""
    (folder / ".halfmap").mkdir(exist_ok=True)
    y, x = np.mgrid[:side, :side] - side // 2
    ring = np.exp(-((np.hypot(x, y) - side / 4) ** 2) / 8) * (1 + 0.5 * np.cos(3 * np.arctan2(y, x)))
    noise = keyed_random.normal(1, "noise", np.arange(DISTINCT), size=(side, side))
    images = (noise + 0.7 * ring).astype(np.float32)
    stack = folder / "particles.mrcs"
    with StackWriter(stack, ImageGrid.square(side, PIXEL_ANGSTROM), n, float16=True) as writer:
        for start in range(0, n, DISTINCT):
            writer.write(images[: min(DISTINCT, n - start)])
    optics = OpticsGroups(
        columns={
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.1],
            "pixel_size_angstrom": [PIXEL_ANGSTROM],
            "image_size_pixel": [side],
        }
    )
    columns = {
        "image_name": np.array([f"{number:06d}@particles.mrcs" for number in range(1, n + 1)], dtype=object),
        "micrograph_name": np.array([f"mic{row // 200:04d}.mrc" for row in range(n)], dtype=object),
        "optics_group": np.ones(n, dtype=np.int64),
        "defocus_u_angstrom": np.full(n, 15000.0),
        "defocus_v_angstrom": np.full(n, 14800.0),
        "defocus_angle_degrees": np.full(n, 30.0),
    }
    write_particles(folder / "particles.star", ParticleSet(columns=columns, optics=optics))
    return stack


def peak_mebibytes(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Return the most memory of a command's processes, their own and with mapped files, and its seconds."""
    began = time.monotonic()
    own = mapped = 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder / "command.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            sizes = [memory_of(one) for one in [psutil.Process(process.pid), *children(process.pid)]]
            own = max(own, sum(size[0] for size in sizes))
            mapped = max(mapped, sum(size[1] for size in sizes))
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit((folder / "command.log").read_text())
    return own / 2**20, mapped / 2**20, time.monotonic() - began


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Return what a process holds for itself, and with the mapped files that are in memory, in bytes."""
    try:
        used = process.memory_info()
    except psutil.NoSuchProcess:
        return 0, 0
    return used.rss - used.shared, used.rss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--folder", help="where to work")
    options = parser.parse_args()
    print("| particles | stack, MiB | as float32, MiB | algorithm | own memory, MiB | with mapped files, MiB | s |")
    print("|---|---|---|---|---|---|---|")
    for n in options.particles:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            stack = write_project(folder, n, options.side)
            for algorithm, length in RUNS.items():
                command = [HALFMAP, "class2d", "particles.star", "--algorithm", algorithm, *length]
                command += [
                    "--classes",
                    str(options.classes),
                    "--mask-diameter",
                    f"{0.8 * options.side * PIXEL_ANGSTROM:g}",
                ]
                command += [
                    "--psi-step",
                    "12",
                    "--offset-range",
                    "3px",
                    "--closing-passes",
                    "0",
                    "--workers",
                    "1",
                    "--threads",
                    "1",
                ]
                own, mapped, seconds = peak_mebibytes(command, folder)
                size = stack.stat().st_size / 2**20
                print(
                    f"| {n:,} | {size:.0f} | {2 * size:.0f} | {algorithm} | {own:.0f} | {mapped:.0f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
