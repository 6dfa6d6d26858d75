"""First maps of the halves in ``halfmap refine3d``, where its reference tells no rotations."""

from collections.abc import Callable
from dataclasses import replace

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.jobs.initial_model_run import TOLD_EVERY, line
from halfmap.jobs.refine3d import Refine3DJobParams
from halfmap.jobs.step_states import StepStates
from halfmap.project.job import JobContext
from halfmap.refinement.first_maps import (
    LEAST_OFF_ROUND,
    STARTS,
    agreeing_pair,
    begins_by_itself,
    detail_angstrom,
    first_map_params,
    half_problem,
    off_round,
)
from halfmap.refinement.initial_model import ab_initio, memory
from halfmap.refinement.initial_model.schedule import n_iterations
from halfmap.refinement.initial_model.state import InitialModelState
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.search import first_order


def with_first_maps(
    context: JobContext, params: Refine3DJobParams, references: tuple[Volume, ...]
) -> Refine3DJobParams | None:
    """Return how to go on from first maps of the halves, and say why; None where the references do.

    Raises
    ------
    InputError
        There is no reference, and first maps would show more than may be compared, or the first search is around
        rotations that hold for a map of one hand, which first maps may not have.
    """
    detail, limit = detail_angstrom(params), params.max_resolution_angstrom
    if params.begins_with_nothing:
        if limit is not None and limit >= detail:
            raise InputError(
                f"--max-resolution must be finer than {detail:.3g} Å, the details of first maps of this "
                f"--mask-diameter; got {limit:g} Å; give a smaller number, or a --reference."
            )
        order, is_local = first_order(params, params.symmetry)
        if is_local:
            raise InputError(
                f"Local searches from the start (order {order}) must come with the map that the angles hold for; got "
                "none; name it as --reference, or give a smaller --healpix-order."
            )
        why = "There is no reference."
    elif references and begins_by_itself(references, params):
        told, needed = (f"{100 * share:.1f} %" for share in (off_round(references, params), LEAST_OFF_ROUND))
        why = (
            f"Low-passed at {params.initial_low_pass_angstrom:g} Å the reference looks alike from all sides: turning "
            f"it changes {told} of its power, where {needed} are needed to tell how particles are turned."
        )
    else:
        return None
    context.progress.message(
        f"{why} So each half makes a first map from its own particles alone, with details of {detail:.3g} Å, and "
        "begins with that."
    )
    return replace(params, initial_low_pass_angstrom=detail)


def first_maps(
    context: JobContext, problem: RefinementProblem, params: Refine3DJobParams, warn: Callable[[str], None]
) -> tuple[Volume, Volume] | None:
    """Make first maps of each half, saved after every mini-batch, until one of each agree; return these.

    Notes
    -----
    Which of few maps agree is all that passes between the halves. Where none do, None is returned; the first ones
    where there is nothing else to begin with.
    """
    firsts: list[Volume] = []
    seconds: list[Volume] = []
    for number in range(STARTS):
        firsts.append(_first_map(context, problem, params, 0, number))
        seconds.append(_first_map(context, problem, params, 1, number))
        found = agreeing_pair(firsts, seconds, params)
        if found is not None:
            context.progress.message(f"First maps of both halves agree: FSC {found[1]:.2f} beside what is round.")
            return found[0]
        context.progress.message("First maps of the halves do not agree: one or the other is wrong.")
    warn(none_agree(params))
    return (firsts[0], seconds[0]) if params.begins_with_nothing else None


def none_agree(params: Refine3DJobParams) -> str:
    """Return the warning that no first maps of the halves agree."""
    goes_on = "from the first of them" if params.begins_with_nothing else "from the reference after all"
    return (
        f"None of {STARTS} first maps that each half has made agrees with one of the other half's; the refinement goes "
        f"on {goes_on}, and is likely to end in a wrong map. Try another --seed, or a reference that shows more at a "
        "finer --initial-low-pass."
    )


def are_first_maps_kept(context: JobContext) -> bool:
    """Return whether first maps are there that a refinement has begun with."""
    return _states(context, 0, 0).newest() is not None


def forget_first_maps(context: JobContext) -> None:
    """Remove what was saved of first maps: when a refinement has ended, or is to begin without them."""
    for half in (0, 1):
        for number in range(STARTS):
            _states(context, half, number).forget()


def _first_map(
    context: JobContext, problem: RefinementProblem, params: Refine3DJobParams, half: int, number: int
) -> Volume:
    settings = first_map_params(params, half, number)
    own = half_problem(problem, settings, half, context.executor)
    n = len(own.particles)
    context.expect_memory(memory.bytes_in_main_process(own.grid, settings, n), "the first map of a half")
    context.expect_memory(
        memory.bytes_of_task(own.grid, settings, n),
        "comparing images with slices of the first maps",
        n_tasks=memory.n_tasks(own.grid, n),
    )
    states = _states(context, half, number)
    state = states.newest()
    if state is None:
        state = ab_initio.start(own, settings)

    def advance(before: InitialModelState) -> InitialModelState:
        return ab_initio.advance(own, settings, before, context.executor, context.progress)

    for current in states.follow(
        state, advance, lambda last: ab_initio.is_done(settings, last), lambda last: last.iteration
    ):
        is_due = current.iteration % TOLD_EVERY == 0 or ab_initio.is_done(settings, current)
        say = context.progress.message if is_due else context.log
        say(f"First map of half {half + 1}: {line(current, n_iterations(settings))}")
        state = current
    return ab_initio.finish(own, settings, state).volumes[0]


def _states(context: JobContext, half: int, number: int) -> StepStates[InitialModelState]:
    return StepStates(context, f"first_map_{half + 1}{'abc'[number]}", InitialModelState)
