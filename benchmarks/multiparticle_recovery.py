"""How well and how fast poses, image warp and defocus of a tilt series are recovered, beside a joint fit by autograd.

    python benchmarks/multiparticle_recovery.py              SNR 0.1 and 0.02, 40 particles in 21 tilts, 32 px of 4 Å
    python benchmarks/multiparticle_recovery.py --seeds 5    five series of each
    python benchmarks/multiparticle_recovery.py --scaling    CPU time and memory against particles, tilts and box

The case is that of tests/recovery/test_multiparticle_windows.py: a phantom of 60 blobs, poses off by 3 Å and 3° along
and about each axis, an image warp of 2 by 2 nodes of 3 Å, and defoci of tilts off by 0.16 µm, all rms; the reference is
the truth. Errors are rms over all views: the angle, the length of the shift in the image, the defocus. A fit also
estimates noise and scales, compares its end with its start and works out error bars. The two minimisations that are
compared in time do nothing of this: both begin at the start, with the same noise, at full resolution, one after the
other in one process of one thread, and L-BFGS may stop as soon as it is within one unit of the log-likelihood of where
Gauss-Newton ended.
"""

import argparse
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from halfmap.compute.allocator import keep_large_blocks
from halfmap.multiparticle.fit import descend, visit
from halfmap.multiparticle.joint import JointObjective, descend_jointly
from halfmap.multiparticle.m_ncc import MObjective
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.sub_iterations import Fitted
from support.tilt_windows import EVERYTHING, Scene, scene

STEPS = Schedule(sub_iterations=4, steps=1, ctf_resolution_angstrom=30.0)


class _NearError(Exception):
    """The objective is as low as it has to be."""


def fitted(drawn: Scene, schedule: Schedule) -> tuple[Fitted, float]:
    """Return a fit and its CPU seconds."""
    start = time.process_time()
    return drawn.fit(EVERYTHING, schedule), time.process_time() - start


def jointly(drawn: Scene, fit: Fitted, *, iterations: int, enough: float) -> tuple[torch.Tensor, JointObjective, list]:
    """Fit by L-BFGS until the objective is low enough; return where, and CPU seconds, value of each evaluation."""
    objective = JointObjective(fit.comparison, drawn.start_of(fit))
    log: list[tuple[float, float]] = []
    best: list[torch.Tensor] = []
    start = time.process_time()

    def watched(vector: torch.Tensor) -> torch.Tensor:
        value = objective(vector)
        if not log or float(value) < min(seen for _, seen in log):
            best[:] = [vector.detach().clone()]
        log.append((time.process_time() - start, float(value)))
        if float(value) <= enough:
            raise _NearError
        return value

    with suppress(_NearError):
        descend_jointly(watched, len(objective.units), max_iterations=iterations)
    return best[0], objective, log


def show(label: str, errors: tuple[float, float, float], more: str = "") -> None:
    """Print a row of the table."""
    angle, shift, defocus = errors
    print(f"| {label} | {angle:.2f} | {shift:.2f} | {defocus / 1e4:.3f} | {more} |", flush=True)


def compare(snr: float, seed: int) -> None:
    """Print a table for one series."""
    drawn = scene(snr=snr, seed=seed)
    print(
        f"\nSNR {snr}, series {seed}\n\n| | angle ° | shift Å | defocus µm | CPU s, objective |\n|---|---|---|---|---|"
    )
    fit, seconds = fitted(drawn, STEPS)
    show("start", drawn.errors(drawn.start_of(fit)))
    for n in (1, 2, 3):
        some, cpu = fitted(drawn, Schedule(sub_iterations=n, steps=1, ctf_resolution_angstrom=30.0))
        show(f"{n} steps", drawn.errors(some.visited.parameters), f"{cpu:.2f}")
    show("4 steps", drawn.errors(fit.visited.parameters), f"{seconds:.2f}, {fit.visited.objective:.1f}")
    drop = drawn.half_chi2_of_truth(fit) - sum(float(look.chi2.sum()) for look in fit.visited.looks) / 2
    p = fit.comparison.layouts[0].n_parameters - len(fit.posterior.null_space)
    begin = time.process_time()
    least = descend(fit.comparison, visit(fit.comparison, drawn.start_of(fit)), 4)
    seconds = time.process_time() - begin
    show("minimisation: Gauss-Newton, 4 steps", drawn.errors(least.parameters), f"{seconds:.2f}, {least.objective:.1f}")
    for label, n, enough in (("25 iterations", 25, -float("inf")), ("as far", 200, least.objective + 1)):
        vector, objective, log = jointly(drawn, fit, iterations=n, enough=enough)
        best = min(value for _, value in log)
        label = f"minimisation: L-BFGS, {label}, {len(log)} evaluations"
        show(label, drawn.errors(objective.place(vector)), f"{log[-1][0]:.2f}, {best:.1f}")
    score = MObjective(fit.comparison, drawn.start_of(fit))
    start = time.process_time()
    vector, _ = descend_jointly(score, len(score.units), max_iterations=25)
    show("M's score by L-BFGS, 25 iterations", drawn.errors(score.place(vector)), f"{time.process_time() - start:.2f}")
    plan = fit.visited.designs[0]
    deviation = fit.posterior.local_deviation(0, plan.particle, plan.columns, plan.shared)
    ratio = (drawn.local_errors(fit.visited.parameters) / deviation).square()
    ratios = [float(part.mean().sqrt()) for part in (ratio[..., :2], ratio[..., 2:5], ratio[..., 5:])]
    print(
        f"\nGauss-Newton takes {seconds / log[-1][0]:.2f} of L-BFGS's CPU time. χ²/2 lies {drop:.0f} below the "
        f"truth's; half of the {p} parameters is {p / 2:.0f}. Error over error bar: shifts {ratios[0]:.2f}, turns "
        f"{ratios[1]:.2f}, defoci {ratios[2]:.2f}."
    )


def scaling() -> None:
    """Print CPU time and peak memory of one step against the size of the problem."""
    print("\n| particles | tilts | box px | CPU s, 3 steps | peak memory GiB |\n|---|---|---|---|---|")
    for n, n_tilts, box in (
        (20, 21, 32),
        (40, 21, 32),
        (80, 21, 32),
        (160, 21, 32),
        (40, 41, 32),
        (40, 21, 64),
        (40, 21, 96),
    ):
        drawn = scene(n=n, n_tilts=n_tilts, box=box, snr=0.1)
        _, seconds = fitted(drawn, Schedule(sub_iterations=3, steps=1, ctf_resolution_angstrom=30.0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {n} | {n_tilts} | {box} | {seconds:.2f} | {peak:.2f} |", flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scaling", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    warm = scene(n=4, n_tilts=3)  # kernels are compiled, optimisers imported
    jointly(warm, warm.fit(), iterations=1, enough=-float("inf"))
    if arguments.scaling:
        scaling()
        return
    for snr in (0.1, 0.02):
        for seed in range(1, arguments.seeds + 1):
            compare(snr, seed)


if __name__ == "__main__":
    main()
