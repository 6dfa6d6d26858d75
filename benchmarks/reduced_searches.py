"""What reduced searches of the E-step gain and lose, each against the same E-step without it.

    python benchmarks/reduced_searches.py [--images 600] [--timed 1000]

Images of a 100 kDa particle (2.5 Å pixels) and of a ribosome (5.25 Å), 64 px, 20 true projections as references, CTF,
white noise, any angle and offset; signal power Σ |C P|²/σ² of 50, 100 and 200 over shells 1 to 26. Search: 12° and 2 px
first, 6° and 1 px within what is kept. Lost is what the poses that reach the sums leave of the exact posterior on the
whole fine grid: mean, 99 % of the images, worst. Times are process time of one thread, the least of some repeats, of
the whole E-step; every repeat runs all variants in turn.
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gemm import process_seconds, random_matrix

from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.in_process import InProcessExecutor
from halfmap.inference import expectation
from halfmap.inference.posterior import Search

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.search_problems import (
    PARTICLES,
    SearchProblem,
    exact_posterior,
    found_posterior,
    lost_mass,
    search_problem,
)

POWERS = (50.0, 100.0, 200.0)
REPEATS = 3


def in_full(search: Search) -> Search:
    """Return the search with rotations in an order in which no product serves two of them."""
    grid = search.poses
    half, J = grid.n_rotations // 2, grid.children_rotations
    order = torch.stack([torch.arange(half), torch.arange(half) + half], dim=1).flatten()
    fine = (order[:, None] * J + torch.arange(J)).flatten()
    poses = replace(grid, rotations=grid.rotations[order], fine_rotations=grid.fine_rotations[fine])
    return replace(search, poses=poses, low_share=1.0)


def variants(search: Search) -> dict[str, Search]:
    return {
        "coarse, then fine, by mass alone": replace(in_full(search), cut_nats=0.0, cut_deviations=0.0),
        "coarse, then fine": in_full(search),
        "+ half turns by one product": replace(search, low_share=1.0),
        "+ low shells first, 95 %": search,
        "+ low shells first, 90 %": replace(search, low_share=0.9),
        "+ low shells first, 80 %": replace(search, low_share=0.8),
    }


def seconds(problem: SearchProblem, searches: dict[str, Search]) -> dict[str, float]:
    n = len(problem.particles)
    least = dict.fromkeys(searches, math.inf)
    with InProcessExecutor() as executor:
        sent = executor.broadcast(problem.data)
        for repeat in range(REPEATS + 1):
            for name, search in searches.items():
                model = executor.broadcast(replace(problem.model, search=search))
                expectation.expect_chunk(sent, model, np.arange(2))
                begin = time.process_time()
                expectation.expect_chunk(sent, model, np.arange(n))
                if repeat:
                    least[name] = min(least[name], time.process_time() - begin)
    return least


def same_poses(name: str, found: tuple[torch.Tensor, ...], search: Search) -> tuple[torch.Tensor, ...]:
    """Return found poses with the rows of the usual order."""
    if not name.startswith("coarse, then fine"):
        return found
    image, row, shift = found
    R, J = len(search.poses.fine_rotations), search.poses.children_rotations
    half = R // J // 2
    coarse, child = row % R // J, row % J
    return image, row - row % R + (coarse % 2 * half + coarse // 2) * J + child, shift


def products() -> None:
    """Print rates of a product of the coarse pass in single and in half precision, and what rounding does to scores."""
    rows, references, K = 1743, 300, 454
    left, right = random_matrix(rows, K), random_matrix(references, K)
    out, half_out = torch.empty(rows, references), torch.empty(rows, references, dtype=torch.bfloat16)
    least = [math.inf, math.inf]
    for _ in range(20):
        least[0] = min(least[0], process_seconds(left, right, out))
        least[1] = min(least[1], process_seconds(left.bfloat16(), right.bfloat16(), half_out))
    print(f"\nproduct of the coarse pass: bfloat16 {least[0] / least[1]:.2f} times as fast, its rounding included")
    for power in POWERS:
        # scores are sums of this size, and come out of a bfloat16 product rounded to 8 bits
        score = torch.linspace(0.5 * power, power, 1001)
        print(f"power {power:.0f}: scores rounded by up to {float((score - score.bfloat16()).abs().max()):.2f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--timed", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    print("| particle | power | search | lost, mean | 99 % | worst | E-step, µs per image |")
    print("|---|---|---|---|---|---|---|")
    for particle in PARTICLES:
        for power in POWERS:
            problem = search_problem(particle, power, n=options.images)
            searches = variants(problem.search)
            found = [same_poses(name, found_posterior(problem, one), one) for name, one in searches.items()]
            lost = lost_mass(exact_posterior(problem), options.images, *found)
            spent = seconds(search_problem(particle, power, n=options.timed), searches)
            for name, one in zip(searches, lost, strict=True):
                print(
                    f"| {particle} | {power:.0f} | {name} | {float(one.mean()):.1e} | {float(one.quantile(0.99)):.1e} "
                    f"| {float(one.max()):.1e} | {1e6 * spent[name] / options.timed:.0f} |",
                    flush=True,
                )
    products()


if __name__ == "__main__":
    main()
