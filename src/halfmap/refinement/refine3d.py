"""3D refinement: two halves of the particles, each against its own map, until neither map nor poses gain.

A step of halfmap: `start`, `advance` until `is_done`, then `finish`. What passes between the halves is the FSC, what
lies below the join, the sampling and the decisions on it, the mask, the mean Pmax, and whether one half is the mirror
image of the other: nothing else.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.data.refinement_run import RefinementRun
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.fourier.slices import PaddedGrid
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference import expectation
from halfmap.inference.accuracy import volume_pose_accuracy
from halfmap.inference.beliefs import Beliefs, measured_norms, updated_beliefs
from halfmap.inference.expectation import Model
from halfmap.inference.first_noise import first_noise_variance, some_rows
from halfmap.inference.iterate import grown
from halfmap.inference.maximisation import MIN_OFFSET_VARIANCE_ANGSTROM2
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.reconstruction import SliceAccumulator, join_low_shells
from halfmap.inference.sampling import perturbation
from halfmap.inference.sums import Sums
from halfmap.refinement import decisions, earlier
from halfmap.refinement.half_map_curves import (
    fsc_in_automatic_mask,
    fsc_of_joined,
    resolution_angstrom,
    unmasked_fsc,
    used_fsc,
)
from halfmap.refinement.hands import are_of_opposite_hands, turned_over
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.result import refinement_run
from halfmap.refinement.search import first_order, given_rotations, search_of, searched_around
from halfmap.refinement.state import HalfMap, Orientations, PoseSampling, Progression, RefinementState

CORRELATION_POWER = 100.0
"""Σ |C P|²/σ² that all slices have where only correlation counts: so much that the best pose has nearly all weight."""

SCALE_SIGNAL_TO_NOISE = 3.0
"""Grey scales of micrographs are told by shells where the maps' ratio of signal to noise is above this."""

ACCURACY_PARTICLES = 100
FIRST_SHELLS_BEYOND = 10
"""Shells beyond those of the first reference that the first maps get."""


def padding(params: RefinementParams) -> int:
    """Return by how much maps are padded before their transform."""
    return 1 if params.skip_padding else 2


