"""The scoring product's share of the machine's own matrix-product rate.

Run ``python benchmarks/gemm.py``. Scores of N·T shifted images against R references over K Fourier
coefficients are one real product (N·T, 2K) x (2K, R). One thread; every shape alternates with a
2048³ product of the same run, and the smallest process time of each counts.
"""

import argparse
import time

import numpy as np
import torch

ROWS = (288, 1152)
COEFFICIENTS = (1200, 5000)
REFERENCES = 1024
PEAK_SIDE = 2048


def random_matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(rows).standard_normal((rows, columns), dtype=np.float32))


def process_seconds(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    begin = time.process_time()
    torch.mm(left, right.T, out=out)
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    shapes = [(PEAK_SIDE, PEAK_SIDE, PEAK_SIDE)]
    shapes += [(rows, REFERENCES, 2 * k) for rows in ROWS for k in COEFFICIENTS]
    problems = [(random_matrix(m, k), random_matrix(n, k), torch.empty(m, n)) for m, n, k in shapes]
    least = [float("inf")] * len(shapes)
    for _ in range(repeats + 1):
        for index, problem in enumerate(problems):
            least[index] = min(least[index], process_seconds(*problem))
    rates = [2 * m * n * k / seconds / 1e9 for (m, n, k), seconds in zip(shapes, least, strict=True)]
    print(f"sgemm {PEAK_SIDE}³: {rates[0]:.1f} GFLOP/s")
    print(f"{'N·T':>6} {'K':>6} {'R':>6} {'GFLOP/s':>9} {'of peak':>8}")
    for (m, n, k), rate in zip(shapes[1:], rates[1:], strict=True):
        print(f"{m:6d} {k // 2:6d} {n:6d} {rate:9.1f} {rate / rates[0]:8.2f}")


if __name__ == "__main__":
    main()
