"""The course of ``halfmap class3d``: from the particle table to files and page, saved after every iteration."""

import math
from pathlib import Path

from halfmap.data.volumes import Volume
from halfmap.io.relion_class3d_writer import write_class3d_run
from halfmap.jobs.class3d import Class3DJobParams
from halfmap.jobs.class3d_report import class3d_report
from halfmap.jobs.page_pace import PagePace
from halfmap.jobs.particle_inputs import ParticleInputs, check_same_particles, one_source, read_particle_inputs
from halfmap.jobs.reference_inputs import read_mask, read_reference
from halfmap.jobs.step_states import StepStates
from halfmap.project.job import JobContext
from halfmap.refinement.class3d import class3d, memory
from halfmap.refinement.class3d.state import Classification3DState

WRITTEN_EVERY = 5
"""Iterations after which files are written; they are at the end in any case."""

_EMPTY_SHARE = 0.1
"""Share of what a class would have were all alike below which it is told to be empty."""

_FIRST_PAGE_SECONDS = 3.0


def classify(context: JobContext, params: Class3DJobParams) -> Path:
    """Classify, and return the path of the last ``run_itNNN_data.star``.

    Raises
    ------
    InputError
        Particles, references and mask do not fit together.
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
        states = StepStates(context, "class3d", Classification3DState)
        state = states.newest()
        if state is None:
            references = course.references()
            context.progress.start("First noise spectra", None)
            state = class3d.start(course.problem, params, references)
            states.save(0, state)
        else:
            check_same_particles(len(state.assignments.class_index), len(inputs.particles))
            context.progress.message(f"Goes on after iteration {state.iteration}.")
        for current in states.follow(state, course.advance, class3d.is_done, lambda last: last.iteration):
            context.progress.message(_line(current))
            course.leave(current)
            state = current
        output = course.finish(state)
        states.keep_only_newest()
        return output


class _Course:
    """A running job."""

    def __init__(self, context: JobContext, params: Class3DJobParams, inputs: ParticleInputs) -> None:
        self.context, self.params, self.inputs = context, params, inputs
        self.warnings = list(inputs.warnings)
        self.page_pace = PagePace(_FIRST_PAGE_SECONDS)
        images, index = one_source(inputs)
        n = len(inputs.particles)
        context.expect_memory(
            memory.bytes_in_main_process(images.grid, params, n), "the program, sums, maps and states"
        )
        context.expect_memory(
            memory.bytes_of_task(images.grid, params, n),
            "comparing images with slices of the maps",
            n_tasks=memory.n_tasks(images.grid, n),
        )
        mask = None if params.mask is None else read_mask(params.mask, images.grid)
        self.image_grid = images.grid
        self.problem = class3d.problem_of(
            inputs.particles,
            images,
            params,
            context.executor,
            solvent_mask=None if mask is None else mask.values,
            index=index,
            background_mean=inputs.background_mean,
            background_deviation=inputs.background_deviation,
        )

    def references(self) -> list[Volume]:
        """Read the references; of a pair of half maps the mean."""
        found = []
        for path in self.params.reference:
            maps = read_reference(
                path,
                self.image_grid,
                self.params.initial_low_pass_angstrom,
                project=self.context.project,
                pixel_size_angstrom=self.params.reference_pixel_size_angstrom,
                mask_diameter_angstrom=self.params.mask_diameter_angstrom,
                message=self.context.progress.message,
                warn=self._warn,
            )
            values = sum(one.values for one in maps[1:]) + maps[0].values
            found.append(Volume(values=values / len(maps), grid=maps[0].grid))
        return found

    def advance(self, state: Classification3DState) -> Classification3DState:
        return class3d.advance(self.problem, self.params, state, self.context.executor, self.context.progress)

    def leave(self, state: Classification3DState) -> None:
        """Write files and page where it is time for them."""
        if class3d.is_done(state):
            return
        if state.iteration % WRITTEN_EVERY == 0:
            self._write(state)
        if self.page_pace.is_due():
            self._report(state)

    def finish(self, state: Classification3DState) -> Path:
        """Write files and the page as they stay."""
        shares = state.maps.fractions * self.params.classes
        empty = [str(c + 1) for c, share in enumerate(shares.tolist()) if share < _EMPTY_SHARE]
        if empty:
            self._warn(
                f"Hardly a particle is left in class {', '.join(empty)}: there may be fewer structures than "
                f"{self.params.classes} classes, or poses were too uncertain to tell them apart. Give fewer --classes, "
                "or refine first and classify with --skip-alignment or --local."
            )
        output = self._write(state)
        self._report(state)
        self.context.progress.message(f"Ended after iteration {state.iteration}: {_stop_reason(state)}.")
        return output

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.context.progress.message(f"Warning: {text}")

    def _write(self, state: Classification3DState) -> Path:
        run = class3d.finish(self.problem, self.params, state)
        return write_class3d_run(self.context.folder, "run", run, relative=self.context.relative)

    def _report(self, state: Classification3DState) -> None:
        with self.page_pace.drawing():
            self.context.report(
                class3d_report(
                    class3d.finish(self.problem, self.params, state),
                    warnings=self.warnings,
                    stop_reason=_stop_reason(state),
                    n_set_aside=len(self.inputs.rejected),
                )
            )


def _stop_reason(state: Classification3DState) -> str:
    return {
        "running": "",
        "converged": "nothing changes any more",
        "iteration limit": "the iterations asked for are done",
    }[state.outcome]


def _line(state: Classification3DState) -> str:
    """Return what matters of an iteration."""
    last = {name: float(values[-1]) for name, values in state.history.items()}
    parts = [
        f"classes {', '.join(f'{100 * share:.0f} %' for share in state.maps.fractions.tolist())}",
        f"{100 * last['changed_share']:.1f} % changed class" if math.isfinite(last["changed_share"]) else "",
        f"model SSNR {last['resolution_angstrom']:.1f} Å" if math.isfinite(last["resolution_angstrom"]) else "",
        f"Pmax {last['mean_max_probability']:.2f}",
        f"{last['seconds']:.1f} s",
    ]
    return f"Iteration {state.iteration}: " + ", ".join(part for part in parts if part) + "."
