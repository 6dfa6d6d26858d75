"""2D classification: class averages by regularised likelihood, all particles at a time (EM) or in mini-batches (VDAM).

A step of halfmap: `start`, `advance` until `is_done`, then `finish`; `classify` does all.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.classification import centring, decisions, earlier, passes, revival, starting
from halfmap.classification.closing import advance_closing, begin_closing
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.result import class_run, ssnr_resolutions
from halfmap.classification.search import search_of
from halfmap.classification.state import Assignments, ClassificationState, References
from halfmap.compute.executor import Executor
from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.progress import Progress
from halfmap.data.class_averages import ClassRun
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.geometry.euler import in_plane_degrees
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.inference import sampling, vdam
from halfmap.inference.accuracy import pose_accuracy
from halfmap.inference.beliefs import Beliefs, updated_beliefs
from halfmap.inference.first_noise import first_noise_variance
from halfmap.inference.iterate import grown, iterate
from halfmap.inference.sums import Sums


def classify(
    particles: ParticleSet,
    images: ImageSource,
    params: ClassificationParams,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> ClassRun:
    """Classify particle images in two dimensions.

    Parameters
    ----------
    particles : with the columns of the CTF, unless ``params.ctf`` is off, in the order of the images.
    images : particles bright, background of mean 0 and deviation 1.
    params : how.
    executor : runs the E-step; None: this process.
    progress : hears of every iteration.

    Returns
    -------
    `ClassRun`

    Raises
    ------
    InputError
        Particles, images and parameters do not fit together.
    """
    with executor or InProcessExecutor() as running:
        problem = ClassificationProblem.of(particles, images, params, running)
        state = start(problem, params, running)
        for current in iterate(
            state,
            lambda before: advance(problem, params, before, running, progress),
            lambda last: is_done(params, last),
        ):
            state = current
        return finish(problem, params, state)


def start(
    problem: ClassificationProblem,
    params: ClassificationParams,
    executor: Executor,
    *,
    run: ClassRun | None = None,
) -> ClassificationState:
    """Make first references, noise spectra and assignments.

    Parameters
    ----------
    run : an earlier classification, whose class averages, classes and poses are taken over
        (`halfmap.classification.earlier`); None: references are made of the images themselves
        (`halfmap.classification.starting`).

    Raises
    ------
    InputError
        The earlier classification has another number of classes.
    """
    n = len(problem.particles)
    algorithm, reason = decisions.choose_algorithm(
        n,
        params.algorithm,
        params.classes,
        iterations=params.iterations,
        minibatches=params.minibatches,
        sizes=minibatch_sizes(params),
    )
    noise = first_noise_variance(problem.data)
    assignments = _first_assignments(problem)
    beliefs = Beliefs(noise_variance=noise, scale=np.ones(problem.data.n_micrographs))
    if run is None:
        references = starting.references(problem, params, assignments, beliefs, executor)
        shell, reference_shell = starting.first_shell(problem, params), starting.reference_shell(problem, params)
    else:
        references = earlier.references_of(run, problem, params)
        assignments = earlier.assignments_of(run, problem, assignments)
        shell = reference_shell = earlier.first_shell(run, problem, params)
    moments = None
    if algorithm == "vdam":
        moments = vdam.Moments.none(params.classes, len(FourierBand(problem.grid)))
    pixel = problem.grid.pixel_size_angstrom
    unknown = torch.full((params.classes,), torch.nan, dtype=torch.float64)
    return ClassificationState(
        iteration=0,
        algorithm=algorithm,
        reason=reason,
        references=references,
        assignments=assignments,
        noise_variance=noise,
        scale=beliefs.scale,
        shell=shell,
        reference_shell=reference_shell,
        perturbation=0.0,
        psi_step_degrees=params.psi_step_degrees,
        offset_step_angstrom=params.offset_step.to_angstrom(pixel),
        rotation_accuracy_degrees=unknown,
        offset_accuracy_angstrom=unknown,
        moments=moments,
    )


def _first_assignments(problem: ClassificationProblem) -> Assignments:
    particles = problem.particles
    n = len(particles)
    psi = np.zeros(n)
    if "rotation" in particles:
        rotation = particles["rotation"]
        psi = np.degrees(np.arctan2(rotation[:, 0, 1], rotation[:, 0, 0]))
    norm = np.asarray(particles.get("norm_correction", 1.0), dtype=np.float64)
    origin = particles["origin_angstrom"] if "origin_angstrom" in particles else np.zeros((n, 2))
    return Assignments(
        class_index=np.full(n, -1, dtype=np.int64),
        psi_degrees=psi,
        origin_angstrom=np.array(origin, dtype=np.float64),
        norm=norm / norm.mean() if bool((norm > 0).all()) else np.ones(n),
        max_probability=np.zeros(n),
        log_likelihood=np.zeros(n),
        lost_mass=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
    )


def minibatch_sizes(params: ClassificationParams) -> vdam.Sizes:
    """Return the sizes of mini-batches that are asked for."""
    return vdam.Sizes(params.first_minibatch_size, params.last_minibatch_size)


def n_iterations(params: ClassificationParams, algorithm: str) -> int:
    """Return the most iterations of an algorithm."""
    return params.iterations if algorithm == "em" else params.minibatches


def is_done(params: ClassificationParams, state: ClassificationState) -> bool:
    """Tell whether main iterations and closing stage are complete."""
    if state.outcome == "running":
        return False
    return (state.closing is not None and state.closing.n_done >= params.closing_passes) or params.closing_passes == 0


def advance(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    executor: Executor,
    progress: Progress | None = None,
) -> ClassificationState:
    """Run one iteration, or one pass of the closing stage."""
    if state.outcome == "running":
        return _iteration(problem, params, state, executor, progress)
    closing = state.closing or begin_closing(problem, params, state)
    return replace(state, closing=advance_closing(problem, params, state, closing, executor, progress))


def _iteration(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    executor: Executor,
    progress: Progress | None,
) -> ClassificationState:
    began = time.monotonic()
    iteration = state.iteration + 1
    uids = problem.particles.uid
    rows = np.arange(len(uids))
    # the last mini-batch of VDAM holds all particles, so that each has an assignment
    last_of_vdam = state.algorithm == "vdam" and state.outcome == "running" and _stops_vdam(params, state)
    if state.algorithm == "vdam" and not last_of_vdam:
        rows = vdam.minibatch(params.seed, iteration, uids, params.minibatches, minibatch_sizes(params))
    whole = len(rows) == len(uids)
    perturbation = sampling.perturbation(params.seed, iteration, state.perturbation, params.perturbation)
    is_minibatch = state.algorithm == "vdam" and not last_of_vdam
    most = decisions.most_samples(params.classes, is_minibatch=is_minibatch)
    search = search_of(problem, params, state, perturbation=perturbation, most=most)
    beliefs = Beliefs(noise_variance=state.noise_variance, scale=state.scale)
    if progress is not None:
        progress.start(f"{'Iteration' if state.algorithm == 'em' else 'Mini-batch'} {iteration}", len(rows))
    sums = passes.run_expectation(
        problem,
        params,
        state.references,
        state.assignments,
        beliefs,
        search,
        rows,
        executor,
        iteration=iteration,
        pseudo_halves=state.algorithm == "vdam",
        progress=progress,
    )
    # of noise, scales, norms and priors; nothing is left to remember where all particles are looked at
    kept = 0.0 if whole else params.minibatch_memory
    references, moments, misfit = _maximised(problem, params, state, sums, search.shell, whole=whole)
    groups = problem.data.group if params.norm_correction else None
    assignments = passes.updated_assignments(state.assignments, sums.estimates, groups=groups, kept=kept)
    beliefs = updated_beliefs(problem.data, beliefs, sums, scale_correction=params.scale_correction, kept=kept)
    history = _history(problem, state, assignments, references, sums)
    revived_before = grown(state.history, {"revived_classes": 0})
    outcome = _outcome(
        params, state.algorithm, iteration, Table(columns={**history, **revived_before}), last_of_vdam=last_of_vdam
    )
    n_revived = 0
    if outcome == "running":
        # in the end classes stay as they were counted and averaged
        references, moments, n_revived = _revived(problem, params, state, references, moments, misfit)
    references, moments, assignments = _centred(problem, params, state, references, moments, assignments)
    rotation_accuracy, offset_accuracy = state.rotation_accuracy_degrees, state.offset_accuracy_angstrom
    if state.algorithm == "em" or iteration % 10 == 0 or whole:
        rotation_accuracy, offset_accuracy = pose_accuracy(
            references.masked, sums.curvature.sum(0), sums.class_mass.sum(0), problem.grid, search.shell
        )
    psi_step, offset_step = _next_steps(problem, params, rotation_accuracy, offset_accuracy)
    told = {"revived_classes": n_revived, "seconds": time.monotonic() - began}
    return replace(
        state,
        iteration=iteration,
        references=references,
        assignments=assignments,
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        shell=decisions.current_shell(references.ssnr, problem.grid.side, params.resolution_increment_shells),
        reference_shell=search.shell,
        perturbation=perturbation,
        psi_step_degrees=psi_step,
        offset_step_angstrom=offset_step,
        rotation_accuracy_degrees=rotation_accuracy,
        offset_accuracy_angstrom=offset_accuracy,
        moments=moments,
        history=history | grown(state.history, told),
        outcome=outcome,
    )


def _stops_vdam(params: ClassificationParams, state: ClassificationState) -> bool:
    """Tell whether the next mini-batch is the last: all particles."""
    if state.iteration + 1 >= params.minibatches:
        return True
    return (
        params.stop_early
        and state.iteration > 0
        and decisions.minibatches_change_nothing(state.history_table, params.minibatches)
    )


def _outcome(
    params: ClassificationParams, algorithm: str, iteration: int, history: Table, *, last_of_vdam: bool
) -> str:
    if algorithm == "vdam":
        if not last_of_vdam:
            return "running"
        return "iteration limit" if iteration >= params.minibatches else "converged"
    if params.stop_early and decisions.nothing_changes(history):
        return "converged"
    return "iteration limit" if iteration >= params.iterations else "running"


def _maximised(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    sums: Sums,
    shell: int,
    *,
    whole: bool,
) -> tuple[References, vdam.Moments | None, torch.Tensor | None]:
    """Return references after the M-step, and of VDAM its moments and each class's misfit."""
    iteration = state.iteration + 1
    if state.algorithm == "em":
        on = passes.on_band(problem, state.references, sums, shell, params.regularisation)
        return passes.maximised(problem, state.references, sums, on), None, None
    assert state.moments is not None
    strength = vdam.regularisation(min(iteration, params.minibatches), params.minibatches, params.regularisation)
    on = passes.on_band(problem, state.references, sums, shell, strength)
    band = FourierBand(problem.grid)
    kept = 0.0 if whole else params.minibatch_memory
    fractions = sums.class_mass.sum(0) / sums.class_mass.sum()
    update = vdam.update(
        band.gather(problem.grid.rfft(state.references.masked)),
        on.gradient,
        on.curvature,
        state.moments,
        step=vdam.step_size(
            min(iteration, params.minibatches),
            params.minibatches,
            vdam.Steps(params.first_minibatch_step, params.last_minibatch_step),
        ),
        regularisation=strength / problem.data.mask_power,
        fractions=fractions if whole else state.references.fractions,
        shell_of=band.shell_of,
        momentum=kept,
    )
    references = passes.described(problem, state.references, sums, on, update.references, band)
    before = state.references
    ssnr = torch.zeros_like(before.ssnr)
    ssnr[:, : update.signal_to_noise.shape[1]] = strength * update.signal_to_noise
    references = replace(
        references,
        ssnr=ssnr,
        fractions=kept * before.fractions + (1 - kept) * references.fractions,
        prior_offset_angstrom=kept * before.prior_offset_angstrom + (1 - kept) * references.prior_offset_angstrom,
        offset_sigma_angstrom=kept * before.offset_sigma_angstrom + (1 - kept) * references.offset_sigma_angstrom,
    )
    return references, update.moments, update.misfit


