"""Frame series with known truth: how sample and microscope moved, and what the files say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from halfmap import keyed_random
from halfmap.data.image_series import FrameSeries, SeriesWeights, TiltSeries
from halfmap.simulation.series_params import FrameSeriesSimulationParams, TiltSeriesSimulationParams
from halfmap.simulation.series_truth import (
    FOCUS,
    SeriesTruth,
    draw_species,
    drawn_grid,
    focus_with_errors,
    grid_of,
    optics,
    stated_focus,
    walk,
    with_errors_of_optics,
)
from halfmap.splines.grids import SplineGrid
from halfmap.splines.pyramid import pyramid_shapes

_LOCAL_NODES = (4, 3, 3)
_NODES_OF_TILT_MOVIE = (3, 3, 3)
_FIRST_MOTION_E_PER_ANGSTROM2 = 5.0
"""Dose over which most of the first motion and of the doming is over."""


def draw_frame_series(
    number: int, params: FrameSeriesSimulationParams, diameters_angstrom: Sequence[float]
) -> SeriesTruth[FrameSeries]:
    """Draw one frame series.

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
    species = draw_species(number, params, diameters_angstrom, None)
    return SeriesTruth(number=number, true=_as_it_was(starting, number, params), starting=starting, species=species)


def movie_of_tilt(
    series: TiltSeries, tilt: int, number: int, params: TiltSeriesSimulationParams
) -> SeriesTruth[FrameSeries]:
    """Draw the raw frames of one tilt.

    Parameters
    ----------
    series : the tilt series as its files say.
    tilt : number of the tilt in it.
    number : of the series, from 0.
    params : the settings; how many frames among them.

    Returns
    -------
    SeriesTruth
        Without particles. The unknown motion is one grid of 3 × 3 places and 3 times along each axis.
    """
    n = params.frames_per_tilt
    uid = number * (1 << 16) + tilt
    dose = series.dose_e_per_angstrom2[tilt] + np.linspace(0.0, params.dose_per_tilt_e_per_angstrom2, n, endpoint=False)
    movie = PurePosixPath(series.movie_names[tilt])
    focus: dict[str, Any] = {
        name: SplineGrid.constant(float(getattr(series, name).values[tilt, 0, 0])) for name in FOCUS
    }
    stated = FrameSeries(
        name=movie.stem,
        image_size_angstrom=series.image_size_angstrom,
        dose_e_per_angstrom2=dose,
        is_used=np.ones(n, dtype=np.bool_),
        optics=series.optics,
        **focus,
        n_frames_of_movie=n,
        movie_name=movie.name,
        **_global_motion(uid, n, params.global_motion_angstrom, params.seed),
    )
    true = stated
    if params.motion_error_angstrom:
        drawn = keyed_random.normal(params.seed, "tilt movie motion", uid, size=(2, *_NODES_OF_TILT_MOVIE))
        x, y = (grid_of(params.motion_error_angstrom * nodes) for nodes in drawn)
        true = replace(stated, pyramid_x_angstrom=(x,), pyramid_y_angstrom=(y,))
    return SeriesTruth(number=uid, true=true, starting=stated, species=())


def _as_stated(number: int, params: FrameSeriesSimulationParams) -> FrameSeries:
    n = params.frames
    is_used = np.ones(n, dtype=np.bool_)
    weights = SeriesWeights()
    if params.exclude_bad_images and params.bad_images:
        # metadata of frame series have no flags: a frame is left out by its weight
        is_used[list(params.bad_images)] = False
        weights = SeriesWeights(scale=grid_of(is_used.astype(np.float64).reshape(n, 1, 1)))
    motion = _global_motion(number, n, params.global_motion_angstrom, params.seed)
    if params.local_motion_angstrom:
        drawn = keyed_random.normal(params.seed, "local motion", number, size=(2, *_LOCAL_NODES))
        nodes = params.local_motion_angstrom * (drawn - drawn.mean(axis=(2, 3), keepdims=True))
        motion |= {f"local_movement_{axis}_angstrom": grid_of(one) for axis, one in zip("xy", nodes, strict=True)}
    name = f"FS_{number + 1}"
    return FrameSeries(
        name=name,
        image_size_angstrom=params.field_angstrom,
        dose_e_per_angstrom2=np.linspace(0.0, params.dose_e_per_angstrom2, n, endpoint=False),
        is_used=is_used,
        weights=weights,
        optics=optics(params),
        **stated_focus(number, params, (1, 1, 1)),
        n_frames_of_movie=n,
        movie_name=f"{name}.{params.frame_format}",
        **motion,
    )


def _as_it_was(stated: FrameSeries, number: int, params: FrameSeriesSimulationParams) -> FrameSeries:
    """Return the series with all errors; grids without any stay as they are."""
    changed = focus_with_errors(number, params, of_phase_shift=(1, 1, 1), of_astigmatism=(1, 3, 3))
    if params.motion_error_angstrom:
        width, height = params.motion_error_nodes
        shapes = pyramid_shapes(width, height, len(stated), params.dose_e_per_angstrom2)
        for axis in "xy":
            changed[f"pyramid_{axis}_angstrom"] = tuple(
                drawn_grid(
                    f"motion error {axis}", number, params, shape, params.motion_error_angstrom / 2**level, draw=level
                )
                for level, shape in enumerate(shapes)
            )
    growth = 1 - np.exp(-stated.dose_e_per_angstrom2 / _FIRST_MOTION_E_PER_ANGSTROM2)[:, None, None]
    if params.doming_angstrom:
        across = np.array([-1.0, 0.0, -1.0])
        dome = 1 + (across[:, None] + across) / 2  # 1 in the middle, 0 in the corners
        # what rises lies nearer to the lens, and so is less under focus
        changed["doming_angstrom"] = grid_of(-(params.doming_angstrom * growth * dome))
    if params.doming_tilt_degrees:
        for axis in "xyz":
            nodes = keyed_random.normal(params.seed, f"doming {axis}", number, size=(3, 3))
            changed[f"stage_angle_{axis}_degrees"] = grid_of(params.doming_tilt_degrees * growth * nodes)
    return replace(
        stated,
        optics=with_errors_of_optics(stated.optics, params, number),
        **changed,
    )


def _global_motion(uid: int, n: int, rms_angstrom: float, seed: int) -> dict[str, Any]:
    path = rms_angstrom * walk(keyed_random.normal(seed, "global motion", uid, size=(n, 2)))
    return {
        f"movement_{axis}_angstrom": grid_of(values.reshape(n, 1, 1)) for axis, values in zip("xy", path.T, strict=True)
    }
