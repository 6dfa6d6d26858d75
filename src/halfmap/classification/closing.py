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
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.search import search_of
from halfmap.classification.state import ClassificationState, ClosingStage, References
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.data.repeats import NEAR_DIAMETERS, owners, repeats
from halfmap.fourier import shells
from halfmap.fourier.band import FourierBand
from halfmap.fourier.filters import apply_filter
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation, sampling
from halfmap.inference.beliefs import Beliefs
from halfmap.tensors import Images

COARSEST_JOIN_ANGSTROM = 30.0
"""Halves share what is coarser than this, or than a fifth of the mask where that is more."""

CARRIED_BY_MASK = 2.0
"""Cycles per diameter of the mask by which it carries on what halves share."""


def join_resolution_angstrom(mask_diameter_angstrom: float) -> float:
    """Return the resolution up to which the halves are joined: max(30 Å, D/5)."""
    return max(COARSEST_JOIN_ANGSTROM, mask_diameter_angstrom / 5)


def last_joined_shell(grid: ImageGrid, mask_diameter_angstrom: float) -> int:
    """Return the last shell that is no finer than `join_resolution_angstrom`; at least 1."""
    join = join_resolution_angstrom(mask_diameter_angstrom)
    return max(1, min(grid.side // 2 - 1, math.floor(grid.side * grid.pixel_size_angstrom / join + 1e-9)))


def last_shared_shell(join_shell: int, grid: ImageGrid, mask_diameter_angstrom: float) -> int:
    """Return the last shell in which the halves' agreement says nothing of a class.

    Parameters
    ----------
    join_shell : the last in which the halves were joined.

    Notes
    -----
    Images are compared within a mask. So noise that is aligned to what both halves share makes averages that agree in
    that times the mask, which reaches on beyond the join, the further the more particles the averages hold. In stacks
    of pure noise with a mask of 0.7 of the box, joined up to shell 5, the next had a mean FRC of 0.05, 0.015 and 0.00
    where classes held 100 particles, and of 0.18, 0.07, 0.03 and 0.00 where they held 1000. Joined up to shell 2 or 4
    they had the same: what is shared spreads from pass to pass.
    """
    return join_shell + math.ceil(CARRIED_BY_MASK * grid.side * grid.pixel_size_angstrom / mask_diameter_angstrom)


def halves_of(seed: int, uids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 or 1 for each particle: its half, for good; rows of the same uid share one.

    As many uids are in one half as in the other, or one more.
    """
    found, inverse = np.unique(uids, return_inverse=True)
    return keyed_random.parts(seed, "closing halves", found, 2)[inverse]


def repeated(
    problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState
) -> NDArray[np.int64]:
    """Return the number of the particle that each row shows after the main iterations, see `repeats`, shape (N,)."""
    return repeats(
        problem.particles,
        state.assignments.origin_angstrom,
        problem.data.index,
        distance_angstrom=NEAR_DIAMETERS * params.mask_diameter_angstrom,
    )


def begin_closing(
    problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState
) -> ClosingStage:
    """Start both halves from the same references, low-passed to what they may share."""
    grid = problem.grid
    shell = last_joined_shell(grid, params.mask_diameter_angstrom)
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
    """Classify each half against its own references once and join what is coarse; in the end, compare the rest."""
    number = closing.n_done + 1
    # a mark beyond the main iterations, for what is drawn at random
    iteration = state.iteration + number
    perturbation = sampling.perturbation(params.seed, iteration, 0.0, params.perturbation)
    search = search_of(
        problem,
        params,
        state,
        perturbation=perturbation,
        most=decisions.most_samples(params.classes, is_minibatch=False),
        reference_shell=closing.join_shell if number == 1 else state.shell,
    )
    beliefs = Beliefs(noise_variance=state.noise_variance, scale=state.scale)
    half = halves_of(params.seed, owners(problem.particles.uid, repeated(problem, params, state)))
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
        # references that are low-passed say nothing of the power beyond, and no prior is the end of a shell
        on = passes.on_band(problem, references, sums, search.shell, params.regularisation, expected=state.references)
        made.append(passes.maximised(problem, references, sums, on))
        assignments = passes.updated_assignments(assignments, sums.estimates)
    first, second = _joined(problem, made[0], made[1], closing.join_shell)
    frc = closing.frc
    if number == params.closing_passes:
        averages = [
            passes.average_best_poses(
                problem, params, references, assignments, beliefs, search, np.flatnonzero(half == h), executor
            )
            for h, references in enumerate(made)
        ]
        frc = agreement(averages[0], averages[1], problem.grid, problem.data.mask, closing.join_shell, search.shell)
    return replace(closing, n_done=number, halves=(first, second), assignments=assignments, frc=frc)


def agreement(
    first: Images, second: Images, grid: ImageGrid, mask: torch.Tensor, join_shell: int, shell: int
) -> torch.Tensor:
    """Return the FRC of both halves' averages within a mask.

    Parameters
    ----------
    first, second : plain averages of particles at their most probable poses, shape (C, side, side).
    join_shell : the last in which the halves shared their references.
    shell : the last that was compared.

    Returns
    -------
    float64, shape (C, n_shells); nan for empty classes, and beyond the last shell.

    Notes
    -----
    Shared shells are left out of the averages before the mask, which would move what they have in common into
    those beyond. Averages are those of most probable poses, because the ones that are weighted by the
    posterior are useless for it: of noise they are smeared over all angles, and rings have one free number in a shell,
    so that their FRC is anything up to 1.
    """
    own = torch.arange(shells.n_shells(grid)) > join_shell
    curves = []
    for kept in (~own, own):
        a, b = (grid.rfft(_filtered(half, grid, kept) * mask) for half in (first, second))
        curves.append(shells.frc(a, b, grid))
    curve = torch.where(own, curves[1], curves[0])
    seen = (first.abs().amax((-2, -1)) > 0) & (second.abs().amax((-2, -1)) > 0)
    curve = torch.where(seen[:, None], curve, torch.nan)
    curve[:, shell + 1 :] = torch.nan
    curve[seen, 0] = 1.0  # a single number, of which a correlation is but a sign
    return curve


def chance_deviation(mask: torch.Tensor, grid: ImageGrid, first: int, last: int) -> float:
    """Return by how much the FRC of noise differs from 0 by chance, as the mean over some shells.

    Parameters
    ----------
    mask : within which both images are seen, shape (side, side).
    first, last : of the shells; each counts by the number of its coefficients.

    Returns
    -------
    The standard deviation between independent images of white noise.

    Notes
    -----
    n independent coefficients, mates counted, have n^−½. A mask m makes neighbours depend on each other by
    g(k) = Σ_x m² e^{−2πi kx} / Σ_x m², and the variance is Σ_kk' |g(k − k')|² / n². It is the same whatever the
    number of particles in an average.

    References
    ----------
    van Heel and Schatz 2005, J. Struct. Biol. 151, 250: the 3σ criterion, and what a mask does to σ.
    """
    number = torch.arange(shells.n_shells(grid))
    kept = ((number >= first) & (number <= last)).double()
    rings = grid.irfft(shells.spread(kept, grid).to(torch.complex128))
    square = mask.double().square()
    overlap = grid.irfft(grid.rfft(square).abs().square().to(torch.complex128))
    n = float((shells.shell_counts(grid) * kept).sum())
    return math.sqrt(float((rings.square() * overlap).mean())) / (n * float(square.mean()))


def _filtered(images: Images, grid: ImageGrid, kept: torch.Tensor) -> Images:
    return apply_filter(images, grid, shells.spread(kept.to(images.dtype), grid))


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
    joined, mask = [], problem.data.mask
    for half, values in ((first, a), (second, b)):
        unmasked = maximisation.on_images(torch.cat([mean, values[:, common:]], dim=1), band, grid)
        unmasked = maximisation.on_background(unmasked, mask)
        joined.append(replace(half, unmasked=unmasked, masked=unmasked * mask))
    return joined[0], joined[1]


def _low_passed(references: References, grid: ImageGrid, shell: int) -> References:
    band = FourierBand(grid, max_shell=shell)
    low = maximisation.on_images(band.gather(grid.rfft(references.masked)), band, grid)
    return replace(references, masked=low, unmasked=low, plain=low)
