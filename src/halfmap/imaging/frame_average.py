"""The mean of a movie's frames, each moved back to where it would lie without motion."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from halfmap.data.image_series import FrameSeries
from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier.resample import shift
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import movement_grids
from halfmap.splines.grids import SplineGrid

_LEAST_LOCAL_PIXEL = 1e-3
"""Local motion smaller than this is none."""


def frame_average(source: ImageSource, series: FrameSeries) -> Float32Array:
    """Average the used frames of a movie, aligned by all its motion: whole, local and of the pyramid.

    Parameters
    ----------
    source : the frames, corrected for gain; read one by one.
    series : with the motion.

    Returns
    -------
    float32, shape (y, x)

    Raises
    ------
    InconsistentDataError
        The movie has another number of frames than the series.
    InputError
        No frame is used.

    Notes
    -----
    A frame's mean motion is undone by the shift theorem, exactly; what differs from place to place by cubic splines
    on the frame's own pixels, edges repeated. Content of place p lies at p − movement(p) in a frame, as in M.
    """
    if len(source) != len(series):
        raise InconsistentDataError(
            f"The movie of {series.name} must have one frame for each of the {len(series)} that its motion tells of; "
            f"got {len(source)}; check how frames are grouped."
        )
    used = np.flatnonzero(series.is_used)
    if not len(used):
        raise InputError(f"At least one frame of {series.name} must be used to average them; got none.")
    total = np.zeros(source.grid.shape, dtype=np.float64)
    for frame in used.tolist():
        x, y = _movement_pixel(series, frame, source.grid)
        total += _moved_back(torch.from_numpy(source.read([frame])[0]), source.grid, x, y)
    average: Float32Array = (total / len(used)).astype(np.float32)
    return average


def _moved_back(image: Tensor, grid: ImageGrid, x: Tensor, y: Tensor) -> Float32Array:
    mean = torch.stack([x.mean(), y.mean()])
    whole: Float32Array = shift(image, grid, mean * grid.pixel_size_angstrom).numpy()
    x, y = x - mean[0], y - mean[1]
    if float(torch.maximum(x.abs().max(), y.abs().max())) < _LEAST_LOCAL_PIXEL:
        return whole
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid.shape)
    places = np.stack([(rows[:, None] - y).numpy(), (columns - x).numpy()])
    moved: Float32Array = map_coordinates(whole, places, order=3, mode="nearest")
    return moved


def _movement_pixel(series: FrameSeries, frame: int, grid: ImageGrid) -> tuple[Tensor, Tensor]:
    """Return the motion of a frame at each pixel, x and y, float64, shape ``grid.shape``."""
    sides = [torch.arange(side, dtype=torch.float64) * grid.pixel_size_angstrom for side in grid.shape]
    rows, columns = sides[0] / series.image_size_angstrom[1], sides[1] / series.image_size_angstrom[0]
    total = [torch.zeros(grid.shape, dtype=torch.float64) for _ in range(2)]
    for grids, times in movement_grids(series):
        for field, one in zip(total, grids, strict=True):
            field += _field(one, rows, columns, times[frame])
    return total[0] / grid.pixel_size_angstrom, total[1] / grid.pixel_size_angstrom


def _field(grid: SplineGrid, rows: Tensor, columns: Tensor, time: Tensor) -> Tensor:
    """Return a grid's values at one time on rows and columns, (y, x): splines are products of their axes."""
    of_time = torch.tensordot(grid.weights_along(2, time), grid.values, dims=([-1], [0]))
    values: Tensor = grid.weights_along(1, rows) @ of_time @ grid.weights_along(0, columns).T
    return values
