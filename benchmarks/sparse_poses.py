"""Scoring the poses that a global search against volumes keeps, and summing over its posterior: rates of both kernels.

    python benchmarks/sparse_poses.py

Images of 70 px, band to shell 28, one chunk. Poses as a thorough search of real apoferritin keeps them: of 800 coarse
rows (half of the 1,584 for O at 7.5°) half are kept of each image, at 1.4 of 21 shifts on average; each has 8 × 4 finer
poses, of which a quarter of the rows, at 2.6 shifts, have weight. One thread, process time, best of five; operations
are those that any way of doing it needs: products with slices, sums at shifts, norms.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from gemm import process_seconds, random_matrix

from halfmap.compute.allocator import keep_large_blocks
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.inference import sparse
from halfmap.inference.sparse import Expected, PoseList, WeightedPoses

N, ROWS, SHIFTS, J, M = 150, 800, 21, 8, 4
SIDE, SHELL = 70, 28
REPEATS, GEMM_SIDE = 5, 2048


def drawn(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def drawn_poses(rng: np.random.Generator, n_rows: int, n_shifts: int, share: float, more: float) -> torch.Tensor:
    """Draw poses, int64, shape (3, S): image, row, shift. ``more`` shifts beyond the first of a row on average."""
    rows = rng.random((N, n_rows)) < share
    marked = rng.random((N, n_rows, n_shifts)) < more / (n_shifts - 1)
    marked[:, :, 0] = True
    return torch.from_numpy(np.stack(np.nonzero(marked & rows[:, :, None])))


def best_seconds(action: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    keep_large_blocks()
    rng = np.random.default_rng(1)
    K = len(FourierBand(ImageGrid.square(SIDE, 3.0), max_shell=SHELL))
    weighted, power = drawn(rng, N, K, 2), drawn(rng, N, K).square()
    references = torch.view_as_complex(drawn(rng, ROWS * J, K, 2))
    factors = torch.view_as_complex(drawn(rng, SHIFTS * M, K, 2))
    image, row, shift = drawn_poses(rng, ROWS, SHIFTS, 0.5, 0.4)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(image, minlength=N).cumsum(0)])
    poses = PoseList(first=first, row=row, shift=shift)
    scores = torch.empty((len(row), J, M))
    seconds = best_seconds(lambda: sparse.score_children(poses, weighted, power, references, factors, scores))
    n_runs = len(torch.unique(image * ROWS + row))
    flops = K * (10.0 * n_runs * J + 4.0 * len(row) * J * M)

    image, row, shift = drawn_poses(rng, ROWS * J, SHIFTS * M, 0.25, 1.6)
    samples = WeightedPoses(image=image, row=row, shift=shift, weight=drawn(rng, len(row)).square()).sorted_by_row()
    expected = Expected.none(power)
    of_sums = best_seconds(lambda: sparse.sum_poses(samples, weighted, power, references, factors, expected))
    flops_of_sums = K * (20.0 * (len(samples.runs()) - 1) + 4.0 * len(row))

    left, right, out = (random_matrix(GEMM_SIDE, GEMM_SIDE) for _ in range(3))
    peak = 2.0 * GEMM_SIDE**3 / min(process_seconds(left, right, out) for _ in range(REPEATS))
    print("| | poses an image | ms an image | GFLOP/s | of a 2048³ product |\n|---|---|---|---|---|")
    for name, number, spent, done in (
        ("scores", len(poses.row) * J * M, seconds, flops),
        ("sums", len(samples.row), of_sums, flops_of_sums),
    ):
        rate = done / spent
        print(f"| {name} | {number // N} | {1e3 * spent / N:.2f} | {rate / 1e9:.1f} | {rate / peak:.2f} |")


if __name__ == "__main__":
    main()
