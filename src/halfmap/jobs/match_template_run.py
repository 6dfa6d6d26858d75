"""The work of ``halfmap match-template``: one micrograph, its maps, its peaks."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.geometry.symmetry import canonical_name
from halfmap.grid import ImageGrid
from halfmap.io import cistem, images, leopard, mrc, relion
from halfmap.io.atomic import write_text
from halfmap.jobs.leopard_inputs import check_pixel_offset, open_template
from halfmap.jobs.match_template import MatchTemplateJobParams
from halfmap.jobs.match_template_report import match_report
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.step_states import StepStates
from halfmap.project.job import JobContext
from halfmap.template_matching.filters import filter_micrograph
from halfmap.template_matching.global_search import search
from halfmap.template_matching.global_search.maps import HISTOGRAM_EDGES
from halfmap.template_matching.global_search.orientations import search_grid
from halfmap.template_matching.global_search.peaks import expected_counts
from halfmap.template_matching.global_search.problem import MatchProblem, bytes_of_task
from halfmap.template_matching.global_search.search import MatchResult, MatchState
from halfmap.template_matching.model import ParticleOptics
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
        A job goes on, and its state is of another search.
    """
    assert params.micrograph is not None
    canonical_name(params.symmetry)
    orientations = search_grid(params)
    shape, pixel = _micrograph_size(params)
    warnings: list[str] = []
    template = _template(context, params, shape, pixel, warnings)
    for sentence in warnings:
        context.progress.message(sentence)
    recorded = read_finite(params.micrograph)[: shape[0], : shape[1]]
    filtered = filter_micrograph(recorded, params, seed=params.seed)
    problem = MatchProblem.of(filtered, template, _optics(params), orientations, params)
    n_bytes = bytes_of_task(shape, template.side, params.padding)
    context.expect_memory(n_bytes, "correlating", n_tasks=problem.n_chunks)
    context.progress.message(
        f"{len(orientations):,} orientations, {len(problem.defocus_offsets_angstrom)} defoci and "
        f"{len(problem.pixel_size_offsets_angstrom)} pixel sizes: {problem.n_correlations:,} correlations."
    )
    result = search.finish(problem, params, _searched(context, problem))
    grid = ImageGrid(shape=problem.map_shape, pixel_size_angstrom=pixel)
    paths = _write_maps(context, result, grid, params)
    _write_histogram(context.folder / "histogram.csv", result)
    found = _Found(context, params, result, template.side, pixel)
    output = context.folder / "particles.csv"
    found.table(paths).write(output)
    found.write_star()
    n = len(result.peaks)
    context.progress.message(
        f"{n} peaks above {result.cutoff:.2f}, where {params.false_positives:g} are expected of noise."
        if params.cutoff is None
        else f"{n} peaks above {result.cutoff:.2f}."
    )
    context.report(match_report(params, problem, result, recorded, found.centre_pixel, warnings))
    return output


