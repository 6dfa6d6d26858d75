"""The course of ``halfmap refine3d``: from the particle table to files and page, saved after every iteration."""

import math
from pathlib import Path

import numpy as np

from halfmap.compute.allocator import give_back
from halfmap.data.half_sets import HalfSets, with_random_subsets
from halfmap.data.particles import ParticleSet
from halfmap.data.refinement_run import RefinementRun
from halfmap.data.repeats import NEAR_DIAMETERS, repeats
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.relion_refinement import read_refinement_run, write_refinement_run
from halfmap.jobs import half_map_inputs
from halfmap.jobs.page_pace import PagePace
from halfmap.jobs.particle_inputs import ParticleInputs, check_same_particles, one_source, read_particle_inputs
from halfmap.jobs.postprocess_files import write_fsc_xml, write_postprocess_star
from halfmap.jobs.reference_inputs import check_mask_holds, read_mask, read_reference
from halfmap.jobs.refine3d import Refine3DJobParams
from halfmap.jobs.refine3d_first_maps import (
    are_first_maps_kept,
    first_maps,
    forget_first_maps,
    none_agree,
    with_first_maps,
)
from halfmap.jobs.refine3d_report import refine3d_report
from halfmap.jobs.step_states import StepStates
from halfmap.postprocessing import local_resolution as local
from halfmap.postprocessing.half_map_fsc import JoinedShells
from halfmap.postprocessing.masks import automatic_mask
from halfmap.postprocessing.params import LocalResolutionParams, PostprocessParams
from halfmap.postprocessing.postprocess import PostprocessResult, mean_map, memory_bytes, postprocess
from halfmap.project.job import JobContext
from halfmap.refinement import decisions, memory, refine3d
from halfmap.refinement.agreement import LEAST_KEPT_OF_REFERENCE, kept_of_reference
from halfmap.refinement.by_number import resolutions_by_number
from halfmap.refinement.earlier import check_earlier, with_earlier_halves
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import RefinementState

LEAST_IN_HALF = 10
"""Particles that each half must have."""

POSES_UNKNOWN = 0.02
"""Mean Pmax below which a finished refinement warns."""

_FIRST_PAGE_SECONDS = 5.0
_FINEST_JOIN_ANGSTROM = 20.0


def refine(context: JobContext, params: Refine3DJobParams) -> Path:
    """Refine, and return the path of the sharpened map.

    Raises
    ------
    InputError
        Particles, reference and mask do not fit together.
    InconsistentDataError
        A job goes on, and its particles are not those that it began with; or the refinement to start from does not
        know some of them.
    """
    for name in (params.symmetry, params.relax_symmetry or "C1"):
        canonical_name(name)
    earlier = None
    if params.start_from is not None:
        earlier = read_refinement_run(params.start_from, project=context.project)
        check_earlier(earlier)
    with read_particle_inputs(
        context,
        params.particles,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        needs_ctf=params.ctf,
    ) as inputs:
        course = _Course(context, params, inputs, earlier)
        states = StepStates(context, "refine3d", RefinementState)
        state = states.newest()
        if state is None:
            context.progress.start("First noise spectra", None)
            state = course.first_state()
            states.save(state.iteration, state)
        else:
            check_same_particles(len(state.orientations.norm), len(inputs.particles))
            if course.has_own_first_maps and not are_first_maps_kept(context):
                course.leave_first_maps_out(none_agree(params))
            context.progress.message(f"Goes on after iteration {state.iteration}.")
        for current in states.follow(
            state, course.advance, lambda last: refine3d.is_done(params, last), lambda last: last.iteration
        ):
            course.tell(current)
            course.leave(current)
            state = current
        output = course.finish(state)
        states.keep_only_newest()
        forget_first_maps(context)
        return output


