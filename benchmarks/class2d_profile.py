"""Where the time of an E-step of 2D classification goes, and how near its product is to the machine's own rate.

    python benchmarks/class2d_profile.py [--particles 1000] [--box 64] [--classes 20] [--iterations 8] [--seed 1]

One thread, process time, this process alone; particles as in `class2d_speed.py`. Each line is the time of one part
without that of the parts inside it, in microseconds for each image: of the second iteration, in which posteriors are
flat, and of the last. The product of the coarse pass is told with its preparation (shifted images, norm terms, sums of
the parts) as a share of a 2048³ product's rate in the same run.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from class2d_speed import GEMM_SIDE, MASK_ANGSTROM, make_set
from gemm import process_seconds, random_matrix

from halfmap.classification import class2d
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.grid import ImageGrid
from halfmap.inference import coarse, expectation, posterior, references, sparse, sums
from halfmap.io.mrc import StackSource
from halfmap.io.relion import read_particles
from halfmap.kernels import dense_scores

ALL, PRODUCT = "everything else", "coarse: product"


class Clock:
    """Process time of named parts, without that of the parts called inside."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.flops = 0.0
        self._inside: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        now = time.process_time()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted under a name."""

        @wraps(function)
        def wrapper(*arguments: Any, **settings: Any) -> Any:
            self._turn()
            self._inside.append(name)
            try:
                return function(*arguments, **settings)
            finally:
                self._turn()
                self._inside.pop()

        return wrapper

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Count the operations of products; arguments are those of `_Scorer.add`."""

        @wraps(function)
        def wrapper(scorer: Any, scores: torch.Tensor, which: torch.Tensor, part: slice, some: slice) -> Any:
            K = len(range(*some.indices(scorer.power.shape[1])))
            self.flops += 4.0 * K * len(which) * scores.shape[1] * len(scorer.real)
            return function(scorer, scores, which, part, some)

        return wrapper

    def forget(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.flops = 0.0


def attach(clock: Clock) -> None:
    coarse._Scorer.add = clock.counted(coarse._Scorer.add)
    for holder, name, part in (
        (expectation, "expect_chunk", ALL),
        (expectation, "to_band", "read, centre, mask, transform"),
        (expectation, "_weighted", "weight by CTF and noise"),
        (expectation, "_transfer", "CTF"),
        (posterior, "coarse_pass", "coarse: lists of poses"),
        (coarse._Scorer, "add", PRODUCT),
        (dense_scores, "mark_hopeful", "coarse: what can still matter"),
        (coarse, "prior_scores", "priors"),
        (sparse, "add_priors", "priors"),
        (sparse, "score_children", "few poses one by one"),
        (sparse, "keep_mass", "pruning"),
        (sparse, "list_weighted", "weights"),
        (sparse, "sum_poses", "sums: images into slices, slices into images"),
        (sparse.Expected, "by_shell", "sums: residuals"),
        (references.References, "take", "slices of references"),
        (sums.GradientSums, "insert", "slices into averages"),
    ):
        setattr(holder, name, clock.timed(part, getattr(holder, name)))


def peak() -> float:
    """Return operations a second of a 2048³ product."""
    left, right, out = (random_matrix(GEMM_SIDE, GEMM_SIDE) for _ in range(3))
    return 2.0 * GEMM_SIDE**3 / min(process_seconds(left, right, out) for _ in range(5))


def table(clock: Clock, n: int, title: str) -> None:
    total = sum(clock.seconds.values())
    share = clock.flops / clock.seconds[PRODUCT] / peak()
    print(f"\n{title}: {1e6 * total / n:.0f} µs for each image; product with preparation at {share:.2f} of sgemm")
    print("\n| part | µs | share |\n|---|---|---|")
    for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e6 * seconds / n:.1f} | {seconds / total:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("particles", 1000), ("box", 64), ("classes", 20), ("iterations", 8), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    clock = Clock()
    attach(clock)
    params = ClassificationParams(
        classes=options.classes,
        mask_diameter_angstrom=MASK_ANGSTROM,
        iterations=options.iterations,
        algorithm="em",
        closing_passes=0,
        stop_early=False,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder, InProcessExecutor() as executor:
        made = make_set(Path(folder), options.particles, options.box)
        particles = read_particles(made / "particles.star")
        grid = ImageGrid.square(options.box, float(particles.optics["pixel_size_angstrom"][0]))
        images = StackSource(particles["image_name"], folder, grid).read(np.arange(options.particles))
        source = ArraySource(images=images, grid=grid)
        problem = ClassificationProblem.of(particles, source, params, executor)
        state = class2d.start(problem, params, executor)
        while not class2d.is_done(params, state):
            clock.forget()
            state = class2d.advance(problem, params, state, executor)
            if state.iteration in (2, options.iterations):
                table(clock, options.particles, f"Iteration {state.iteration}")


if __name__ == "__main__":
    main()
