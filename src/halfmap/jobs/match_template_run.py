"""The work of ``halfmap match-template``: micrographs one after another, their maps, their peaks."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from halfmap.errors import FormatError, InputError
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.grid import ImageGrid
from halfmap.io import leopard, mrc, star, states
from halfmap.io.atomic import write_text
from halfmap.jobs.leopard_inputs import check_pixel_offset, open_template
from halfmap.jobs.match_template import MatchTemplateJobParams
from halfmap.jobs.match_template_many_report import SHOWN, page_of_many
from halfmap.jobs.match_template_peaks import MicrographPeaks, peaks_of, table_columns
from halfmap.jobs.match_template_report import match_report
from halfmap.jobs.match_template_targets import Target, many_targets, one_target
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import Rejected, check_rejections, forget_states, rejected_micrographs
from halfmap.jobs.step_states import StepStates
from halfmap.jobs.template_results import write_star
from halfmap.project.job import JobContext
from halfmap.report.blocks import Report
from halfmap.template_matching.filters import OddPhases, filter_micrograph
from halfmap.template_matching.global_search import search
from halfmap.template_matching.global_search.maps import HISTOGRAM_EDGES
from halfmap.template_matching.global_search.orientations import SearchGrid, search_grid
from halfmap.template_matching.global_search.peaks import expected_counts
from halfmap.template_matching.global_search.problem import MatchProblem, bytes_of_task
from halfmap.template_matching.global_search.search import MatchResult, MatchState
from halfmap.template_matching.template import Template, prepare_template

SAVED_EVERY_SECONDS = 30.0
"""Least time between two saved states: what a killed job does again."""

MAPS = {
    "mip": "mip",
    "scaled_mip": "scaled_mip",
    "correlation_mean": "correlation_average",
    "correlation_deviation": "correlation_standard_deviation",
    "phi_degrees": "orientation_phi",
    "theta_degrees": "orientation_theta",
    "psi_degrees": "orientation_psi",
    "defocus_offset_angstrom": "relative_defocus",
}
"""Files of the maps: Leopard-EM's names, but for the standard deviation."""

MISNAMED = "correlation_variance"
"""File in which Leopard-EM has the standard deviation; written too, so that its programs find it."""

LOCAL = {"background_mean": "background_average", "background_deviation": "background_standard_deviation"}


def match(context: JobContext, params: MatchTemplateJobParams) -> Path:
    """Search, and return the path of ``particles.csv``.

    Raises
    ------
    FormatError, InputError, ShapeError
        The micrograph or the template is at fault, or they do not fit together.
    InconsistentDataError
        A job goes on, and its state is of another search; or the table of micrographs is at fault.
    JobFailed
        More than a tenth of the micrographs are bad.
    """
    canonical_name(params.symmetry)
    orientations = search_grid(params)
    targets, rejected = many_targets(context, params) if params.micrographs else ([one_target(context, params)], [])
    warnings: list[str] = []
    template = _template(context, params, targets, warnings)
    for sentence in warnings:
        context.progress.message(sentence)
    n_bytes = max(bytes_of_task(target.shape, template.side, params.padding) for target in targets)
    n_together = len(params.defocus_offsets_angstrom) * len(params.pixel_size_offsets_angstrom)
    context.expect_memory(n_bytes, "correlating", n_tasks=len(orientations))
    context.progress.message(
        f"{len(orientations):,} orientations, {len(params.defocus_offsets_angstrom)} defoci and "
        f"{len(params.pixel_size_offsets_angstrom)} pixel sizes: {len(orientations) * n_together:,} correlations."
    )
    output = context.folder / "particles.csv"
    searching = _Searching(context, params, template, orientations)
    if not params.micrographs:
        found, page = searching.one(targets[0], warnings)
        _write(context, [found])
        context.report(page)
        return output
    parts = searching.many(targets, rejected)
    _write(context, parts)
    if rejected:
        star.write(context.folder / "rejected.star", [star.with_version(rejected_micrographs(rejected))])
    n = sum(len(part) for part in parts)
    context.progress.message(f"{n} peaks in {len(parts)} micrographs; set aside {len(rejected)} micrographs.")
    context.report(page_of_many(parts, rejected, params, warnings, circle_pixel=template.side / 4))
    forget_states(context)
    return output


