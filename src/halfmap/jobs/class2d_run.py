"""The course of ``halfmap class2d``: from the particle table to files and page, saved after every iteration."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.classification import class2d
from halfmap.classification.closing import join_resolution_angstrom, repeated
from halfmap.classification.earlier import check_earlier
from halfmap.classification.memory import bytes_in_main_process, bytes_of_task, n_tasks
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.ranking.scores import score
from halfmap.classification.state import ClassificationState
from halfmap.data.class_averages import ClassRun
from halfmap.data.repeats import NEAR_DIAMETERS
from halfmap.io.relion_classes import particle_table, read_class_run, write_class_run
from halfmap.jobs.class2d import Class2DJobParams
from halfmap.jobs.class2d_members import members
from halfmap.jobs.class2d_report import class2d_report
from halfmap.jobs.page_pace import PagePace
from halfmap.jobs.particle_inputs import ParticleInputs, check_same_particles, one_source, read_particle_inputs
from halfmap.jobs.step_states import StepStates
from halfmap.project.job import JobContext

WRITTEN_EVERY = {"em": 5, "vdam": 10}
"""Iterations after which files are written; they are at the end in any case."""

_FEW_REPEATED = 0.01  # share of particles found twice which goes without saying
_FEW_CHANGED = 0.02  # share of particles that change class which goes without saying

_FIRST_PAGE_SECONDS = 3.0  # that drawing one takes, as long as none has been drawn


def classify(context: JobContext, params: Class2DJobParams) -> Path:
    """Classify, and return the path of the last ``run_itNNN_data.star``.

    Raises
    ------
    InconsistentDataError
        A job goes on, and its particles are not those that it began with.
    """
    earlier = None
    if params.start_from is not None:
        earlier = read_class_run(params.start_from, project=context.project)
        check_earlier(earlier, params)
    with read_particle_inputs(
        context,
        params.particles,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        needs_ctf=params.ctf,
        n_classes=params.classes,
    ) as inputs:
        course = _Course(context, params, inputs)
        states = StepStates(context, "class2d", ClassificationState)
        state = states.newest()
        if state is None:
            context.progress.start("First noise spectra and references", None)
            state = class2d.start(course.problem, params, context.executor, run=earlier)
            states.save(0, state)
        else:
            check_same_particles(len(state.assignments.class_index), len(inputs.particles))
            context.progress.message(f"Goes on after {_place(params, state)}.")
        context.progress.message(state.reason)
        course.leave(state)
        for current in states.follow(state, course.advance, lambda last: class2d.is_done(params, last), _number):
            course.tell(current)
            course.leave(current)
            state = current
        output = course.finish(state)
        states.keep_only_newest()
        return output


class _Course:
    """A running job."""

    def __init__(self, context: JobContext, params: Class2DJobParams, inputs: ParticleInputs) -> None:
        self.context, self.params, self.inputs = context, params, inputs
        self.page_pace = PagePace(_FIRST_PAGE_SECONDS)
        self.scores: NDArray[np.float64] | None = None
        self.warnings = inputs.warnings
        images, index = one_source(inputs)
        if len(inputs.images) > 1:
            context.progress.message(
                f"All images are compared on one grid, {images.grid.side} px of {images.grid.pixel_size_angstrom:.5g} "
                "Å, that of most particles; the others are brought to it as they are read."
            )
        n = len(inputs.particles)
        context.expect_memory(bytes_in_main_process(images.grid, params, n), "references, sums and states")
        context.expect_memory(
            bytes_of_task(images.grid, params, n), "comparing images with references", n_tasks=n_tasks(images.grid, n)
        )
        self.problem = ClassificationProblem.of(
            inputs.particles,
            images,
            params,
            context.executor,
            index=index,
            background_mean=inputs.background_mean,
            background_deviation=inputs.background_deviation,
        )

    def advance(self, state: ClassificationState) -> ClassificationState:
        return class2d.advance(self.problem, self.params, state, self.context.executor, self.context.progress)

    def tell(self, state: ClassificationState) -> None:
        """Say in a line what an iteration or a pass of the closing stage has brought."""
        if state.closing is not None:
            if class2d.is_done(self.params, state):
                self.context.progress.message(f"{_reached(self._run(state))}.")
            return
        line = f"{_place(self.params, state).capitalize()}: {_figures(state)}."
        if state.algorithm == "em" or self._is_due(state):
            self.context.progress.message(line)
        else:
            self.context.log(line)
        if state.outcome != "running":
            self.context.progress.message(f"Ended after {_count(state)}: {stop_reason(self.params, state)}.")

    def leave(self, state: ClassificationState) -> None:
        """Write files and page where it is time for them."""
        if state.closing is None and self._is_due(state):
            self._write(state)
        if state.iteration > 0 and self.page_pace.is_due():
            self._report(state)

    def finish(self, state: ClassificationState) -> Path:
        """Score the classes, write their files and the page as they stay; return the table of particles."""
        found = repeats_told(self.problem, self.params, state)
        for warning in found:
            self.context.progress.message(f"Warning: {warning}")
        self.warnings = (*self.warnings, *found)
        averages = self._run(state).averages
        self.scores = score(averages, mask_diameter_angstrom=self.params.mask_diameter_angstrom)
        optimiser = self._write(state)
        self._report(state)
        return particle_table(optimiser, project=self.context.project)

    def _is_due(self, state: ClassificationState) -> bool:
        return state.iteration % WRITTEN_EVERY[state.algorithm] == 0 or state.outcome != "running"

    def _run(self, state: ClassificationState) -> ClassRun:
        run = class2d.finish(self.problem, self.params, state)
        return run if self.scores is None else run.with_averages(run.averages.with_columns(score=self.scores))

    def _write(self, state: ClassificationState) -> Path:
        return write_class_run(self.context.folder, "run", self._run(state), relative=self.context.relative)

    def _report(self, state: ClassificationState) -> None:
        with self.page_pace.drawing():
            run, params, data = self._run(state), self.params, self.problem.data
            is_done = class2d.is_done(params, state)
            history = state.history_table.with_columns(current_size_pixel=2 * state.history["shell"])
            page = class2d_report(
                run,
                history,
                members=members(
                    run,
                    data.source,
                    index=data.index,
                    background_mean=data.background,
                    background_deviation=data.deviation,
                ),
                warnings=self.warnings,
                algorithm_reason=state.reason,
                stop_reason=stop_reason(params, state) if is_done else "",
                joined_up_to_angstrom=join_resolution_angstrom(params.mask_diameter_angstrom)
                if state.closing
                else None,
                n_set_aside=len(self.inputs.rejected),
            )
            if state.outcome != "running" and not is_done:
                page = replace(page, status="closing stage")
            self.context.report(page)


def repeats_told(
    problem: ClassificationProblem, params: Class2DJobParams, state: ClassificationState
) -> tuple[str, ...]:
    """Return whether particles were found more than once, in a sentence."""
    n = len(problem.particles)
    n_repeated = n - len(np.unique(repeated(problem, params, state)))
    if n_repeated <= _FEW_REPEATED * n:
        return ()
    distance = NEAR_DIAMETERS * params.mask_diameter_angstrom
    return (
        f"Each particle should be found once; got {n_repeated} of {n} within {distance:.0f} Å of one before: picks "
        "beside a particle have moved to it. In the closing stage they are in one half; `halfmap select duplicates "
        f"--min-distance {distance:.0f}` keeps one of each.",
    )


def stop_reason(params: Class2DJobParams, state: ClassificationState) -> str:
    """Return why the main iterations have ended."""
    if state.outcome == "converged":
        changed = float(state.history["changed_share"][-1])
        if changed > _FEW_CHANGED:
            return f"neither likelihood nor classes gain any more; {100 * changed:.0f} % of particles fit several alike"
        return "nothing changes any more"
    asked = params.iterations if state.algorithm == "em" else params.minibatches
    return f"the {asked} {_noun(state, asked)} asked for are done"


def _number(state: ClassificationState) -> int:
    return state.iteration + (0 if state.closing is None else state.closing.n_done)


def _noun(state: ClassificationState, n: int) -> str:
    one, many = ("iteration", "iterations") if state.algorithm == "em" else ("mini-batch", "mini-batches")
    return one if n == 1 else many


def _count(state: ClassificationState) -> str:
    return f"{state.iteration} {_noun(state, state.iteration)}"


def _place(params: Class2DJobParams, state: ClassificationState) -> str:
    if state.closing is not None:
        return f"closing pass {state.closing.n_done} of {params.closing_passes}"
    return f"{_noun(state, 1)} {state.iteration}"


def _figures(state: ClassificationState) -> str:
    """Return what matters of an iteration."""
    last = {name: float(values[-1]) for name, values in state.history.items()}
    changed = last["changed_share"]
    resolution = last["resolution_angstrom"]
    return ", ".join(
        [
            f"log-likelihood {last['log_likelihood'] / last['n_particles_used']:.2f} a particle",
            f"model SSNR {resolution:.1f} Å" if math.isfinite(resolution) else "no shell above model SSNR 1",
            f"Pmax {last['mean_max_probability']:.2f}",
            *([f"{100 * changed:.1f} % changed class"] if math.isfinite(changed) else []),
            f"{last['occupied_classes']:.0f} of {len(state.references.fractions)} classes occupied",
            f"{last['seconds']:.1f} s",
        ]
    )


def _reached(run: ClassRun) -> str:
    resolution = run.averages["frc_resolution_angstrom"]
    known = resolution[np.isfinite(resolution)]
    if not len(known):
        return "The halves of no class agree beyond where they are joined"
    return (
        f"FRC resolution {known.min():.1f} Å at best, {np.median(known):.1f} Å in the median, of {len(known)} of "
        f"{len(resolution)} classes"
    )