def _centred(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    references: References,
    moments: vdam.Moments | None,
    assignments: Assignments,
) -> tuple[References, vdam.Moments | None, Assignments]:
    """Move class averages to the centres of their boxes; offsets of the particles follow."""
    if not params.center or params.skip_alignment:
        return references, moments, assignments
    grid = problem.grid
    if state.algorithm == "vdam":
        first, between, _ = vdam.phases(params.minibatches)
        if state.iteration + 1 > first + between:
            return references, moments, assignments
    pixel = grid.pixel_size_angstrom
    least = centring.vdam_least_shift_angstrom(params.mask_diameter_angstrom, pixel) if moments is not None else 0.0
    moved = centring.centred(
        references.unmasked,
        grid,
        params.mask_diameter_angstrom,
        max_shift_angstrom=params.offset_range.to_angstrom(pixel),
        least_shift_angstrom=least,
    )
    if not bool(moved.shifts_angstrom.any()):
        return references, moments, assignments
    if moments is not None:
        moments = moments.shifted(phase_factors(FourierBand(grid).frequencies, moved.shifts_angstrom))
    seen = np.flatnonzero(assignments.class_index >= 0)
    zero = np.zeros(len(seen))
    origins = assignments.origin_angstrom.copy()
    origins[seen] = centring.following_origins(
        torch.from_numpy(origins[seen]),
        matrix_from_euler(zero, zero, assignments.psi_degrees[seen]),
        moved.shifts_angstrom[assignments.class_index[seen]],
    ).numpy()
    references = replace(
        references,
        unmasked=moved.averages,
        masked=moved.averages * problem.data.mask,
        plain=centring.moved(references.plain, grid, moved.shifts_angstrom),
    )
    return references, moments, replace(assignments, origin_angstrom=origins)