class _Course:
    """A running job."""

    def __init__(
        self, context: JobContext, params: Refine3DJobParams, inputs: ParticleInputs, earlier: RefinementRun | None
    ) -> None:
        self.context, self.asked, self.params, self.inputs, self.earlier = context, params, params, inputs, earlier
        self.warnings = list(inputs.warnings)
        self.page_pace = PagePace(_FIRST_PAGE_SECONDS)
        images, index = one_source(inputs)
        if len(inputs.images) > 1:
            context.progress.message(
                f"All images are compared on one grid, {images.grid.side} px of {images.grid.pixel_size_angstrom:.5g} "
                "Å, that of most particles; the others are brought to it as they are read."
            )
        _check_offsets(params, images.grid)
        if params.join_resolution_angstrom < _FINEST_JOIN_ANGSTROM:
            self._warn(
                f"--join-resolution {params.join_resolution_angstrom:g} makes the halves one down to there: nothing "
                "coarser tells a resolution. 40 Å keep them in one orientation."
            )
        n = len(inputs.particles)
        volume_grid = ImageGrid.cubic(images.grid.side, images.grid.pixel_size_angstrom)
        at_end = local.memory_bytes(volume_grid, LocalResolutionParams()) if params.local_resolution else 0
        context.expect_memory(
            max(
                memory.bytes_in_main_process(images.grid, params, n),
                memory.PROGRAM_BYTES + max(at_end, memory_bytes(volume_grid)),
            ),
            "the program, sums, maps and states",
        )
        context.expect_memory(
            memory.bytes_of_task(images.grid, params, n),
            "comparing images with slices of the maps",
            n_tasks=memory.n_tasks(images.grid, n),
        )
        self.references = () if params.reference is None else self._read_references(params.reference, images.grid)
        own = with_first_maps(context, params, self.references)
        self.has_own_first_maps = own is not None
        self.params = own or params
        self.mask = None if params.mask is None else read_mask(params.mask, images.grid)
        if self.mask is not None and self.references:
            check_mask_holds(self.mask, self.references[0], str(params.mask), self._warn)
        self.mtf = None if params.mtf is None else half_map_inputs.read_mtf(params.mtf)
        self.problem = RefinementProblem.of_halves(
            HalfSets(particles=self._in_halves(self._as_known(inputs.particles), index)),
            images,
            params,
            context.executor,
            solvent_mask=None if self.mask is None else self.mask.values,
            index=index,
            background_mean=inputs.background_mean,
            background_deviation=inputs.background_deviation,
        )

    def first_state(self) -> RefinementState:
        """Begin with the reference, or where the earlier refinement is."""
        executor = self.context.executor
        if self.earlier is None:
            if self.has_own_first_maps:
                own = first_maps(self.context, self.problem, self.params, self._warn)
                if own is not None:
                    return refine3d.start(self.problem, self.params, own, executor)
                forget_first_maps(self.context)
                self.leave_first_maps_out()
            return refine3d.start(self.problem, self.params, self.references, executor)
        state = refine3d.resume(self.problem, self.params, self.earlier, executor)
        self.context.progress.message(f"Goes on from iteration {state.iteration} of {self.params.start_from}.")
        return state

    def leave_first_maps_out(self, warning: str = "") -> None:
        """Begin with the reference as asked, since no first maps of the halves agree."""
        if warning:
            self._warn(warning)
        self.params, self.has_own_first_maps = self.asked, False

    def advance(self, state: RefinementState) -> RefinementState:
        give_back()  # or sums and maps of the iterations would lie side by side in the gaps that they have left
        return refine3d.advance(self.problem, self.params, state, self.context.executor, self.context.progress)

    def tell(self, state: RefinementState) -> None:
        """Say in a line what an iteration has brought."""
        self.context.progress.message(_line(state, is_near=self.params.sigma_angles_degrees is not None))
        if state.is_last_next and not refine3d.is_done(self.params, state):
            has_converged = decisions.has_converged(state.progression, self.params.finer_faster)
            why = "Nothing gains any more" if has_converged else "The iterations asked for end"
            self.context.progress.message(f"{why}: the last one takes all particles together.")

    def leave(self, state: RefinementState) -> None:
        """Write files of the iteration, and the page where it is time for it."""
        if not refine3d.is_done(self.params, state):
            self._write(state)
            if self.page_pace.is_due():
                self._report(state)

    def finish(self, state: RefinementState) -> Path:
        """Write the maps, post-process them, and draw the page as it stays; return the sharpened map."""
        context, folder = self.context, self.context.folder
        if state.outcome == "iteration limit":
            self._warn(
                f"The refinement has not converged within {state.iteration} iterations: maps or poses still gained. "
                "Give more --max-iterations, and begin anew or with --start-from run_itNNN_optimiser.star, the last in "
                "this folder."
            )
        known = float(state.orientations.max_probability.mean())
        if known < POSES_UNKNOWN:
            self._warn(
                f"Poses are hardly known: the most probable one of a particle holds {known:.3f} of its posterior on "
                "average. "
                "The map may be a mean over orientations, and its resolution that of what does not depend on them. "
                "Begin with a finer --initial-low-pass or another reference."
            )
        self._warn_of_reference(state)
        context.progress.start("Post-processing", None)
        give_back()
        self._write(state)
        first, second = (Volume(values=half.unregularised, grid=self.problem.volume_grid) for half in state.halves)
        mask = automatic_mask(mean_map(first, second)) if self.mask is None else self.mask
        mrc.write_volume(folder / "mask.mrc", mask)
        field = self.problem.field_angstrom
        # both halves begin with what a single reference holds
        is_begun_alike = len(self.references) == 1 and not self.has_own_first_maps
        begun = math.ceil(field / self.params.initial_low_pass_angstrom) if is_begun_alike else 0
        joined = JoinedShells.within(
            max(state.join_shell, begun),
            field_angstrom=field,
            mask_diameter_angstrom=self.params.mask_diameter_angstrom,
        )
        result = postprocess(
            first,
            second,
            mask,
            PostprocessParams(),
            mtf=self.mtf,
            joined=joined,
            band_shell=state.shell,
            seed=self.params.seed,
        )
        self._write_postprocessed(result)
        for concern in result.concerns:
            context.progress.message(concern.words)
        by_number = [(len(self.problem.particles), result.resolution_angstrom)]
        by_number += resolutions_by_number(self.problem, self.params, state, mask, context.executor)
        if self.params.local_resolution:
            self._write_local_resolution(first, second, mask, result)
        self._report(state, result, by_number)
        context.progress.message(
            f"Resolution {result.resolution_angstrom:.2f} Å at FSC 0.143 in the mask, B-factor "
            f"{result.b_factor_angstrom2:.0f} Å²."
        )
        return folder / "postprocess.mrc"

    def _warn_of_reference(self, state: RefinementState) -> None:
        """Warn where the map has little left of the reference: what begins so wrong may end in a wrong map."""
        if not self.references:
            return
        low_pass = self.asked.initial_low_pass_angstrom
        reference = mean_map(self.references[0], self.references[-1])
        kept = kept_of_reference(reference, Volume(values=state.joined, grid=self.problem.volume_grid), low_pass)
        if kept < LEAST_KEPT_OF_REFERENCE:
            self._warn(
                f"The map has left its reference: their FSC towards {low_pass:g} Å is {kept:.2f}. From a reference so "
                "far from the particle a refinement can end in a wrong map on which the halves agree. Compare with a "
                "refinement from `halfmap initial-model`, or from this map."
            )

    def _read_references(self, path: Path, grid: ImageGrid) -> tuple[Volume, ...]:
        params = self.params
        return read_reference(
            path,
            grid,
            params.initial_low_pass_angstrom,
            project=self.context.project,
            pixel_size_angstrom=params.reference_pixel_size_angstrom,
            mask_diameter_angstrom=params.mask_diameter_angstrom,
            invert=params.invert_reference,
            message=self.context.progress.message,
            warn=self._warn,
        )

    def _as_known(self, particles: ParticleSet) -> ParticleSet:
        return particles if self.earlier is None else with_earlier_halves(particles, self.earlier)

    def _in_halves(self, particles: ParticleSet, index: np.ndarray) -> ParticleSet:
        origin = particles.get("origin_angstrom", np.zeros((len(particles), 2)))
        objects = repeats(
            particles, origin, index, distance_angstrom=NEAR_DIAMETERS * self.params.mask_diameter_angstrom
        )
        n_repeated = len(objects) - len(np.unique(objects))
        if n_repeated:
            self._warn(
                f"{n_repeated} particles show what another one shows: copies of an image, or picks nearer than a "
                f"quarter of the mask diameter. They go to one half each; remove them with `halfmap select duplicates`."
            )
        found = with_random_subsets(particles, self.params.seed, objects)
        counts = [int(np.sum(found["random_subset"] == half)) for half in (1, 2)]
        if min(counts) < LEAST_IN_HALF:
            raise InputError(
                f"Each half must have at least {LEAST_IN_HALF} particles; got {counts[0]} and {counts[1]}; give more "
                "particles, or assign halves anew by leaving out rlnRandomSubset."
            )
        return found

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.context.progress.message(f"Warning: {text}")

    def _write(self, state: RefinementState) -> None:
        run = refine3d.finish(self.problem, self.params, state)
        write_refinement_run(self.context.folder, "run", run, relative=self.context.relative)

    def _write_postprocessed(self, result: PostprocessResult) -> None:
        folder, relative = self.context.folder, self.context.relative
        mrc.write_volume(folder / "postprocess.mrc", result.map)
        mrc.write_volume(folder / "postprocess_masked.mrc", result.masked_map)
        names = {
            "rlnUnfilteredMapHalf1": relative(folder / "run_half1_class001_unfil.mrc"),
            "rlnUnfilteredMapHalf2": relative(folder / "run_half2_class001_unfil.mrc"),
            "rlnPostprocessedMap": relative(folder / "postprocess.mrc"),
            "rlnMaskName": relative(folder / "mask.mrc"),
            "rlnPostprocessedMapMasked": relative(folder / "postprocess_masked.mrc"),
        }
        write_postprocess_star(folder / "postprocess.star", result, names)
        write_fsc_xml(folder / "postprocess_fsc.xml", result.fsc)

    def _write_local_resolution(self, first: Volume, second: Volume, mask: Volume, result: PostprocessResult) -> None:
        found = local.local_resolution(
            first, second, mask, LocalResolutionParams(), band_shell=result.fsc.band_shell, seed=self.params.seed
        )
        mrc.write_volume(self.context.folder / "local_resolution.mrc", found.resolution)
        filtered = local.locally_filtered(result.map, found.resolution)
        mrc.write_volume(self.context.folder / "locally_filtered.mrc", filtered)

    def _report(
        self,
        state: RefinementState,
        result: PostprocessResult | None = None,
        by_number: list[tuple[int, float]] | None = None,
    ) -> None:
        with self.page_pace.drawing():
            self.context.report(
                refine3d_report(
                    refine3d.finish(self.problem, self.params, state),
                    postprocessed=result,
                    is_mask_automatic=self.mask is None,
                    warnings=self.warnings,
                    stop_reason=_stop_reason(state),
                    resolution_by_number=by_number or [],
                    n_set_aside=len(self.inputs.rejected),
                    methods_rows=[["each half begins with", "a first map of its own", ""]]
                    if self.has_own_first_maps
                    else [],
                )
            )


