"""A first map from particles alone.

A step of halfmap: `start`, `advance` until `is_done`, then `finish`. EM on mini-batches: sums over earlier ones fade,
and what images are compared with gains detail as it goes. The reasons are in ``docs/decisions/0040-initial-model.md``.
"""

import math
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from halfmap import keyed_random
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.beliefs import Beliefs, updated_beliefs
from halfmap.inference.first_noise import first_noise_variance
from halfmap.inference.iterate import grown
from halfmap.inference.maximisation import MIN_OFFSET_VARIANCE_ANGSTROM2
from halfmap.inference.sampling import perturbation
from halfmap.inference.sums import Sums
from halfmap.inference.symmetry_axes import aligned, find_axes
from halfmap.refinement.initial_model.maps import (
    filtered_map,
    halves_of,
    hand_of,
    kept_shares,
    padded_grid,
    pseudo_fsc,
    solvent_sphere,
    with_sign_turned,
)
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.parting import with_parted_class
from halfmap.refinement.initial_model.result import InitialModel, initial_model
from halfmap.refinement.initial_model.schedule import class_trial, minibatch, n_iterations, sign_trial
from halfmap.refinement.initial_model.search import SHELLS_BEYOND, model_of, offset_step_angstrom, search_of
from halfmap.refinement.initial_model.state import Assignments, InitialModelState
from halfmap.refinement.volume_problem import VolumeProblem


def problem_of(
    particles: ParticleSet,
    images: ImageSource,
    params: InitialModelParams,
    executor: Executor,
    *,
    index: ArrayLike | None = None,
    background_mean: ArrayLike = 0.0,
    background_deviation: ArrayLike = 1.0,
) -> VolumeProblem:
    """Put particles and images together; images no larger than the finest detail needs.

    Parameters
    ----------
    particles, images, index, background_mean, background_deviation : as of `VolumeProblem.of`.

    Raises
    ------
    InputError
        Numbers of particles and images differ, the mask is larger than the box, or the symmetry is unknown.
    """
    return VolumeProblem.of(
        particles,
        images,
        executor,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        mask_edge_pixel=params.mask_edge_pixel,
        symmetry=params.symmetry,
        ctf=params.ctf,
        ctf_intact_first_peak=params.ctf_intact_first_peak,
        seed=params.seed,
        side=working_side(params, images.grid),
        index=index,
        background_mean=background_mean,
        background_deviation=background_deviation,
    )


def working_side(params: InitialModelParams, grid: ImageGrid) -> int:
    """Return the side that images are brought to: even, quick to transform, and as fine as the finest detail needs."""
    field = grid.side * grid.pixel_size_angstrom
    side = 2 * (math.ceil(field / params.finest_angstrom) + SHELLS_BEYOND + 2)
    while side < grid.side and _largest_factor(side) > 5:
        side += 2
    return min(side, grid.side)


def start(problem: VolumeProblem, params: InitialModelParams) -> InitialModelState:
    """Make the first state: noise spectra, no map and no pose."""
    n, K = len(problem.particles), params.classes
    sums = (2, K, *padded_grid(problem).shape)
    return InitialModelState(
        iteration=0,
        references=torch.zeros((K, *problem.volume_grid.shape)),
        data=torch.zeros(sums, dtype=torch.complex64),
        weight=torch.zeros(sums),
        fractions=torch.full((K,), 1 / K, dtype=torch.float64),
        noise_variance=first_noise_variance(problem.data),
        offset_sigma_angstrom=params.initial_offset_sigma_angstrom,
        assignments=Assignments(
            class_index=np.zeros(n, dtype=np.int64),
            rotation=np.tile(np.eye(3), (n, 1, 1)),
            origin_angstrom=np.zeros((n, 2)),
            max_probability=np.zeros(n),
            log_likelihood=np.zeros(n),
            n_significant=np.zeros(n, dtype=np.int64),
            seen_in=np.zeros(n, dtype=np.int64),
        ),
        symmetry_correlation=torch.full((K,), torch.nan, dtype=torch.float64),
    )


