"""The course of ``halfmap initial-model``: from the particle table to map and page, saved after every mini-batch."""

import math
from pathlib import Path

from halfmap.io import mrc, relion
from halfmap.jobs.initial_model import InitialModelJobParams
from halfmap.jobs.initial_model_report import initial_model_report
from halfmap.jobs.page_pace import PagePace
from halfmap.jobs.particle_inputs import ParticleInputs, check_same_particles, one_source, read_particle_inputs
from halfmap.jobs.step_states import StepStates
from halfmap.project.job import JobContext
from halfmap.refinement.initial_model import ab_initio, memory
from halfmap.refinement.initial_model.result import InitialModel
from halfmap.refinement.initial_model.schedule import n_iterations
from halfmap.refinement.initial_model.state import InitialModelState

LEAST_SYMMETRY = 0.9
"""Correlation of a map with its symmetrised self below which it hardly has the symmetry."""

TOLD_EVERY = 10
"""Mini-batches after which a line is said."""

_FEW_PARTICLES = 200
_FIRST_PAGE_SECONDS = 3.0


def make_model(context: JobContext, params: InitialModelJobParams) -> Path:
    """Make the model, and return the path of the map of the most frequent class.

    Raises
    ------
    InputError
        The mask is wider than the box, or the symmetry unknown.
    InconsistentDataError
        A job goes on, and its particles are not those that it began with.
    """
    with read_particle_inputs(
        context,
        params.particles,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        needs_ctf=params.ctf,
        n_classes=params.classes,
    ) as inputs:
        course = _Course(context, params, inputs)
        states = StepStates(context, "initial_model", InitialModelState)
        state = states.newest()
        if state is None:
            context.progress.start("First noise spectra", None)
            state = ab_initio.start(course.problem, params)
            states.save(0, state)
        else:
            check_same_particles(len(state.assignments.class_index), len(inputs.particles))
            context.progress.message(f"Goes on after mini-batch {state.iteration}.")
        for current in states.follow(
            state, course.advance, lambda last: ab_initio.is_done(params, last), lambda last: last.iteration
        ):
            course.tell(state, current)
            course.leave(current)
            state = current
        output = course.finish(state)
        states.keep_only_newest()
        return output


class _Course:
    """A running job."""

    def __init__(self, context: JobContext, params: InitialModelJobParams, inputs: ParticleInputs) -> None:
        self.context, self.params, self.inputs = context, params, inputs
        self.warnings = list(inputs.warnings)
        self.page_pace = PagePace(_FIRST_PAGE_SECONDS)
        images, index = one_source(inputs)
        n = len(inputs.particles)
        if n < _FEW_PARTICLES * params.classes:
            self._warn(
                f"An initial model should be made from {_FEW_PARTICLES} particles or more for each class; got {n}; "
                "compare models of several seeds before one is trusted."
            )
        self.problem = ab_initio.problem_of(
            inputs.particles,
            images,
            params,
            context.executor,
            index=index,
            background_mean=inputs.background_mean,
            background_deviation=inputs.background_deviation,
        )
        grid = self.problem.grid
        context.progress.message(
            f"Images are compared at {grid.side} px of {grid.pixel_size_angstrom:.4g} Å, enough for details of "
            f"{params.finest_angstrom:.3g} Å; the first ones are of {params.coarsest_angstrom:.3g} Å."
        )
        context.expect_memory(memory.bytes_in_main_process(grid, params, n), "the program, sums, maps and states")
        context.expect_memory(
            memory.bytes_of_task(grid, params, n),
            "comparing images with slices of the maps",
            n_tasks=memory.n_tasks(grid, n),
        )

    def advance(self, state: InitialModelState) -> InitialModelState:
        return ab_initio.advance(self.problem, self.params, state, self.context.executor, self.context.progress)

    def tell(self, before: InitialModelState, state: InitialModelState) -> None:
        """Say in a line what a mini-batch has brought, and once what the axes of the symmetry are like."""
        correlation = state.symmetry_correlation
        if not bool(correlation.isnan().all()) and bool(before.symmetry_correlation.isnan().all()):
            values = ", ".join(f"{value:.3f}" for value in correlation.tolist())
            self.context.progress.message(
                f"Axes of {self.problem.symmetry} found: correlation of the map with its symmetrised self {values}."
            )
            if float(correlation[int(state.fractions.argmax())]) < LEAST_SYMMETRY:
                self._warn(self._doubt(float(correlation[int(state.fractions.argmax())])))
        is_due = state.iteration % TOLD_EVERY == 0 or ab_initio.is_done(self.params, state)
        say = self.context.progress.message if is_due else self.context.log
        say(line(state, n_iterations(self.params)))

    def leave(self, state: InitialModelState) -> None:
        """Draw the page where it is time for it."""
        if not ab_initio.is_done(self.params, state) and self.page_pace.is_due():
            self._report(ab_initio.finish(self.problem, self.params, state))

    def finish(self, state: InitialModelState) -> Path:
        """Write maps, particles, and the page as it stays; return the map of the most frequent class."""
        folder = self.context.folder
        found = ab_initio.finish(self.problem, self.params, state)
        if len(found.volumes) > 1:
            for number, volume in enumerate(found.volumes, start=1):
                mrc.write_volume(folder / f"run_class{number:03d}.mrc", volume)
        relion.write_particles(folder / "particles.star", found.particles)
        mrc.write_volume(folder / "initial_model.mrc", found.volumes[0])
        doubt = float(found.symmetry_correlation[0])
        if math.isfinite(doubt) and doubt < LEAST_SYMMETRY and self._doubt(doubt) not in self.warnings:
            self.warnings.append(self._doubt(doubt))
        self._report(found)
        self.context.progress.message(
            f"Initial model of {found.symmetry} symmetry with details down to {found.resolution_angstrom:.3g} Å; its "
            "hand is not known: images cannot tell it."
        )
        return folder / "initial_model.mrc"

    def _doubt(self, correlation: float) -> str:
        return (
            f"A map of {self.problem.symmetry} symmetry should correlate with its symmetrised self above "
            f"{LEAST_SYMMETRY:g}; got {correlation:.3f}. Look at the map; try another seed, another group, or "
            "--symmetry-from-start."
        )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.context.progress.message(f"Warning: {text}")

    def _report(self, found: InitialModel) -> None:
        with self.page_pace.drawing():
            self.context.report(
                initial_model_report(
                    found,
                    n_iterations=n_iterations(self.params),
                    warnings=self.warnings,
                    n_set_aside=len(self.inputs.rejected),
                )
            )


def line(state: InitialModelState, n: int) -> str:
    """Return what matters of a mini-batch."""
    last = {name: float(values[-1]) for name, values in state.history.items()}
    parts = [
        f"{last['n_particles']:.0f} particles",
        f"details of {last['resolution_angstrom']:.0f} Å",
        f"pseudo-halves agree to {last['agreement_angstrom']:.0f} Å"
        if math.isfinite(last["agreement_angstrom"])
        else "",
        f"Pmax {last['mean_max_probability']:.2f}" if math.isfinite(last["mean_max_probability"]) else "",
        f"classes {', '.join(f'{100 * share:.0f} %' for share in state.fractions.tolist())}"
        if len(state.fractions) > 1
        else "",
        f"{last['seconds']:.1f} s",
    ]
    return f"Mini-batch {state.iteration} of {n}: " + ", ".join(part for part in parts if part) + "."