def _revived(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    references: References,
    moments: vdam.Moments | None,
    misfit: torch.Tensor | None,
) -> tuple[References, vdam.Moments | None, int]:
    """Replace a class that has lost its particles by the twin of another, and return how many were."""
    iteration = state.iteration + 1
    if params.class_inactivity == 0 or not revival.is_time(
        state.algorithm, iteration, n_iterations(params, state.algorithm)
    ):
        return references, moments, 0
    chosen = revival.replacement(
        references.fractions, len(problem.particles), misfit=misfit, inactivity=params.class_inactivity
    )
    if chosen is None:
        return references, moments, 0
    grid = problem.grid
    pattern = revival.difference(
        references.unmasked[chosen.donor],
        grid,
        params.mask_diameter_angstrom,
        seed=params.seed,
        iteration=iteration,
        mask_edge_angstrom=params.mask_edge_pixel * grid.pixel_size_angstrom,
    )
    unmasked, fractions = revival.divided(references.unmasked, references.fractions, chosen, pattern)
    offsets = references.prior_offset_angstrom.clone()
    offsets[chosen.dead] = offsets[chosen.donor]
    if moments is not None:
        moments = revival.divided_moments(moments, chosen, FourierBand(grid).gather(grid.rfft(pattern)))
    references = replace(
        references,
        unmasked=unmasked,
        masked=unmasked * problem.data.mask,
        fractions=fractions,
        prior_offset_angstrom=offsets,
    )
    return references, moments, 1