def is_done(params: InitialModelParams, state: InitialModelState) -> bool:
    """Return whether the last mini-batch, of all particles, is done."""
    return state.iteration >= n_iterations(params)


def advance(
    problem: VolumeProblem,
    params: InitialModelParams,
    state: InitialModelState,
    executor: Executor,
    progress: Progress | None = None,
) -> InitialModelState:
    """Run a mini-batch: an E-step, new sums, new maps. In the first one poses are drawn, not found.

    Notes
    -----
    Two things are tried, each beside what there is, with the same particles, and at last what has the higher likelihood
    is gone on with: of T, O and I the turned sign of what a map has beside its mean over all directions, for each class
    (`sign_trial`); of several classes, small ones begun anew from parts of the largest (`class_trial`).
    """
    beside = state.tried
    if params.is_polyhedral and state.iteration == sign_trial(params)[0]:
        beside = _turned(problem, state)
    elif params.classes > 1 and state.iteration == class_trial(params)[0]:
        parted = with_parted_class(problem, params, state, executor)
        beside = () if parted is None else (parted,)
    tried = [_after_minibatch(problem, params, one, executor, progress) for one in (state, *beside)]
    iteration = tried[0].iteration
    if not beside or iteration not in (sign_trial(params)[1], class_trial(params)[1]):
        return replace(tried[0], tried=tuple(tried[1:]))
    best = max(tried, key=lambda one: float(one.history["log_likelihood"][-1]))
    if progress is not None and best is not tried[0]:
        signs = "Turned the sign of what is not round in the map: images fit it better so."
        parts = "Small classes began anew from parts of the largest: images fit them better so."
        progress.message(signs if iteration == sign_trial(params)[1] else parts)
    return best


def finish(problem: VolumeProblem, params: InitialModelParams, state: InitialModelState) -> InitialModel:
    """Return the maps of a state, on the grid of the images, and what was found for the particles."""
    return initial_model(problem, params, state, is_final=is_done(params, state))


def _turned(problem: VolumeProblem, state: InitialModelState) -> tuple[InitialModelState, ...]:
    """Return for each class the state with this class's sign turned."""
    found = []
    for c, values in enumerate(state.references):
        references = state.references.clone()
        references[c] = with_sign_turned(values, problem.volume_grid)
        found.append(replace(state, references=references))
    return tuple(found)