class _Searching:
    """Searches micrographs with one template."""

    def __init__(
        self, context: JobContext, params: MatchTemplateJobParams, template: Template, orientations: SearchGrid
    ) -> None:
        self.context, self.params, self.template, self.orientations = context, params, template, orientations

    def one(self, target: Target, warnings: Sequence[str]) -> tuple[MicrographPeaks, Report]:
        """Search one micrograph, and return its peaks and its page."""
        problem, recorded = self._problem(target, 0)
        result, columns = self._searched(target, problem, StepStates(self.context, "match", MatchState))
        found = peaks_of(target, result, columns, self.template.side, None)
        said = f"{len(found)} peaks above {result.cutoff:.2f}"
        if self.params.cutoff is None:
            said += f", where {self.params.false_positives:g} are expected of noise"
        self.context.progress.message(f"{said}.")
        return found, match_report(self.params, problem, result, recorded, found.centre_pixel, warnings)

    def many(self, targets: Sequence[Target], rejected: list[Rejected]) -> list[MicrographPeaks]:
        """Search micrographs one after the other; what is done is kept, what is bad goes to the rejected."""
        context, parts = self.context, []
        n_all = len(targets) + len(rejected)
        for i, target in enumerate(targets):
            kept = context.folder / "state" / f"peaks_{i:06d}.safetensors"
            if kept.exists():
                parts.append(states.load(kept, MicrographPeaks))
                continue
            context.progress.message(f"Micrograph {i + 1} of {len(targets)}: {target.name}.")
            try:
                problem, recorded = self._problem(target, i)
            except (FormatError, InputError) as error:
                context.log(f"set aside {target.name}: {error}")
                rejected.append(Rejected(name=target.name, reason=str(error)))
                check_rejections(rejected, n_all, "micrographs")
                continue
            under_way = StepStates(context, f"match{i:06d}", MatchState)
            result, columns = self._searched(target, problem, under_way)
            parts.append(peaks_of(target, result, columns, self.template.side, recorded if i < SHOWN else None))
            states.save(kept, parts[-1])
            under_way.forget()
        return parts

    def _problem(self, target: Target, key: int) -> tuple[MatchProblem, Tensor]:
        """Return the problem of a micrograph, and the micrograph as recorded."""
        params, odd = self.params, OddPhases(target.aberrations, target.pixel_size_angstrom)
        recorded = read_finite(target.path)[: target.shape[0], : target.shape[1]]
        filtered = filter_micrograph(recorded, params, seed=params.seed, key=key, odd=odd)
        problem = MatchProblem.of(filtered, self.template, target.optics, self.orientations, params, target.aberrations)
        return problem, recorded

    def _searched(
        self, target: Target, problem: MatchProblem, under_way: StepStates[MatchState]
    ) -> tuple[MatchResult, dict[str, list[str]]]:
        """Search, write the maps, and return what was found and its rows of the table."""
        context, params = self.context, self.params
        assert params.template is not None
        result = search.finish(problem, params, _searched(context, problem, under_way))
        grid = ImageGrid(shape=problem.map_shape, pixel_size_angstrom=target.pixel_size_angstrom)
        target.folder.mkdir(parents=True, exist_ok=True)
        paths = _write_maps(target.folder, result, grid, params)
        _write_histogram(target.folder / "histogram.csv", result)
        return result, table_columns(context, target, result, params.template, self.template.side, paths)


