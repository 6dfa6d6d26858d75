"""Tilt series with known truth: how sample and microscope were, and what the files say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.data.image_series import TiltSeries
from halfmap.simulation.series_params import TiltSeriesSimulationParams
from halfmap.simulation.series_truth import (
    SeriesTruth,
    draw_species,
    drawn_grid,
    focus_with_errors,
    optics,
    stated_focus,
    with_errors_of_optics,
)
from halfmap.splines.grids import LinearGrid, SplineGrid

MOVIE_FOLDER = "warp_frameseries"
"""Where the metadata of movies and their averages are, beside the folder of the lists of tilts."""


def draw_tilt_series(
    number: int, params: TiltSeriesSimulationParams, diameters_angstrom: Sequence[float]
) -> SeriesTruth[TiltSeries]:
    """Draw one tilt series.

    Parameters
    ----------
    number : from 0.
    params : the settings.
    diameters_angstrom : of the species.

    Raises
    ------
    InputError
        The particles do not fit into the field.
    """
    starting = _as_stated(number, params)
    species = draw_species(number, params, diameters_angstrom, params.volume_angstrom[2])
    return SeriesTruth(number=number, true=_as_it_was(starting, number, params), starting=starting, species=species)


def acquisition_rank(angle_degrees: NDArray[np.float64], scheme: str) -> NDArray[np.int64]:
    """Return when each tilt was taken, 0 first, shape (T,).

    Parameters
    ----------
    angle_degrees : (T,), ascending.
    scheme : ``dose-symmetric``, ``bidirectional`` (from the tilt nearest to zero upwards, then downwards) or
        ``unidirectional`` (ascending).
    """
    index = np.arange(len(angle_degrees))
    steps = index - int(np.argmin(np.abs(angle_degrees)))
    if scheme == "dose-symmetric":
        order = np.lexsort((steps < 0, np.abs(steps)))
    elif scheme == "bidirectional":
        order = np.lexsort((np.abs(steps), steps < 0))
    else:
        order = index
    rank = np.empty(len(index), dtype=np.int64)
    rank[order] = index
    return rank


def _as_stated(number: int, params: TiltSeriesSimulationParams) -> TiltSeries:
    n = params.n_images
    name = f"TS_{number + 1}"
    angle = params.min_tilt_degrees + params.tilt_step_degrees * np.arange(n, dtype=np.float64)
    rank = acquisition_rank(angle, params.tilt_scheme)
    is_used = np.ones(n, dtype=np.bool_)
    if params.exclude_bad_images:
        is_used[list(params.bad_images)] = False
    offset = keyed_random.normal(params.seed, "axis offset", number, size=(n, 2))
    return TiltSeries(
        name=name,
        image_size_angstrom=params.field_angstrom,
        dose_e_per_angstrom2=rank.astype(np.float64) * params.dose_per_tilt_e_per_angstrom2,
        is_used=is_used,
        optics=optics(params),
        **stated_focus(number, params, (n, 1, 1)),
        volume_size_angstrom=params.volume_angstrom,
        tilt_angle_degrees=angle,
        axis_angle_degrees=np.full(n, params.axis_angle_degrees),
        axis_offset_angstrom=params.axis_offset_angstrom * offset,
        level_angle_x_degrees=params.level_angle_x_degrees,
        level_angle_y_degrees=params.level_angle_y_degrees,
        are_angles_inverted=params.inverted_angles,
        movie_names=tuple(
            f"../{MOVIE_FOLDER}/{name}_{when:03d}_{tilt:.1f}.{params.frame_format}"
            for when, tilt in zip(rank, angle, strict=True)
        ),
    )


def _as_it_was(stated: TiltSeries, number: int, params: TiltSeriesSimulationParams) -> TiltSeries:
    """Return the series with all errors; grids without any stay as they are."""
    n = len(stated)
    per_tilt = n, 1, 1
    width, height = params.image_warp_nodes
    changed = focus_with_errors(number, params, of_phase_shift=per_tilt, of_astigmatism=per_tilt)
    if params.image_warp_angstrom:
        for axis in "xy":
            changed[f"movement_{axis}_angstrom"] = drawn_grid(
                f"image warp {axis}", number, params, (n, height, width), params.image_warp_angstrom
            )
    if params.volume_warp_angstrom:
        for axis in "xyz":
            changed[f"volume_warp_{axis}_angstrom"] = _volume_warp(axis, number, params)
    if params.stage_angle_error_degrees:
        for axis in "xyz":
            changed[f"stage_angle_{axis}_degrees"] = drawn_grid(
                f"stage angle {axis}", number, params, per_tilt, params.stage_angle_error_degrees
            )
    if params.defocus_error_angstrom:
        error = drawn_grid("defocus error", number, params, per_tilt, params.defocus_error_angstrom)
        changed["defocus_angstrom"] = SplineGrid(values=stated.defocus_angstrom.values + error.values)
    return replace(
        stated,
        optics=with_errors_of_optics(stated.optics, params, number),
        **changed,
    )


def _volume_warp(axis: str, number: int, params: TiltSeriesSimulationParams) -> LinearGrid:
    """Return a warp that grows evenly with the dose from none, other at each node."""
    width, height, depth, duration = params.volume_warp_nodes
    end = drawn_grid(f"volume warp {axis}", number, params, (depth, height, width), params.volume_warp_angstrom)
    growth = torch.arange(duration, dtype=torch.float64) / max(duration - 1, 1)
    return LinearGrid(values=growth[:, None, None, None] * end.values)