def _after_minibatch(
    problem: VolumeProblem,
    params: InitialModelParams,
    state: InitialModelState,
    executor: Executor,
    progress: Progress | None,
) -> InitialModelState:
    began = time.monotonic()
    iteration = state.iteration + 1
    n = len(problem.particles)
    batch = minibatch(params, iteration, n)
    if batch.has_symmetry and not params.has_symmetry_from_start and bool(state.symmetry_correlation.isnan().all()):
        state = _with_axes(problem, state)
    moved = perturbation(params.seed, iteration, state.perturbation, params.perturbation)
    search = search_of(problem, params, batch, moved)
    uids = problem.particles.uid
    order = keyed_random.order(params.seed, "mini-batches of an initial model", uids, iteration=iteration)
    rows = np.sort(order[: batch.n_particles])
    assigned = None
    if iteration == 1:
        n_rows = params.classes * len(search.poses.fine_rotations)
        share = keyed_random.uniform(params.seed, "first poses of an initial model", uids)
        assigned = np.minimum((share * n_rows).astype(np.int64), n_rows - 1)
    model = model_of(problem, params, state, search, assigned)
    if progress is not None:
        progress.start(f"Mini-batch {iteration} of {n_iterations(params)}", len(rows))
    sums = expectation.expect(problem.sent, model, problem.data, rows, executor, progress=progress)
    data = batch.memory * state.data + sums.slices.data
    weight = batch.memory * state.weight + sums.slices.weight
    symmetry = problem.symmetry if batch.has_symmetry else "C1"
    halves = [halves_of(problem, data[:, c], weight[:, c], symmetry) for c in range(params.classes)]
    sphere = solvent_sphere(problem, params, halves[int(state.fractions.argmax())], batch)
    fsc = torch.stack([pseudo_fsc(problem, one, sphere, search.shell) for one in halves])
    # one filter for all: by its own, the class with fewer particles would be the fainter, and lose them all
    kept = kept_shares(state.fractions, fsc)
    largest = int(state.fractions.argmax())
    found = sums.estimates
    references = torch.stack([filtered_map(problem, one, sphere, kept, batch) for one in halves])
    if params.is_polyhedral and 1 < iteration < n_iterations(params):
        # steps of twice the length towards a hand, on which a map of both leaves the slowest
        references = references + hand_of(references) - hand_of(state.references)
    after = replace(
        _believing(
            problem,
            state,
            sums,
            is_first=iteration == 1,
            kept=0.0 if batch.n_particles == n else batch.memory_of_beliefs,
        ),
        iteration=iteration,
        references=references,
        data=data,
        weight=weight,
        assignments=state.assignments if iteration == 1 else _assigned(state.assignments, sums, iteration),
        perturbation=moved,
        tried=(),
    )
    row = {
        "iteration": iteration,
        "n_particles": batch.n_particles,
        "resolution_angstrom": batch.resolution_angstrom,
        "shell": search.fine_shell,
        "healpix_order": batch.healpix_order,
        "has_symmetry": float(batch.has_symmetry),
        "offset_step_angstrom": offset_step_angstrom(batch),
        "agreement_angstrom": shells.resolution_at_threshold(fsc[largest], problem.volume_grid, 0.5),
        "mean_max_probability": float(found.max_probability.mean()) if iteration > 1 else math.nan,
        "log_likelihood": float(found.log_likelihood.mean()) if iteration > 1 else math.nan,
        "median_n_significant": float(np.median(found.n_significant)) if iteration > 1 else math.nan,
        "lost_mass": float(found.lost_mass.mean()) if iteration > 1 else math.nan,
        "offset_sigma_angstrom": after.offset_sigma_angstrom,
        "seconds": time.monotonic() - began,
    }
    return replace(after, history=grown(state.history, row))


def _believing(
    problem: VolumeProblem, state: InitialModelState, sums: Sums, *, is_first: bool, kept: float
) -> InitialModelState:
    """Return the state with what else a mini-batch tells: noise, offsets and shares of the classes."""
    if is_first:  # poses were drawn: nothing follows from how they fit
        return state
    beliefs = Beliefs(noise_variance=state.noise_variance, scale=np.ones(problem.data.n_micrographs))
    beliefs = updated_beliefs(problem.data, beliefs, sums, scale_correction=False, kept=kept)
    mass = sums.class_mass.sum(0)
    variance = max(float(sums.offset_square.sum() / (2 * mass.sum())), MIN_OFFSET_VARIANCE_ANGSTROM2)
    return replace(
        state,
        noise_variance=beliefs.noise_variance,
        offset_sigma_angstrom=math.sqrt(kept * state.offset_sigma_angstrom**2 + (1 - kept) * variance),
        fractions=kept * state.fractions + (1 - kept) * mass / mass.sum(),
    )


def _assigned(before: Assignments, sums: Sums, iteration: int) -> Assignments:
    found = sums.estimates
    columns = {name: getattr(before, name).copy() for name in Assignments.__dataclass_fields__}
    for name, values in columns.items():
        values[found.row] = iteration if name == "seen_in" else getattr(found, name)
    return Assignments(**columns)


def _with_axes(problem: VolumeProblem, state: InitialModelState) -> InitialModelState:
    """Return the state with each map turned so that its axes lie where the symmetry has them."""
    grid = problem.volume_grid
    references, correlation = [], []
    for values in state.references:
        axes = find_axes(values, grid, problem.symmetry)
        references.append(aligned(values, grid, axes) * problem.solvent_mask)
        correlation.append(axes.correlation)
    return replace(
        state,
        references=torch.stack(references),
        symmetry_correlation=torch.tensor(correlation, dtype=torch.float64),
    )


def _largest_factor(number: int) -> int:
    largest, factor = 1, 2
    while number > 1:
        while number % factor == 0:
            number, largest = number // factor, factor
        factor += 1
    return largest