def _write(context: JobContext, parts: Sequence[MicrographPeaks]) -> None:
    """Write the table of all peaks, and the STAR files."""
    output = context.folder / "particles.csv"
    columns = {name: [text for part in parts for text in part.columns[name]] for name in parts[0].columns}
    rows = [str(row) for row in range(sum(len(part) for part in parts))]
    table = leopard.LeopardColumns(path=output, columns={})
    table.with_columns(**{leopard.INDEX: rows, "particle_index": rows}, **columns).write(output)
    write_star(context, output, np.concatenate([part.centre_pixel for part in parts]))


def _searched(context: JobContext, problem: MatchProblem, kept: StepStates[MatchState]) -> MatchState:
    """Go on from the state that was saved last, to the end."""
    state = kept.newest()
    if state is None:
        state = search.start(problem)
    else:
        context.progress.message(f"Goes on after {state.n_done} of {problem.n_chunks} parts.")
    saved = time.monotonic()
    try:
        for further in search.advance(problem, state, context.executor, context.progress):
            state = further
            if context.is_cancelled():
                raise KeyboardInterrupt
            if search.is_done(problem, state) or time.monotonic() - saved > SAVED_EVERY_SECONDS:
                kept.save(state.n_done, state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if state.n_done:
            kept.save(state.n_done, state)
        raise
    kept.keep_only_newest()
    return state


def _template(
    context: JobContext, params: MatchTemplateJobParams, targets: Sequence[Target], said: list[str]
) -> Template:
    """Return the template made ready.

    Raises
    ------
    InputError
        It is no template, has another pixel size than the micrographs, or is larger than one.
    """
    assert params.template is not None
    pixel = targets[0].pixel_size_angstrom
    check_pixel_offset(params.pixel_size_min_angstrom, pixel, "--pixel-size-min")
    of = "micrographs" if params.micrographs else "micrograph"
    volume = open_template(params.template, params.template_pixel_size_angstrom, pixel, of, said)
    side = volume.grid.side
    small = next((target for target in targets if side >= min(target.shape)), None)
    if small is not None:
        raise InputError(
            f"The template must be smaller than the micrograph of {small.shape[1]}×{small.shape[0]} px; got {side} px "
            f"in {params.template}; crop it with `halfmap volume crop`."
        )
    context.expect_memory(16 * (side * params.padding) ** 3, "the template")
    return prepare_template(volume.values, volume.grid, padding=params.padding)


def _write_maps(folder: Path, result: MatchResult, grid: ImageGrid, params: MatchTemplateJobParams) -> dict[str, Path]:
    """Write the maps, and return their files by name, those that the scaled MIP is measured in among them."""
    names = dict(MAPS)
    if len(params.pixel_size_offsets_angstrom) > 1:
        names["pixel_size_offset_angstrom"] = "relative_pixel_size"
    if params.normalisation == "local":
        names |= LOCAL
    paths = {name: folder / f"{file}.mrc" for name, file in names.items()}
    for name, path in paths.items():
        mrc.write_image(path, getattr(result, name).numpy(), grid)
    mrc.write_image(folder / f"{MISNAMED}.mrc", result.correlation_deviation.numpy(), grid)
    paths.setdefault("background_mean", paths["correlation_mean"])
    paths.setdefault("background_deviation", folder / f"{MISNAMED}.mrc")
    return paths


def _write_histogram(path: Path, result: MatchResult) -> None:
    """Write the distribution of the correlations beside that of noise."""
    expected = expected_counts(HISTOGRAM_EDGES, int(result.histogram.sum()))
    lines = ["from,to,count,expected_of_noise"]
    lines += [
        f"{low:.2f},{high:.2f},{count},{noise:.6g}"
        for low, high, count, noise in zip(
            HISTOGRAM_EDGES[:-1], HISTOGRAM_EDGES[1:], result.histogram.tolist(), expected, strict=True
        )
    ]
    write_text(path, "\n".join(lines) + "\n")