def start(
    problem: RefinementProblem, params: RefinementParams, references: Sequence[Volume], executor: Executor
) -> RefinementState:
    """Make the first state: noise spectra of each half, the low-passed reference, and no pose.

    Parameters
    ----------
    references : one, or one for each half; on the grid of the maps.

    Raises
    ------
    InputError
        There is another number of references, one is not on the grid of the maps, or of one grey value, or particles
        have no rotations that the first search is around.
    """
    if len(references) not in (1, 2):
        raise InputError(f"There must be one reference, or one for each half; got {len(references)}.")
    n, grid = len(problem.particles), problem.grid
    rotation = given_rotations(problem, params)
    n_shells = shells.n_shells(grid)
    halves = []
    for volume, rows in zip((references[0], references[-1]), problem.half_sets.rows, strict=True):
        if volume.grid != problem.volume_grid:
            raise InputError(f"A reference must be on the maps' grid {problem.volume_grid}; got {volume.grid}.")
        values = volume.values.float()
        if not bool(torch.isfinite(values).all()) or float(values.std()) <= 1e-6 * float(values.abs().max()):
            raise InputError(
                "A reference must be a map of finite, different grey values; got one that is empty or not finite; "
                "check the file."
            )
        empty = torch.zeros(n_shells, dtype=torch.float64)
        halves.append(
            HalfMap(
                reference=_low_passed(problem, params, values),
                unregularised=torch.zeros(problem.volume_grid.shape),
                noise_variance=first_noise_variance(problem.data, rows),
                scale=np.ones(problem.data.n_micrographs),
                offset_sigma_angstrom=params.initial_offset_sigma_angstrom,
                error_variance=empty,
                ssnr=empty,
                completeness=empty,
            )
        )
    order, is_local = first_order(params, problem.symmetry)
    pixel = grid.pixel_size_angstrom
    origins = problem.particles.get("origin_angstrom", np.zeros((n, 2)))
    return RefinementState(
        iteration=0,
        halves=(halves[0], halves[1]),
        joined=torch.zeros(problem.volume_grid.shape),
        orientations=Orientations(
            rotation=rotation,
            origin_angstrom=np.array(origins, dtype=np.float64),
            norm=np.ones(n),
            max_probability=np.zeros(n),
            log_likelihood=np.zeros(n),
            lost_mass=np.zeros(n),
            n_significant=np.zeros(n, dtype=np.int64),
        ),
        fsc=torch.full((n_shells,), torch.nan, dtype=torch.float64),
        used_fsc=torch.full((n_shells,), torch.nan, dtype=torch.float64),
        join_shell=0,
        shell=min(_first_shell(problem, params) + FIRST_SHELLS_BEYOND, grid.side // 2 - 1),
        sampling=PoseSampling(
            healpix_order=order,
            is_local=is_local,
            offset_range_angstrom=params.offset_range.to_angstrom(pixel),
            offset_step_angstrom=params.offset_step.to_angstrom(pixel),
        ),
        progression=Progression(),
        rotation_accuracy_degrees=float("nan"),
        offset_accuracy_angstrom=float("nan"),
        is_last_next=params.max_iterations == 1,
    )


def resume(
    problem: RefinementProblem, params: RefinementParams, run: RefinementRun, executor: Executor
) -> RefinementState:
    """Make a first state from what another refinement, of any program, has left after an iteration.

    Parameters
    ----------
    problem : of particles with the halves and poses of the run; see `earlier.with_earlier_halves`.
    run : whose half maps, sampling and resolution are taken over.

    Raises
    ------
    InputError
        As of `start`; or the run has no iteration to go on from, or other maps than the particles ask for.

    Notes
    -----
    For how long map and poses have not gained is not taken over: they get an iteration to do so.
    """
    earlier.check_earlier(run)
    begun = start(problem, params, earlier.maps_of(run, problem.volume_grid), executor)
    state = earlier.taken_over(begun, run, problem.particles, problem.volume_grid)
    return _decided(problem, params, state, (float("nan"), float("nan")), run.resolution_angstrom, is_last=False)


def is_done(params: RefinementParams, state: RefinementState) -> bool:
    """Return whether the last iteration, with all particles joined, is done."""
    return state.outcome != "running"


def advance(
    problem: RefinementProblem,
    params: RefinementParams,
    state: RefinementState,
    executor: Executor,
    progress: Progress | None = None,
) -> RefinementState:
    """Run an iteration: an E-step of each half against its own map, then new maps, then decisions."""
    began = time.monotonic()
    iteration = state.iteration + 1
    by_correlation = iteration == 1 and not params.absolute_greyscale
    sampling = replace(
        state.sampling,
        perturbation=perturbation(params.seed, iteration, state.sampling.perturbation, params.perturbation),
    )
    # what the first iteration finds by correlation is low-passed again
    is_low_passed_twice = not params.absolute_greyscale
    is_low_passed = iteration <= (2 if is_low_passed_twice else 1)
    known = _first_shell(problem, params) if is_low_passed else _known_shell(state)
    search = search_of(
        problem,
        params,
        sampling,
        reference_shell=known,
        shell=state.shell,
        median_n_significant=_median_n_significant(state, told_from=3 if is_low_passed_twice else 2),
        rotation_accuracy_degrees=state.rotation_accuracy_degrees,
        is_thorough=state.progression.tells_poses,
    )
    if by_correlation:
        search = replace(search, low_share=1.0)
    if progress is not None:
        progress.start(f"Iteration {iteration}", len(problem.particles))
    sums, accumulators = [], []
    for half in (0, 1):
        found = _expected(problem, params, state, half, search, executor, iteration, by_correlation, progress)
        accumulators.append(_accumulator(problem, params, found))
        sums.append(found.without_references())
        del found  # its slices need as much memory as the accumulator
    orientations = _updated_orientations(problem, params, state.orientations, sums, by_correlation)
    field = problem.grid.side * problem.grid.pixel_size_angstrom
    known_resolution = state.progression.resolution_angstrom
    join = decisions.join_shell(
        params.join_resolution_angstrom, min(known_resolution, params.initial_low_pass_angstrom), field
    )
    joined = join_low_shells(accumulators[0], accumulators[1], join)
    plain = [one.volume() for one in joined]
    is_turned_over = are_of_opposite_hands(plain, problem.volume_grid, join)
    if is_turned_over:
        accumulators[1], orientations = turned_over(accumulators[1], orientations, problem.half_sets.rows[1])
        joined = join_low_shells(accumulators[0], accumulators[1], join)
        plain = [one.volume() for one in joined]
    del accumulators
    fsc = unmasked_fsc(problem, plain, state.shell)
    used = used_fsc(problem, params, plain, fsc, state.shell)
    is_last = state.is_last_next
    halves = tuple(
        _updated_half(problem, params, state.halves[h], sums[h], joined[h], plain[h], used, by_correlation)
        for h in (0, 1)
    )
    whole = state.joined
    if is_last:
        total = joined[0].joined(joined[1])  # of what has been joined the sum stays what it was
        # twice the signal-to-noise ratio of a half
        known_of_both = used.nan_to_num(0.0).clamp(min=0.0)
        whole = total.volume(2 * known_of_both / (1 + known_of_both), params.regularisation)
    changed = decisions.changes(
        state.orientations.rotation,
        orientations.rotation,
        state.orientations.origin_angstrom,
        orientations.origin_angstrom,
        problem.symmetry,
    )
    if iteration == 1:
        changed = (float("nan"), float("nan"))
    resolution = resolution_angstrom(fsc_of_joined(used) if is_last else used, problem, 0.5)
    after = replace(
        state,
        iteration=iteration,
        halves=(halves[0], halves[1]),
        joined=whole,
        orientations=orientations,
        fsc=fsc,
        used_fsc=used,
        join_shell=join,
        sampling=sampling,
    )
    after = _decided(problem, params, after, changed, resolution, is_last=is_last)
    row = {
        "iteration": iteration,
        "resolution_angstrom": resolution,
        "shell": state.shell,
        "healpix_order": sampling.healpix_order,
        "is_local": float(sampling.is_local),
        "rotation_step_degrees": sampling.rotation_step_degrees,
        "offset_step_angstrom": sampling.offset_step_angstrom,
        "offset_range_angstrom": sampling.offset_range_angstrom,
        "rotation_accuracy_degrees": after.rotation_accuracy_degrees,
        "offset_accuracy_angstrom": after.offset_accuracy_angstrom,
        "rotation_change_degrees": changed[0],
        "offset_change_angstrom": changed[1],
        "mean_max_probability": float(orientations.max_probability.mean()),
        "log_likelihood": float(orientations.log_likelihood.sum()),
        "median_n_significant": float(np.median(orientations.n_significant)),
        "lost_mass": float(orientations.lost_mass.mean()),
        "offset_sigma_angstrom": float(np.mean([half.offset_sigma_angstrom for half in halves])),
        "is_turned_over": float(is_turned_over),
        "seconds": time.monotonic() - began,
    }
    return replace(after, history=grown(state.history, row))


def finish(problem: RefinementProblem, params: RefinementParams, state: RefinementState) -> RefinementRun:
    """Return what a state says of maps and particles."""
    return refinement_run(problem, params, state)


def _expected(
    problem: RefinementProblem,
    params: RefinementParams,
    state: RefinementState,
    half: int,
    search: Search,
    executor: Executor,
    iteration: int,
    by_correlation: bool,
    progress: Progress | None,
) -> Sums:
    """Run the E-step of one half against its own map."""
    mine, found = state.halves[half], state.orientations
    told = torch.nonzero(mine.ssnr > SCALE_SIGNAL_TO_NOISE).flatten()
    model = Model(
        references=mine.reference[None],
        padding=padding(params),
        priors=Priors(
            fractions=torch.ones(1, dtype=torch.float64),
            offset_sigma_angstrom=mine.offset_sigma_angstrom,
            prior_offset_angstrom=torch.zeros((1, 2), dtype=torch.float64),
        ),
        noise_variance=mine.noise_variance
        / decisions.likelihood_power(state.rotation_accuracy_degrees, tells_poses=state.progression.tells_poses),
        scale=mine.scale,
        norm=found.norm,
        origin_angstrom=found.origin_angstrom,
        search=search,
        rotation=searched_around(problem, params, state.sampling, found),
        iteration=iteration,
        scale_shell=int(told.max()) if len(told) and not by_correlation else 0,
        slice_power=CORRELATION_POWER if by_correlation else None,
    )
    rows = problem.half_sets.rows[half]
    return expectation.expect(problem.sent, model, problem.data, rows, executor, progress=progress)


def _accumulator(problem: RefinementProblem, params: RefinementParams, sums: Sums) -> SliceAccumulator:
    grid = PaddedGrid(problem.volume_grid, padding=padding(params))
    found = SliceAccumulator(data=sums.slices.data[0, 0], weight=sums.slices.weight[0, 0], grid=grid)
    return found.symmetrised(problem.symmetry)


def _updated_half(
    problem: RefinementProblem,
    params: RefinementParams,
    before: HalfMap,
    sums: Sums,
    accumulator: SliceAccumulator,
    plain: Tensor,
    fsc: Tensor,
    by_correlation: bool,
) -> HalfMap:
    reference = accumulator.volume(fsc, params.regularisation)
    if by_correlation:
        reference = _low_passed(problem, params, reference)
    beliefs = Beliefs(noise_variance=before.noise_variance, scale=before.scale)
    if not by_correlation:  # residuals against a reference of another scale say nothing
        beliefs = updated_beliefs(problem.data, beliefs, sums, scale_correction=params.scale_correction)
    mass = float(sums.class_mass.sum())
    variance = max(float(sums.offset_square.sum()) / (2 * mass), MIN_OFFSET_VARIANCE_ANGSTROM2)
    known = fsc.nan_to_num(0.0).clamp(0.001, 0.999)
    return HalfMap(
        reference=reference * problem.solvent_mask,
        unregularised=plain,
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        offset_sigma_angstrom=variance**0.5,
        error_variance=accumulator.error_variance(),
        ssnr=params.regularisation * known / (1 - known),
        completeness=accumulator.completeness(),
    )


def _updated_orientations(
    problem: RefinementProblem,
    params: RefinementParams,
    before: Orientations,
    sums: Sequence[Sums],
    by_correlation: bool,
) -> Orientations:
    columns = {name: getattr(before, name).copy() for name in Orientations.__dataclass_fields__}
    for one in sums:
        found = one.estimates
        if params.norm_correction and not by_correlation:
            columns["norm"][found.row] = measured_norms(before.norm[found.row], found, problem.data.group[found.row])
        for name in columns:
            if name != "norm":
                columns[name][found.row] = getattr(found, name)
    return Orientations(**columns)


def _decided(
    problem: RefinementProblem,
    params: RefinementParams,
    state: RefinementState,
    changed: tuple[float, float],
    resolution_angstrom: float,
    *,
    is_last: bool,
) -> RefinementState:
    """Return the state with what the next iteration shall do."""
    if is_last:
        has_converged = decisions.has_converged(state.progression, params.finer_faster)
        return replace(state, outcome="converged" if has_converged else "iteration limit")
    accuracy = _accuracy(problem, params, state)
    progression = decisions.progressed(
        state.progression,
        resolution_angstrom=resolution_angstrom,
        rotation_change_degrees=changed[0],
        offset_change_angstrom=changed[1],
        rotation_accuracy_degrees=accuracy[0],
        log_likelihood_growth=_log_likelihood_growth(state),
        sampling=state.sampling,
    )
    _, local_from = decisions.first_orders(problem.symmetry, params.healpix_order, params.local_from_order)
    sampling = state.sampling
    if state.iteration > 1:
        sampling, progression = decisions.next_sampling(
            sampling,
            progression,
            rotation_accuracy_degrees=accuracy[0],
            offset_accuracy_angstrom=accuracy[1],
            offset_change_angstrom=changed[1],
            resolution_angstrom=resolution_angstrom,
            mask_diameter_angstrom=params.mask_diameter_angstrom,
            local_from_order=local_from,
            finer_faster=params.finer_faster,
        )
    is_last_next = (
        decisions.has_converged(progression, params.finer_faster) or state.iteration >= params.max_iterations - 1
    )
    side = problem.grid.side
    if is_last_next:
        in_mask = fsc_in_automatic_mask(problem, params, state)
        shell = decisions.last_shell(state.used_fsc, in_mask, state.shell, side)
    else:
        shell = decisions.next_shell(
            decisions.resolution_shell(state.used_fsc),
            decisions.crossing_shell(state.used_fsc),
            state.shell,
            state.used_fsc,
            float(state.orientations.max_probability.mean()),
            side,
        )
    return replace(
        state,
        shell=shell,
        sampling=sampling,
        progression=progression,
        rotation_accuracy_degrees=accuracy[0],
        offset_accuracy_angstrom=accuracy[1],
        is_last_next=is_last_next,
    )


def _accuracy(problem: RefinementProblem, params: RefinementParams, state: RefinementState) -> tuple[float, float]:
    """Return the expected errors of poses of some particles of the first half: degrees, Å."""
    half = state.halves[0]
    mine = problem.half_sets.rows[0]
    rows = some_rows(mine, ACCURACY_PARTICLES, problem.data.particles, params.seed)
    band = FourierBand(problem.grid, max_shell=max(1, decisions.resolution_shell(state.used_fsc)))
    information = torch.ones((len(rows), len(band)))
    if params.ctf:
        some = problem.data.particles.take(rows)
        transfer = contrast_transfer(some, band.frequencies, intact_first_peak=params.ctf_intact_first_peak)
        information = transfer.abs().square().float()
    scale = torch.from_numpy(half.scale[problem.data.micrograph[rows]]).float()[:, None]
    variance = half.noise_variance[problem.data.group[rows]].float()[:, band.shell_of]
    transform = slices.prepare(half.reference, problem.volume_grid, padding=padding(params))
    rotations = torch.from_numpy(state.orientations.rotation[rows])
    return volume_pose_accuracy(transform, band, information * scale.square() / variance, rotations)


def _log_likelihood_growth(state: RefinementState) -> float:
    """Return by how much the likelihood of a particle exceeds that of the iteration last written down, in nats."""
    before = state.history.get("log_likelihood", np.empty(0))
    now = state.orientations.log_likelihood
    return (float(now.sum()) - float(before[-1])) / len(now) if len(before) else float("nan")


def _median_n_significant(state: RefinementState, *, told_from: int) -> float:
    """Return how many coarse poses had weight; infinity while references were low-passed before iteration told_from."""
    return float(np.median(state.orientations.n_significant)) if state.iteration >= told_from else float("inf")


def _known_shell(state: RefinementState) -> int:
    """Return the last shell in which the references hold anything: a band that grows does so before they do."""
    known = torch.nonzero(state.used_fsc.nan_to_num(0.0)).flatten()
    return max(1, min(int(known[-1]), state.shell)) if len(known) else state.shell


def _first_shell(problem: RefinementProblem, params: RefinementParams) -> int:
    """Return the last shell of the low-passed reference: where the soft edge ends."""
    side, pixel = problem.grid.side, problem.grid.pixel_size_angstrom
    return max(1, min(int(np.ceil(side * pixel / params.initial_low_pass_angstrom - 1e-9)) + 1, side // 2 - 1))


def _low_passed(problem: RefinementProblem, params: RefinementParams, volume: Tensor) -> Tensor:
    grid = problem.volume_grid
    passed = apply_filter(volume, grid, low_pass(grid, params.initial_low_pass_angstrom))
    return passed * problem.solvent_mask
