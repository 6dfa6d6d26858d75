"""Frame series with known truth: how sample and microscope moved, and what the files say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.data.image_series import FrameSeries, SeriesWeights, TiltSeries
from halfmap.simulation.series_params import FrameSeriesSimulationParams, TiltSeriesSimulationParams
from halfmap.simulation.series_truth import (
    SeriesTruth,
    astigmatism_with_error,
    defocus_of_series,
    draw_species,
    optics,
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
    stated = FrameSeries(
        name=movie.stem,
        image_size_angstrom=series.image_size_angstrom,
        dose_e_per_angstrom2=dose,
        is_used=np.ones(n, dtype=np.bool_),
        optics=series.optics,
        defocus_angstrom=SplineGrid.constant(float(series.defocus_angstrom.values[tilt, 0, 0])),
        astigmatism_angstrom=SplineGrid.constant(float(series.astigmatism_angstrom.values[tilt, 0, 0])),
        astigmatism_angle_degrees=SplineGrid.constant(float(series.astigmatism_angle_degrees.values[tilt, 0, 0])),
        phase_shift_degrees=SplineGrid.constant(float(series.phase_shift_degrees.values[tilt, 0, 0])),
        n_frames_of_movie=n,
        movie_name=movie.name,
        **_global_motion(uid, n, params.global_motion_angstrom, params.seed),
    )
    true = stated
    if params.motion_error_angstrom:
        drawn = keyed_random.normal(params.seed, "tilt movie motion", uid, size=(2, *_NODES_OF_TILT_MOVIE))
        x, y = (SplineGrid(values=torch.from_numpy(params.motion_error_angstrom * nodes)) for nodes in drawn)
        true = replace(stated, pyramid_x_angstrom=(x,), pyramid_y_angstrom=(y,))
    return SeriesTruth(number=uid, true=true, starting=stated, species=())


def _as_stated(number: int, params: FrameSeriesSimulationParams) -> FrameSeries:
    n = params.frames
    is_used = np.ones(n, dtype=np.bool_)
    weights = SeriesWeights()
    if params.exclude_bad_images and params.bad_images:
        # metadata of frame series have no flags: a frame is left out by its weight
        is_used[list(params.bad_images)] = False
        scale = torch.from_numpy(is_used.astype(np.float64))
        weights = SeriesWeights(scale=SplineGrid(values=scale.reshape(n, 1, 1)))
    mean, difference, direction = defocus_of_series(number, params)
    motion = _global_motion(number, n, params.global_motion_angstrom, params.seed)
    if params.local_motion_angstrom:
        drawn = keyed_random.normal(params.seed, "local motion", number, size=(2, *_LOCAL_NODES))
        nodes = params.local_motion_angstrom * (drawn - drawn.mean(axis=(2, 3), keepdims=True))
        motion["local_movement_x_angstrom"] = SplineGrid(values=torch.from_numpy(nodes[0]))
        motion["local_movement_y_angstrom"] = SplineGrid(values=torch.from_numpy(nodes[1]))
    name = f"FS_{number + 1}"
    return FrameSeries(
        name=name,
        image_size_angstrom=params.field_angstrom,
        dose_e_per_angstrom2=np.linspace(0.0, params.dose_e_per_angstrom2, n, endpoint=False),
        is_used=is_used,
        weights=weights,
        optics=optics(params),
        defocus_angstrom=SplineGrid.constant(mean),
        astigmatism_angstrom=SplineGrid.constant(difference),
        astigmatism_angle_degrees=SplineGrid.constant(direction),
        phase_shift_degrees=SplineGrid.constant(params.phase_shift_degrees),
        n_frames_of_movie=n,
        movie_name=f"{name}.{params.frame_format}",
        **motion,
    )


def _as_it_was(stated: FrameSeries, number: int, params: FrameSeriesSimulationParams) -> FrameSeries:
    """Return the series with all errors; grids without any stay as they are."""
    seed, n = params.seed, len(stated)
    changed: dict[str, Any] = {}
    if params.motion_error_angstrom:
        width, height = params.motion_error_nodes
        shapes = pyramid_shapes(width, height, n, params.dose_e_per_angstrom2)
        for axis in "xy":
            changed[f"pyramid_{axis}_angstrom"] = tuple(
                _drawn(f"motion error {axis}", number, shape, params.motion_error_angstrom / 2**level, seed, level)
                for level, shape in enumerate(shapes)
            )
    growth = 1 - np.exp(-stated.dose_e_per_angstrom2 / _FIRST_MOTION_E_PER_ANGSTROM2)
    if params.doming_angstrom:
        across = np.array([-1.0, 0.0, -1.0])
        dome = 1 + (across[:, None] + across) / 2  # 1 in the middle, 0 in the corners
        # what rises lies nearer to the lens, and so is less under focus
        rise = params.doming_angstrom * growth[:, None, None] * dome
        changed["doming_angstrom"] = SplineGrid(values=torch.from_numpy(-rise))
    if params.doming_tilt_degrees:
        for axis in "xyz":
            nodes = keyed_random.normal(seed, f"doming {axis}", number, size=(3, 3))
            turn = params.doming_tilt_degrees * growth[:, None, None] * nodes
            changed[f"stage_angle_{axis}_degrees"] = SplineGrid(values=torch.from_numpy(turn))
    if params.phase_shift_error_degrees:
        error = params.phase_shift_error_degrees * float(keyed_random.normal(seed, "phase shift error", number))
        changed["phase_shift_degrees"] = SplineGrid.constant(params.phase_shift_degrees + error)
    if params.astigmatism_error_angstrom:
        _, difference, direction = defocus_of_series(number, params)
        error_of_place = params.astigmatism_error_angstrom * keyed_random.normal(
            seed, "astigmatism error", number, size=(9, 2)
        )
        differences, directions = astigmatism_with_error(difference, direction, error_of_place)
        changed["astigmatism_angstrom"] = SplineGrid(values=torch.from_numpy(differences.reshape(1, 3, 3)))
        changed["astigmatism_angle_degrees"] = SplineGrid(values=torch.from_numpy(directions.reshape(1, 3, 3)))
    return replace(
        stated,
        optics=with_errors_of_optics(stated.optics, params, number),
        **changed,
    )


def _global_motion(uid: int, n: int, rms_angstrom: float, seed: int) -> dict[str, Any]:
    path = rms_angstrom * walk(keyed_random.normal(seed, "global motion", uid, size=(n, 2)))
    return {
        f"movement_{axis}_angstrom": SplineGrid(values=torch.from_numpy(values.copy()).reshape(n, 1, 1))
        for axis, values in zip("xy", path.T, strict=True)
    }


def _drawn(purpose: str, uid: int, shape: tuple[int, int, int], rms: float, seed: int, draw: int = 0) -> SplineGrid:
    values: NDArray[np.float64] = rms * keyed_random.normal(seed, purpose, uid, draw=draw, size=shape)
    return SplineGrid(values=torch.from_numpy(values))
