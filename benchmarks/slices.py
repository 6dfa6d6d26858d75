"""Slices per second of the compiled kernels and of plain tensor operations, side by side.

Run ``python benchmarks/slices.py``. One thread; rotations are random, so neighbouring slices share
nothing. Both paths alternate and the smallest process time of each counts. Insertion adds values
and weights. The last column says how far the two results lie apart.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from halfmap.fourier import multilinear
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid
from halfmap.grid import ImageGrid
from halfmap.kernels import slice_extraction, slice_insertion


def least_process_seconds(paths: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    seconds = dict.fromkeys(paths, float("inf"))
    for path in paths.values():
        path()
    for _ in range(repeats):
        for name, path in paths.items():
            begin = time.process_time()
            path()
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return seconds


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().double().norm() / second.abs().double().norm())


def measure(side: int, n_slices: int, repeats: int) -> list[str]:
    padded = PaddedGrid(ImageGrid.cubic(side, 1.0))
    band = FourierBand(ImageGrid.square(side, 1.0))
    random = np.random.default_rng(0)
    values = torch.view_as_complex(torch.from_numpy(random.normal(size=(*padded.shape, 2)).astype(np.float32)))
    pixels = torch.view_as_complex(torch.from_numpy(random.normal(size=(n_slices, len(band), 2)).astype(np.float32)))
    weights = pixels.real.square().contiguous()
    planes = torch.from_numpy(np.ascontiguousarray(Rotation.random(n_slices, random_state=1).as_matrix()[:, :2]))
    coordinates = padded.coordinates(band)
    pairs = torch.view_as_real(values).numpy(), planes.numpy(), coordinates.numpy()
    sums = {name: (torch.zeros_like(values), torch.zeros(padded.shape)) for name in ("kernel", "torch")}

    def insert_with_kernel() -> None:
        data, weight = sums["kernel"]
        slice_insertion.insert_slices(
            torch.view_as_real(data).numpy(),
            weight.numpy(),
            planes.numpy(),
            coordinates.numpy(),
            torch.view_as_real(pixels).numpy(),
            weights.numpy(),
        )

    def insert_with_torch() -> None:
        data, weight = sums["torch"]
        multilinear.insert_slices(data[None], weight[None], planes, coordinates, pixels[None], weights[None])

    extract = {
        "kernel": lambda: slice_extraction.extract_slices(*pairs),
        "torch": lambda: multilinear.extract_slices(values[None], planes, coordinates)[0],
    }
    by_kernel = torch.view_as_complex(torch.from_numpy(extract["kernel"]()))
    apart = {"extract": relative_difference(by_kernel, extract["torch"]())}
    seconds = {
        "extract": least_process_seconds(extract, repeats),
        "insert": least_process_seconds({"kernel": insert_with_kernel, "torch": insert_with_torch}, repeats),
    }
    apart["insert"] = relative_difference(sums["kernel"][0], sums["torch"][0])
    return [
        f"{side:5d} {len(band):6d}  {name:8s} {n_slices / spent['kernel']:10,.0f} {n_slices / spent['torch']:10,.0f}"
        f" {spent['torch'] / spent['kernel']:7.1f} {apart[name]:11.1e}"
        for name, spent in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'side':>5} {'K':>6}  {'':8} {'kernel/s':>10} {'torch/s':>10} {'ratio':>7} {'difference':>11}")
    for side in arguments.sides:
        for line in measure(side, n_slices=max(16, 300_000 // side**2 * 4), repeats=arguments.repeats):
            print(line)


if __name__ == "__main__":
    main()
