"""The page of simulated series: images with the truth drawn on them, and what is true beside what the files say."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.imaging.deformation import views
from halfmap.io.mrc import read_image
from halfmap.jobs.simulate_one_series import SimulatedSeries
from halfmap.report.blocks import Axis, Curve, Facts, Line, Overlay, Report, Section, Table
from halfmap.simulation.references import Reference
from halfmap.simulation.series_agreement import compare_series
from halfmap.simulation.series_truth import SeriesTruth, SpeciesPoses
from halfmap.simulation.tilt_series_truth import MOVIE_FOLDER

_ERRORS = (
    ("position_error_angstrom", "positions of particles", "Å along each axis"),
    ("angle_error_degrees", "orientations of particles", "° about each axis"),
    ("drift_angstrom", "drift of particles over the exposure", "Å along each axis"),
    ("turning_degrees", "turning of particles over the exposure", "° about each axis"),
    ("image_warp_angstrom", "image warp", "Å along each axis"),
    ("volume_warp_angstrom", "volume warp", "Å along each axis"),
    ("stage_angle_error_degrees", "stage angles", "° about each axis"),
    ("motion_error_angstrom", "motion of frames", "Å along each axis"),
    ("doming_angstrom", "doming", "Å of defocus"),
    ("doming_tilt_degrees", "turn with the doming", "° about each axis"),
    ("defocus_error_angstrom", "defocus", "Å"),
    ("astigmatism_error_angstrom", "astigmatism", "Å, each component"),
    ("phase_shift_error_degrees", "phase shift", "°"),
    ("spherical_aberration_error_mm", "spherical aberration", "mm"),
    ("magnification_error_percent", "anisotropic magnification", "%"),
    ("odd_aberration_rad", "odd aberrations", "rad at the Nyquist frequency"),
    ("even_aberration_rad", "even aberrations", "rad at the Nyquist frequency"),
)
_GRIDS = {"image_warp_angstrom": "image_warp_nodes", "volume_warp_angstrom": "volume_warp_nodes",
          "motion_error_angstrom": "motion_error_nodes"}  # fmt: skip
_KINDS = ("where particles are", "where the files say they are")


def page(
    folder: Path,
    params: Any,
    truths: Sequence[SeriesTruth[Any]],
    references: Sequence[Reference],
    results: Sequence[SimulatedSeries],
    noise_sigma: float,
) -> Report:
    """Return the page of a job.

    Parameters
    ----------
    folder : of the job, whose images are shown.
    params : the settings.
    truths, results : of each series.
    references : of each species.
    noise_sigma : of a whole image, relative to its mean.
    """
    first = truths[0]
    particles = [sum(len(truth.species[number]) for truth in truths) for number in range(len(references))]
    return Report(
        title="Simulated tilt series" if isinstance(first.true, TiltSeries) else "Simulated frame series",
        summary=f"{len(truths)} series of {', '.join(params.names)}, as recorded: particles dark.",
        facts=Facts(
            facts=(
                ("series", len(truths)),
                ("images in each", len(first.true)),
                ("particles", sum(particles)),
                ("dose of an image", round(params.dose_per_image_e_per_angstrom2, 3), "e/Å²"),
                ("noise", round(100 * noise_sigma, 1), "% of an image's mean"),
                ("pixel size", params.pixel_size_angstrom, "Å"),
            )
        ),
        sections=(
            Section(
                title="Images",
                blocks=_overlays(folder, params, first, references),
                intro="Of the first series. The files that refinement begins with hold the errors listed below.",
            ),
            Section(
                title="What is true, and what the files say",
                blocks=(_errors(params), _agreement(params, first, references), _defocus(first)),
            ),
            Section(title="Series", blocks=(_series(params, truths, results),)),
        ),
    )


def _overlays(folder: Path, params: Any, first: SeriesTruth[Any], references: Sequence[Reference]) -> list[Overlay]:
    blocks = []
    averages = folder / MOVIE_FOLDER / "average"
    for number, title, name in _shown(first):
        true = [_places(first.true, one, params, number, is_true=True) for one in first.species]
        stated = [_places(first.starting, one, params, number, is_true=False) for one in first.species]
        points = np.concatenate([*true, *stated])
        kinds = np.repeat([0, 1], [sum(map(len, true)), sum(map(len, stated))])
        blocks.append(
            Overlay.of(
                read_image(averages / f"{name}.mrc"),
                points,
                radius_pixel=0.5 * max(one.diameter_angstrom for one in references) / params.pixel_size_angstrom,
                kind_labels=_KINDS,
                kinds=kinds,
                title=title,
            )
        )
    return blocks


def _shown(first: SeriesTruth[Any]) -> list[tuple[int, str, str]]:
    """Return number, title and file of the images to show."""
    series = first.starting
    if isinstance(series, FrameSeries):
        return [(0, f"{series.name}, all frames put back by the motion that the files know of", series.name)]
    numbers = np.unique([0, len(series) // 2, len(series) - 1]).tolist()
    return [
        (
            number,
            f"{series.name}, {series.tilt_angle_degrees[number]:g}°",
            PurePosixPath(series.movie_names[number]).stem,
        )
        for number in numbers
    ]


def _places(
    series: TiltSeries | FrameSeries, one: SpeciesPoses, params: Any, number: int, *, is_true: bool
) -> np.ndarray:
    """Return where particles lie in an image, of frame series in their aligned sum, (P, 2)."""
    position = one.position_angstrom if is_true else one.starting_position_angstrom
    if isinstance(series, FrameSeries):
        return position[:, 0, :2] / params.pixel_size_angstrom
    rotation = one.rotation if is_true else one.starting_rotation
    seen = views(series, torch.from_numpy(position), torch.from_numpy(rotation))
    return seen.position_angstrom[:, number].numpy() / params.pixel_size_angstrom


def _errors(params: Any) -> Table:
    rows = [
        (what, _size_of_grid(params, name), f"{getattr(params, name):g}", unit)
        for name, what, unit in _ERRORS
        if getattr(params, name, 0.0)
    ]
    return Table(
        title="Errors",
        columns=("of what", "nodes", "root mean square", "unit"),
        rows=rows,
        caption="By how much the truth differs from the files, as it was asked for; what is not listed is known.",
    )


def _size_of_grid(params: Any, name: str) -> str:
    nodes = getattr(params, _GRIDS.get(name, ""), None)
    return "×".join(map(str, nodes)) if nodes else ""


def _agreement(params: Any, first: SeriesTruth[Any], references: Sequence[Reference]) -> Table:
    rows = []
    for name, one, reference in zip(params.names, first.species, references, strict=True):
        if not len(one):
            continue
        found = compare_series(
            first.true,
            first.starting,
            (torch.from_numpy(one.position_angstrom), torch.from_numpy(one.rotation)),
            (torch.from_numpy(one.starting_position_angstrom), torch.from_numpy(one.starting_rotation)),
            diameter_angstrom=reference.diameter_angstrom,
            resolution_angstrom=3 * params.pixel_size_angstrom,
        )
        rows.append(
            (
                name,
                len(one),
                found.n_views,
                round(found.angle_degrees, 2),
                round(found.position_angstrom, 2),
                round(found.defocus_angstrom, 1),
                round(found.ctf_phase_rad, 3),
                round(found.odd_phase_rad, 3),
            )
        )
    return Table(
        title=f"What the images of {first.true.name} would show of it",
        columns=(
            "species",
            "particles",
            "whole views",
            "orientation (°)",
            "place (Å)",
            "defocus (Å)",
            "CTF phase (rad)",
            "odd phase (rad)",
        ),
        rows=rows,
        caption="Root mean square over all views; phases up to a resolution of three pixels.",
    )


def _defocus(first: SeriesTruth[Any]) -> Curve:
    series = first.true
    is_tilt = isinstance(series, TiltSeries)
    x = series.tilt_angle_degrees if is_tilt else np.arange(len(series))
    middle = torch.stack([torch.full((len(series),), 0.5).double()] * 2 + [series.image_time], dim=-1)
    lines = []
    for label, one in (("true", first.true), ("as the files say", first.starting)):
        values = one.defocus_angstrom(middle)
        if isinstance(one, FrameSeries):
            values = values + one.doming_angstrom(middle)
        lines.append(Line(label=label, x=x, y=values.numpy()))
    return Curve(
        title=f"Defocus in the middle of {series.name}",
        lines=lines,
        x=Axis(label="tilt", unit="°") if is_tilt else Axis(label="frame"),
        y=Axis(label="defocus", unit="Å"),
    )


def _series(params: Any, truths: Sequence[SeriesTruth[Any]], results: Sequence[SimulatedSeries]) -> Table:
    rows: list[tuple[str | int | float, ...]] = [
        (
            result.name,
            *(len(one) for one in truth.species),
            round(float(truth.starting.defocus_angstrom.values.mean())),
            round(result.mean_count, 2),
            result.hash,
        )
        for truth, result in zip(truths, results, strict=True)
    ]
    return Table(columns=("item", *params.names, "defocus (Å)", "electrons a pixel", "hash of its data"), rows=rows)