def _next_steps(
    problem: ClassificationProblem,
    params: ClassificationParams,
    rotation_accuracy: torch.Tensor,
    offset_accuracy: torch.Tensor,
) -> tuple[float, float]:
    pixel = problem.grid.pixel_size_angstrom
    psi_step, offset_step = params.psi_step_degrees, params.offset_step.to_angstrom(pixel)
    if not params.allow_coarser_sampling:
        return psi_step, offset_step
    return decisions.coarser_sampling(
        rotation_accuracy_degrees=float(np.nanmin(rotation_accuracy.numpy(), initial=np.inf)),
        offset_accuracy_angstrom=float(np.nanmin(offset_accuracy.numpy(), initial=np.inf)),
        psi_step_degrees=psi_step,
        offset_step_angstrom=offset_step,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel),
    )


def _history(
    problem: ClassificationProblem,
    state: ClassificationState,
    assignments: Assignments,
    references: References,
    sums: Sums,
) -> dict[str, NDArray[np.float64]]:
    """Return the history with a row of this iteration, but for what comes after the M-step."""
    found, before = sums.estimates, state.assignments
    rows = found.row
    known = before.class_index[rows] >= 0
    same = known & (before.class_index[rows] == found.class_index)
    turn = np.abs((in_plane_degrees(found.rotation) - before.psi_degrees[rows] + 180) % 360 - 180)[same]
    move = np.linalg.norm(found.origin_angstrom - before.origin_angstrom[rows], axis=1)[same]
    counts = np.bincount(found.class_index, minlength=len(references.masked))
    resolution = float(ssnr_resolutions(references.ssnr, problem.grid).min())
    row = {
        "iteration": state.iteration + 1,
        "log_likelihood": float(found.log_likelihood.sum()),
        "changed_share": 1.0 - float(same.sum()) / max(int(known.sum()), 1) if known.any() else np.nan,
        "resolution_angstrom": resolution,
        "shell": state.shell,
        "mean_max_probability": float(found.max_probability.mean()),
        "median_n_significant": float(np.median(found.n_significant)),
        "lost_mass": float(found.lost_mass.mean()),
        "offset_sigma_angstrom": references.offset_sigma_angstrom,
        "n_particles_used": len(rows),
        "occupied_classes": int((counts > 0).sum()),
        "psi_change_degrees": float(np.median(turn)) if len(turn) else np.nan,
        "offset_change_angstrom": float(np.median(move)) if len(move) else np.nan,
    }
    return grown(state.history, row)


def finish(problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState) -> ClassRun:
    """Return what a state says of classes and particles."""
    return class_run(problem, params, state)
