"""Coefficients per second of slices of images, their insertion and weights turned back, on one thread.

Run ``python benchmarks/image_slices.py``. Every image is taken at every rotation, as classes are. The smallest
process time counts. Beside it the bytes of slices read or written per second, and what copying them takes.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.rotated_spectra import rotate_back
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid


def least_process_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    least = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        call()
        least = min(least, time.process_time() - begin)
    return least


def measure(side: int, n_images: int, n_rotations: int, padding: int, repeats: int) -> list[str]:
    grid = ImageGrid.square(side, 1.0)
    band = FourierBand(grid)
    psi = torch.from_numpy(np.random.default_rng(0).uniform(-180, 180, size=n_rotations))
    rotations = matrix_from_euler(torch.zeros_like(psi), torch.zeros_like(psi), psi)
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(n_images, side, side)).astype(np.float32))
    padded = slices.prepare(images, grid, padding)
    values = slices.extract(padded, rotations, band)
    weights, other = values.abs(), torch.empty_like(values)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (16, lambda: other.copy_(values)),
        "extract": (8, lambda: slices.extract(padded, rotations, band)),
        "insert": (8, lambda: slices.insert(values, None, rotations, band, padded.grid)),
        "insert, weights": (12, lambda: slices.insert(values, weights, rotations, band, padded.grid)),
        "adjoint": (8, lambda: slices.adjoint(values, rotations, band, padded.grid)),
        "rotate_back": (4, lambda: rotate_back(weights, rotations, band)),
    }
    lines = []
    for name, (n_bytes, call) in calls.items():
        per_second = values.numel() / least_process_seconds(call, repeats)
        lines.append(
            f"{side:5d} {padding:8d} {n_images:7d} {n_rotations:10d}  {name:16s} {per_second / 1e6:8.0f}"
            f" {per_second * n_bytes / 1e9:6.1f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rotations", type=int, default=60)
    parser.add_argument("--padding", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'side':>5} {'padding':>8} {'images':>7} {'rotations':>10}  {'':16} {'M/s':>8} {'GB/s':>6}")
    for side in arguments.sides:
        for line in measure(side, arguments.images, arguments.rotations, arguments.padding, arguments.repeats):
            print(line)


if __name__ == "__main__":
    main()
