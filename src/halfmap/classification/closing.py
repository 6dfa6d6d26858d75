"""The closing stage: two halves of the particles, classified apart, whose averages agree only in what is real.

Halves that are aligned to one average agree even in noise. So the particles are split for good, references
start low-passed from what both have in common, and each half goes on with its own.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.classification import decisions, passes
from halfmap.classification.params import ClassificationParams
from halfmap.classification.passes import Beliefs
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.search import search_of
from halfmap.classification.state import ClassificationState, ClosingStage, References
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.fourier import shells
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation

COARSEST_JOIN_ANGSTROM = 30.0
"""Halves share what is coarser than this, or than a fifth of the mask where that is more."""


def join_resolution_angstrom(mask_diameter_angstrom: float) -> float:
    """Return the resolution up to which the halves are joined: max(30 Å, D/5)."""
    return max(COARSEST_JOIN_ANGSTROM, mask_diameter_angstrom / 5)


def halves_of(seed: int, uids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 or 1 for each particle: its half, for good; equal in size to one particle."""
    order = np.lexsort((uids, keyed_random.uniform(seed, "closing halves", uids)))
    half = np.empty(len(uids), dtype=np.int64)
    half[order] = np.arange(len(uids)) % 2
    return half


def begin_closing(
    problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState
) -> ClosingStage:
    """Start both halves from the same references, low-passed to what they may share."""
    grid = problem.grid
    join = join_resolution_angstrom(params.mask_diameter_angstrom)
    shell = max(1, min(grid.side // 2 - 1, math.floor(grid.side * grid.pixel_size_angstrom / join + 1e-9)))
    low = _low_passed(state.references, grid, shell)
    return ClosingStage(
        n_done=0,
        halves=(low, low),
        assignments=state.assignments,
        frc=torch.full_like(state.references.ssnr, torch.nan),
        join_shell=shell,
    )


def advance_closing(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    closing: ClosingStage,
    executor: Executor,
    progress: Progress | None,
) -> ClosingStage:
    """Classify each half against its own references once, join what is coarse, and compare the rest."""
    number = closing.n_done + 1
    # a mark beyond the main iterations, for what is drawn at random
    iteration = state.iteration + number
    perturbation = decisions.perturbation(params.seed, iteration, 0.0, params.perturbation)
    search = search_of(
        problem,
        params,
        state,
        perturbation=perturbation,
        most=decisions.most_samples(params.classes, is_minibatch=False),
        reference_shell=closing.join_shell if number == 1 else state.shell,
    )
    beliefs = Beliefs(noise_variance=state.noise_variance, scale=state.scale)
    half = halves_of(params.seed, problem.particles.uid)
    if progress is not None:
        progress.start(f"Closing pass {number} of {params.closing_passes}", len(half))
    assignments = closing.assignments
    made = []
    for h, references in enumerate(closing.halves):
        rows = np.flatnonzero(half == h)
        sums = passes.run_expectation(
            problem,
            params,
            references,
            assignments,
            beliefs,
            search,
            rows,
            executor,
            iteration=iteration,
            progress=progress,
        )
        on = passes.on_band(problem, references, sums, search.shell, params.regularisation)
        made.append(passes.maximised(problem, references, sums, on))
        assignments = passes.updated_assignments(assignments, sums.estimates, norms=False)
    frc = _agreement(made[0], made[1], problem, search.shell)
    first, second = _joined(problem, made[0], made[1], closing.join_shell)
    return replace(closing, n_done=number, halves=(first, second), assignments=assignments, frc=frc)


def _agreement(first: References, second: References, problem: ClassificationProblem, shell: int) -> torch.Tensor:
    """Return the FRC of both halves' masked averages, nan for empty classes and beyond the last shell."""
    grid = problem.grid
    curve = shells.frc(grid.rfft(first.masked), grid.rfft(second.masked), grid)
    seen = (first.masked.abs().amax((-2, -1)) > 0) & (second.masked.abs().amax((-2, -1)) > 0)
    curve = torch.where(seen[:, None], curve, torch.nan)
    curve[:, shell + 1 :] = torch.nan
    return curve


def _joined(
    problem: ClassificationProblem, first: References, second: References, shell: int
) -> tuple[References, References]:
    """Give both halves the mean of their coefficients up to a shell."""
    grid = problem.grid
    band = FourierBand(grid)
    common = len(band.head(shell))
    a, b = (band.gather(grid.rfft(half.unmasked)) for half in (first, second))
    weight = torch.stack([first.fractions, second.fractions])
    share = (weight[0] / weight.sum(0).clamp(min=1e-30)).float()[:, None]
    mean = share * a[:, :common] + (1 - share) * b[:, :common]
    joined = []
    for half, values in ((first, a), (second, b)):
        unmasked = maximisation.on_images(torch.cat([mean, values[:, common:]], dim=1), band, grid)
        joined.append(replace(half, unmasked=unmasked, masked=unmasked * problem.data.mask))
    return joined[0], joined[1]


def _low_passed(references: References, grid: ImageGrid, shell: int) -> References:
    band = FourierBand(grid, max_shell=shell)
    low = maximisation.on_images(band.gather(grid.rfft(references.masked)), band, grid)
    return replace(references, masked=low, unmasked=low, plain=low)