def _check_offsets(params: Refine3DJobParams, grid: ImageGrid) -> None:
    """Check that offsets can be searched in these images."""
    reach, step = (length.to_angstrom(grid.pixel_size_angstrom) for length in (params.offset_range, params.offset_step))
    most = grid.side * grid.pixel_size_angstrom / 4
    if reach > most:
        raise InputError(
            f"--offset-range must be at most {most:.4g} Å, a quarter of the box; got {reach:.4g} Å; extract particles "
            "anew where they lie further from the middle."
        )
    if reach > 0 and step > reach:
        raise InputError(
            f"--offset-step must be at most --offset-range; got {step:.4g} and {reach:.4g} Å; give a smaller step."
        )


def _stop_reason(state: RefinementState) -> str:
    if state.outcome == "running":
        return ""
    if state.outcome == "converged":
        return "converged: nothing finer would tell, and neither map nor poses gain"
    return f"the {state.iteration} iterations asked for are done"


def _line(state: RefinementState, *, is_near: bool) -> str:
    """Return what matters of an iteration; ``is_near``: searches that are not local are around given angles."""
    last = {name: float(values[-1]) for name, values in state.history.items()}
    kind = "local" if last["is_local"] or is_near else "global"

    def known(text: str, *names: str) -> list[str]:
        values = [last[name] for name in names]
        return [text.format(*values)] if all(math.isfinite(value) for value in values) else []

    parts = [
        f"resolution {last['resolution_angstrom']:.1f} Å" if math.isfinite(last["resolution_angstrom"]) else "",
        f"{kind} search of {last['rotation_step_degrees']:.3g}° and {last['offset_step_angstrom']:.2g} Å within "
        f"{last['offset_range_angstrom']:.2g} Å",
        *known("accuracy {:.2g}° and {:.2g} Å", "rotation_accuracy_degrees", "offset_accuracy_angstrom"),
        *known("changes {:.2g}° and {:.2g} Å", "rotation_change_degrees", "offset_change_angstrom"),
        f"Pmax {last['mean_max_probability']:.2f}",
        "half 2 was the mirror image of half 1 and was turned over" if last["is_turned_over"] else "",
        f"{last['seconds']:.1f} s",
    ]
    return f"Auto: iteration {state.iteration}: " + ", ".join(part for part in parts if part) + "."