def _searched(context: JobContext, problem: MatchProblem) -> MatchState:
    """Go on from the state that was saved last, to the end."""
    states = StepStates(context, "match", MatchState)
    state = states.newest()
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
                states.save(state.n_done, state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if state.n_done:
            states.save(state.n_done, state)
        raise
    states.keep_only_newest()
    return state


def _micrograph_size(params: MatchTemplateJobParams) -> tuple[tuple[int, int], float]:
    """Return sides (y, x), even, and pixel size of the micrograph."""
    assert params.micrograph is not None
    (height, width), own = images.shape_and_pixel_size(params.micrograph)
    pixel = params.pixel_size_angstrom or own
    if pixel is None:
        raise InputError(f"{params.micrograph} must have a pixel size; got none in its header; give --pixel-size.")
    return (height // 2 * 2, width // 2 * 2), pixel


def _template(
    context: JobContext, params: MatchTemplateJobParams, shape: tuple[int, int], pixel: float, said: list[str]
) -> Template:
    """Return the template made ready.

    Raises
    ------
    InputError
        It is no template, has another pixel size than the micrograph, or is larger.
    """
    assert params.template is not None
    check_pixel_offset(params.pixel_size_min_angstrom, pixel, "--pixel-size-min")
    volume = open_template(params.template, params.template_pixel_size_angstrom, pixel, "micrograph", said)
    side = volume.grid.side
    if side >= min(shape):
        raise InputError(
            f"The template must be smaller than the micrograph of {shape[1]}×{shape[0]} px; got {side} px in "
            f"{params.template}; crop it with `halfmap volume crop`."
        )
    context.expect_memory(16 * (side * params.padding) ** 3, "the template")
    return prepare_template(volume.values, volume.grid, padding=params.padding)


def _optics(params: MatchTemplateJobParams) -> ParticleOptics:
    """Return the CTF of the micrograph, one row."""
    assert params.defocus_u_angstrom is not None
    across = params.defocus_u_angstrom if params.defocus_v_angstrom is None else params.defocus_v_angstrom
    values = {
        "defocus_u_angstrom": params.defocus_u_angstrom,
        "defocus_v_angstrom": across,
        "defocus_angle_degrees": params.defocus_angle_degrees,
        "voltage_kv": params.voltage_kv,
        "spherical_aberration_mm": params.spherical_aberration_mm,
        "amplitude_contrast": params.amplitude_contrast,
        "phase_shift_degrees": params.phase_shift_degrees,
        "b_factor_angstrom2": params.ctf_b_factor_angstrom2,
    }
    return ParticleOptics(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


def _write_maps(
    context: JobContext, result: MatchResult, grid: ImageGrid, params: MatchTemplateJobParams
) -> dict[str, Path]:
    """Write the maps, and return their files by name, those that the scaled MIP is measured in among them."""
    names = dict(MAPS)
    if len(params.pixel_size_offsets_angstrom) > 1:
        names["pixel_size_offset_angstrom"] = "relative_pixel_size"
    if params.normalisation == "local":
        names |= LOCAL
    paths = {name: context.folder / f"{file}.mrc" for name, file in names.items()}
    for name, path in paths.items():
        mrc.write_image(path, getattr(result, name).numpy(), grid)
    mrc.write_image(context.folder / f"{MISNAMED}.mrc", result.correlation_deviation.numpy(), grid)
    paths.setdefault("background_mean", paths["correlation_mean"])
    paths.setdefault("background_deviation", context.folder / f"{MISNAMED}.mrc")
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


class _Found:
    """The particles at the peaks."""

    def __init__(
        self, context: JobContext, params: MatchTemplateJobParams, result: MatchResult, side: int, pixel: float
    ) -> None:
        assert params.micrograph is not None
        assert params.defocus_u_angstrom is not None
        self.context, self.params, self.result, self.side, self.pixel = context, params, result, side, pixel
        self.micrograph = context.relative(params.micrograph)
        self.corner = result.peaks.pixel.numpy()
        self.centre_pixel: NDArray[np.float64] = result.peaks.position.numpy() + side // 2
        across = params.defocus_u_angstrom if params.defocus_v_angstrom is None else params.defocus_v_angstrom
        self.defocus = {"defocus_u": params.defocus_u_angstrom, "defocus_v": across}

    def at(self, values: Tensor) -> NDArray[np.float64]:
        """Return what a map holds at the peaks."""
        x, y = self.corner.T
        return values.numpy()[y, x].astype(np.float64)

    def table(self, paths: dict[str, Path]) -> leopard.LeopardColumns:
        """Return the table of Leopard-EM.

        Notes
        -----
        Its positions are whole pixels, as its programs expect; the STAR files hold the sub-pixel ones.
        """
        params, result, n = self.params, self.result, len(self.corner)
        assert params.template is not None
        centre = self.corner + self.side // 2
        numbers: dict[str, NDArray] = {
            "particle_index": np.arange(n),
            "mip": self.at(result.mip),
            "scaled_mip": self.at(result.scaled_mip),
            "correlation_mean": self.at(result.background_mean),
            "correlation_variance": self.at(result.background_deviation),
            "total_correlations": np.full(n, result.n_correlations),
            "phi": self.at(result.phi_degrees),
            "theta": self.at(result.theta_degrees),
            "psi": self.at(result.psi_degrees),
            "relative_defocus": self.at(result.defocus_offset_angstrom),
            "astigmatism_angle": np.full(n, params.defocus_angle_degrees),
            "pixel_size": np.full(n, self.pixel),
            "refined_pixel_size": self.pixel + self.at(result.pixel_size_offset_angstrom),
            "voltage": np.full(n, params.voltage_kv),
            "spherical_aberration": np.full(n, params.spherical_aberration_mm),
            "amplitude_contrast_ratio": np.full(n, params.amplitude_contrast),
            "phase_shift": np.full(n, params.phase_shift_degrees),
            "ctf_B_factor": np.full(n, params.ctf_b_factor_angstrom2),
            **{name: np.full(n, value) for name, value in self.defocus.items()},
        }
        for i, axis in enumerate("xy"):
            numbers[f"pos_{axis}"] = self.corner[:, i]
            numbers[f"pos_{axis}_img"] = centre[:, i]
            numbers[f"pos_{axis}_img_angstrom"] = centre[:, i] * self.pixel
        files = {
            "micrograph": params.micrograph,
            "template": params.template,
            "mip": paths["mip"],
            "scaled_mip": paths["scaled_mip"],
            "psi": paths["psi_degrees"],
            "theta": paths["theta_degrees"],
            "phi": paths["phi_degrees"],
            "defocus": paths["defocus_offset_angstrom"],
            "correlation_average": paths["background_mean"],
            "correlation_variance": paths["background_deviation"],
        }
        texts = {name: [_text(value) for value in column.tolist()] for name, column in numbers.items()}
        texts |= {name: [""] * n for name in ("even_zernikes", "odd_zernikes", "mag_matrix")}
        texts |= {f"{name}_path": [self.context.relative(path)] * n for name, path in files.items() if path is not None}
        return leopard.LeopardColumns(path=self.context.folder / "particles.csv", columns={}).with_columns(
            **{leopard.INDEX: [str(row) for row in range(n)]}, **texts
        )

    def write_star(self) -> None:
        """Write the particles for RELION and cisTEM."""
        params, result, n = self.params, self.result, len(self.corner)
        offset = self.at(result.defocus_offset_angstrom)
        optics = OpticsGroups(
            columns={
                "optics_group": np.array([1]),
                "voltage_kv": np.array([params.voltage_kv]),
                "spherical_aberration_mm": np.array([params.spherical_aberration_mm]),
                "amplitude_contrast": np.array([params.amplitude_contrast]),
                "micrograph_pixel_size_angstrom": np.array([self.pixel]),
            }
        )
        particles = ParticleSet(
            columns={
                "micrograph_name": np.array([self.micrograph] * n, dtype=object),
                "position_pixel": self.centre_pixel,
                "rotation": result.rotations(result.peaks.pixel).numpy(),
                "origin_angstrom": np.zeros((n, 2)),
                "defocus_u_angstrom": self.defocus["defocus_u"] + offset,
                "defocus_v_angstrom": self.defocus["defocus_v"] + offset,
                "defocus_angle_degrees": np.full(n, params.defocus_angle_degrees),
                "phase_shift_degrees": np.full(n, params.phase_shift_degrees),
                "figure_of_merit": self.at(result.scaled_mip),
                "optics_group": np.ones(n, dtype=np.int64),
            },
            optics=optics,
        )
        relion.write_particles(self.context.folder / "particles.star", particles)
        for_cistem = particles.optics.with_columns(pixel_size_angstrom=np.array([self.pixel]))
        cistem.write_particles(
            self.context.folder / "particles_cistem.star",
            ParticleSet(columns=particles.columns, optics=for_cistem),
            stack_name=None,
        )


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(value, 6))
