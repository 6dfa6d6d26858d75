"""The mean of a movie's frames, each moved back to where it would lie without motion."""

import math

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import FrameSeries
from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import movement_grids
from halfmap.kernels.spline_displacement import read_displaced

_MEAN_STEP = 16
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
        x, y = movement_pixel(series, frame, source.grid)
        total += moved_back(torch.fft.rfft2(torch.from_numpy(source.read([frame])[0])), source.grid, x, y)
    average: Float32Array = (total / len(used)).astype(np.float32)
    return average


def moved_back(transform: Tensor, grid: ImageGrid, x: Tensor, y: Tensor) -> Float32Array:
    """Return an image whose content is moved to where it would lie without motion.

    Parameters
    ----------
    transform : of the image, ``torch.fft.rfft2``.
    x, y : float32, shape ``grid.shape``, motion in pixels: what is seen at p is read at p − motion(p).

    Notes
    -----
    The coefficients of the cubic B-splines through the pixels come from the same transform that is shifted: their sum
    is the image convolved with (1, 4, 1) / 6 along each axis. Unser 1999, IEEE Signal Process. Mag. 16, 22.
    """
    # about the mean: what is left after it is read exactly anyway
    mean = torch.stack([field[::_MEAN_STEP, ::_MEAN_STEP].mean(dtype=torch.float64) for field in (x, y)])
    is_local = max(float(field.max() - field.min()) for field in (x, y)) >= _LEAST_LOCAL_PIXEL
    for axis, pixels in enumerate((mean[1], mean[0])):
        factors = _shift_factors(grid.shape[axis], float(pixels), is_half=axis == 1, spline=is_local)
        transform = transform * (factors if axis else factors[:, None]).to(transform.dtype)
    image: Float32Array = torch.fft.irfft2(transform, s=grid.shape).float().numpy()
    if not is_local:
        return image
    moved = np.empty_like(image)
    read_displaced(image, x.numpy(), y.numpy(), np.float32(mean[0]), np.float32(mean[1]), moved)
    return moved


def _shift_factors(side: int, pixels: float, *, is_half: bool, spline: bool) -> Tensor:
    """Return what coefficients along an axis are multiplied by to move content by +pixels, as complex128."""
    k = (torch.fft.rfftfreq if is_half else torch.fft.fftfreq)(side, dtype=torch.float64)
    turns = -2 * math.pi * pixels * k
    # the Nyquist coefficient stands for both signs of its frequency, and must stay real
    factors = torch.complex(torch.cos(turns), torch.where(k.abs() == 0.5, torch.zeros_like(turns), torch.sin(turns)))
    return factors * (3 / (2 + torch.cos(2 * math.pi * k))) if spline else factors


def movement_pixel(series: FrameSeries, frame: int, grid: ImageGrid) -> tuple[Tensor, Tensor]:
    """Return the motion of a frame at each pixel of a grid over its field, x and y, float32, shape ``grid.shape``."""
    sides = [torch.arange(side, dtype=torch.float64) * grid.pixel_size_angstrom for side in grid.shape]
    rows, columns = sides[0] / series.image_size_angstrom[1], sides[1] / series.image_size_angstrom[0]
    # splines are products of their axes: fields of all grids are one product of matrices
    of_rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    of_columns: tuple[list[Tensor], list[Tensor]] = ([], [])
    for grids, times in movement_grids(series):
        for axis, one in enumerate(grids):
            of_time = torch.tensordot(one.weights_along(2, times[frame]), one.values, dims=([-1], [0]))
            of_rows[axis].append(one.weights_along(1, rows) @ of_time / grid.pixel_size_angstrom)
            of_columns[axis].append(one.weights_along(0, columns))
    x, y = (
        torch.cat(of_rows[axis], dim=-1).float() @ torch.cat(of_columns[axis], dim=-1).T.float() for axis in range(2)
    )
    return x, y
