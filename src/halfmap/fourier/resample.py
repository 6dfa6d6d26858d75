"""Changing the sampling of images and volumes without leaving their band, and moving them by parts of a pixel.

Every function keeps the grey values and the centre: what lies on the centre voxel ``n // 2`` before
lies on it afterwards.
"""

import math
from functools import lru_cache
from types import EllipsisType

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.tensors import Shifts


def rescaled_grid(grid: ImageGrid, shape: int | tuple[int, ...]) -> ImageGrid:
    """Return the grid that covers the same field with other sides.

    Parameters
    ----------
    shape : the new sides in array order, or one for all.

    Returns
    -------
    The pixel size is the old one times old over new side; where the sides of a non-square grid cannot
    shrink alike, the larger side decides.

    Raises
    ------
    ShapeError
        The new shape has another number of sides.
    """
    shape = (shape,) * grid.ndim if isinstance(shape, int) else shape
    if len(shape) != grid.ndim:
        raise ShapeError(f"The new shape must have {grid.ndim} sides like the grid; got {shape}.")
    larger = max(range(grid.ndim), key=lambda axis: grid.shape[axis])
    return ImageGrid(shape=shape, pixel_size_angstrom=grid.pixel_size_angstrom * grid.shape[larger] / shape[larger])


def crop_or_pad_transform(transform: Tensor, from_grid: ImageGrid, to_grid: ImageGrid) -> Tensor:
    """Crop or zero-pad half transforms, which changes the pixel size and keeps the field of view.

    Parameters
    ----------
    transform : complex, shape (..., *from_grid.rfft_shape), of `ImageGrid.rfft`.
    to_grid : the grid wanted, usually of `rescaled_grid`.

    Returns
    -------
    Complex, shape (..., *to_grid.rfft_shape).

    Raises
    ------
    ShapeError
        The transform is not on ``from_grid``, or the grids differ in their number of axes.
    InputError
        The two grids cover different fields.

    Notes
    -----
    The Nyquist coefficient of an even side stands for both signs of its frequency. Cropping to an even
    side adds the two coefficients that fall on it, padding from one shares it between them: real images
    stay real, and what is padded and cropped back returns exactly.
    """
    if from_grid.ndim != to_grid.ndim or tuple(transform.shape[-from_grid.ndim :]) != from_grid.rfft_shape:
        raise ShapeError(
            f"A half transform must end in the axes {from_grid.rfft_shape} and keep their number; "
            f"got shape {tuple(transform.shape)} for a grid of shape {to_grid.shape}."
        )
    for old, new in zip(from_grid.shape, to_grid.shape, strict=True):
        ratio = new * to_grid.pixel_size_angstrom / (old * from_grid.pixel_size_angstrom)
        # whole pixels cannot keep the field of a non-square image better than half a pixel
        if abs(ratio - 1) > max(1e-3, 1.0 / min(old, new)):
            raise InputError(
                f"Both grids must cover the same field; got {old} px of {from_grid.pixel_size_angstrom:g} Å and "
                f"{new} px of {to_grid.pixel_size_angstrom:g} Å; take the grid from rescaled_grid."
            )
    for axis in range(from_grid.ndim - 1):
        transform = _resize_full_axis(transform, axis - from_grid.ndim, from_grid.shape[axis], to_grid.shape[axis])
    return _resize_half_axis(transform, from_grid.ndim, from_grid.shape[-1], to_grid.shape[-1])


def rescale(array: Tensor, grid: ImageGrid, shape: int | tuple[int, ...]) -> tuple[Tensor, ImageGrid]:
    """Resample images or volumes to other sides, by cropping or padding their transforms.

    Parameters
    ----------
    array : real, shape (..., *grid.shape).
    shape : the new sides in array order, or one for all.

    Returns
    -------
    The array of shape (..., *shape) and its grid, whose pixel size follows from the sides.

    Notes
    -----
    The same as `crop_or_pad_transform` between the two grids' transforms. That map is real and separable, so it
    is done as one matrix product for each axis: no shifts of the origin, any sides, and faster than transforms up to
    sides of some hundreds.
    """
    grid.check(array)
    to_grid = rescaled_grid(grid, shape)
    for dim in range(-1, -grid.ndim - 1, -1):
        old, new = grid.shape[dim], to_grid.shape[dim]
        if old != new:
            matrix = rescaling_matrix(old, new).to(array.device, array.dtype)
            array = array @ matrix.T if dim == -1 else (matrix @ array.movedim(dim, -2)).movedim(-2, dim)
    return array, to_grid


@lru_cache(maxsize=16)
def rescaling_matrix(old: int, new: int) -> Tensor:
    """Return the matrix that changes the number of samples of one axis by cropping or padding its transform.

    Returns
    -------
    float64, shape (new, old); the centre sample ``old // 2`` goes to ``new // 2``. Not to be changed: it is kept.
    """
    small = min(old, new)
    k = torch.arange(small // 2 + 1, dtype=torch.float64)
    weight = torch.full_like(k, 2.0)
    weight[0] = 1.0
    if small % 2 == 0 and new > old:
        weight[-1] = 1.0  # the coarser side's Nyquist coefficient is shared between both signs
    source = (torch.arange(old, dtype=torch.float64) - old // 2) / old
    target = (torch.arange(new, dtype=torch.float64) - new // 2) / new
    turns_source, turns_target = 2 * math.pi * k * source[:, None], 2 * math.pi * k * target[:, None]
    even = (torch.cos(turns_target) * weight) @ torch.cos(turns_source).T
    odd = (torch.sin(turns_target) * weight) @ torch.sin(turns_source).T
    return (even + odd) / old


def rescale_to_pixel_size(
    array: Tensor, grid: ImageGrid, pixel_size_angstrom: float, side: int | tuple[int, ...]
) -> tuple[Tensor, ImageGrid]:
    """Resample images or volumes to exactly the pixel size asked for.

    Parameters
    ----------
    array : real, shape (..., *grid.shape).
    side : the sides of the result, in array order, or one for all.

    Returns
    -------
    The array of shape (..., *sides) and its grid. Positions outside the old field are 0.

    Raises
    ------
    InputError
        The pixel size is not positive.

    Notes
    -----
    The trigonometric polynomial through the old samples, without its frequencies beyond the Nyquist
    frequency of the coarser sampling, is evaluated at the new positions; it is separable, one matrix
    per axis. Where the new field is a whole number of new pixels this equals `rescale`.
    """
    to_grid = ImageGrid(
        shape=(side,) * grid.ndim if isinstance(side, int) else side, pixel_size_angstrom=pixel_size_angstrom
    )
    if to_grid.ndim != grid.ndim:
        raise ShapeError(f"The new shape must have {grid.ndim} sides like the grid; got {to_grid.shape}.")
    grid.check(array)
    for axis in range(grid.ndim):
        matrix = _evaluation_matrix(
            grid.shape[axis], to_grid.shape[axis], to_grid.pixel_size_angstrom / grid.pixel_size_angstrom
        ).to(array)
        array = torch.movedim(torch.movedim(array, axis - grid.ndim, -1) @ matrix.T, -1, axis - grid.ndim)
    return array.contiguous(), to_grid


def crop_or_pad(
    array: Tensor, grid: ImageGrid, shape: int | tuple[int, ...], fill: float = 0.0
) -> tuple[Tensor, ImageGrid]:
    """Cut images or volumes, or surround them, about their centre voxel.

    Parameters
    ----------
    array : shape (..., *grid.shape).
    shape : the new sides in array order, or one for all.
    fill : the value of what lies outside the old field.

    Returns
    -------
    The array of shape (..., *shape), never a view of the old one, and its grid.

    Raises
    ------
    ShapeError
        The new shape has another number of sides.
    """
    to_grid = grid.with_shape((shape,) * grid.ndim if isinstance(shape, int) else shape)
    if to_grid.ndim != grid.ndim:
        raise ShapeError(f"The new shape must have {grid.ndim} sides like the grid; got {to_grid.shape}.")
    grid.check(array)
    source: list[EllipsisType | slice] = [...]
    target: list[EllipsisType | slice] = [...]
    for old, new in zip(grid.shape, to_grid.shape, strict=True):
        offset = old // 2 - new // 2
        source.append(slice(max(offset, 0), min(offset + new, old)))
        target.append(slice(max(-offset, 0), min(old - offset, new)))
    result = torch.full((*array.shape[: -grid.ndim], *to_grid.shape), fill, dtype=array.dtype, device=array.device)
    result[tuple(target)] = array[tuple(source)]
    return result, to_grid


def phase_factors(frequencies: Tensor, shifts_angstrom: Shifts) -> Tensor:
    """Return what coefficients must be multiplied by to move the content by ``+shifts``.

    Parameters
    ----------
    frequencies : 1/Å, shape (..., d) with components (x, y[, z]); e.g. `FourierBand.frequencies`.
    shifts_angstrom : Å, shape (n..., d).

    Returns
    -------
    complex128, shape (n..., ...): exp(−2πi f·t). Differentiable in the shifts.

    Raises
    ------
    ShapeError
        Shifts and frequencies differ in their components.
    """
    if frequencies.shape[-1] != shifts_angstrom.shape[-1]:
        raise ShapeError(
            f"Shifts must have as many components as the frequencies, {frequencies.shape[-1]}; "
            f"got shape {tuple(shifts_angstrom.shape)}."
        )
    turns = torch.tensordot(shifts_angstrom.to(torch.float64), frequencies.to(torch.float64), dims=([-1], [-1]))
    return torch.exp(turns * (-2j * math.pi))


def shift(array: Tensor, grid: ImageGrid, shifts_angstrom: Shifts) -> Tensor:
    """Move images or volumes, periodically, by any parts of a pixel.

    Parameters
    ----------
    array : real, shape (..., *grid.shape).
    shifts_angstrom : Å, shape (..., ndim) with components (x, y[, z]), broadcast against the leading
        axes of ``array``; a feature at p goes to p + shift.

    Returns
    -------
    Real, shape (..., *grid.shape). Differentiable in array and shifts.

    Raises
    ------
    ShapeError
        The shifts' components are not those of the grid.

    Notes
    -----
    The Nyquist coefficient of an even side, which stands for both signs of its frequency, is multiplied
    by the mean of the two factors, so that the image stays real.
    """
    grid.check(array)
    if shifts_angstrom.shape[-1] != grid.ndim:
        raise ShapeError(
            f"Shifts must have {grid.ndim} components (x first); got shape {tuple(shifts_angstrom.shape)}."
        )
    transform = grid.rfft(array)
    for axis in range(grid.ndim):
        side = grid.shape[axis]
        halved = axis == grid.ndim - 1
        k = torch.fft.rfftfreq(side, dtype=torch.float64) if halved else torch.fft.fftfreq(side, dtype=torch.float64)
        pixels = shifts_angstrom[..., grid.ndim - 1 - axis].to(array.device, torch.float64) / grid.pixel_size_angstrom
        turns = 2 * math.pi * pixels[..., None] * k.to(array.device)
        nyquist = (k.abs() == 0.5).to(array.device)
        factors = torch.complex(torch.cos(turns), torch.where(nyquist, torch.zeros_like(turns), -torch.sin(turns)))
        trailing = (1,) * (grid.ndim - 1 - axis)
        leading = (1,) * axis
        shape = (*factors.shape[:-1], *leading, factors.shape[-1], *trailing)
        transform = transform * factors.reshape(shape).to(transform.dtype)
    return grid.irfft(transform)


def _resize_full_axis(transform: Tensor, dim: int, old: int, new: int) -> Tensor:
    if old == new:
        return transform
    small = min(old, new)
    positive = (small + 1) // 2  # frequencies 0 … below the smaller side's Nyquist
    negative = (small - 1) // 2
    shape = list(transform.shape)
    shape[dim] = new
    result = transform.new_zeros(shape)
    result.narrow(dim, 0, positive).copy_(transform.narrow(dim, 0, positive))
    if negative:
        result.narrow(dim, new - negative, negative).copy_(transform.narrow(dim, old - negative, negative))
    if small % 2 == 0:
        half = small // 2
        if new < old:
            result.narrow(dim, half, 1).copy_(transform.narrow(dim, half, 1) + transform.narrow(dim, old - half, 1))
        else:
            shared = transform.narrow(dim, half, 1) / 2
            result.narrow(dim, half, 1).copy_(shared)
            result.narrow(dim, new - half, 1).copy_(shared)
    return result


def _resize_half_axis(transform: Tensor, ndim: int, old: int, new: int) -> Tensor:
    if old == new:
        return transform
    small = min(old, new)
    kept = small // 2 + 1
    result = transform.new_zeros((*transform.shape[:-1], new // 2 + 1))
    result[..., :kept] = transform[..., :kept]
    if small % 2 == 0:
        column = transform[..., small // 2]
        result[..., small // 2] = column + _mates(column, ndim - 1).conj() if new < old else column / 2
    return result


def _mates(column: Tensor, n_axes: int) -> Tensor:
    """Return the values at the opposite frequencies of the last ``n_axes`` full axes."""
    axes = tuple(range(-n_axes, 0))
    return torch.roll(torch.flip(column, axes), (1,) * n_axes, axes)


def _evaluation_matrix(old: int, new: int, step: float) -> Tensor:
    """Return the (new, old) matrix from samples to the band-limited values at distances ``step``."""
    source = torch.arange(old, dtype=torch.float64) - old // 2
    target = (torch.arange(new, dtype=torch.float64) - new // 2) * step
    k = torch.arange(old // 2 + 1, dtype=torch.float64)
    weight = torch.full_like(k, 2.0)
    weight[0] = 1.0
    if old % 2 == 0:
        weight[-1] = 1.0
    if step > 1:
        weight[k / old > 0.5 / step * (1 + 1e-9)] = 0.0
    angle_target = 2 * math.pi / old * target[:, None] * k
    angle_source = 2 * math.pi / old * source[:, None] * k
    matrix = torch.cos(angle_target) * weight @ torch.cos(angle_source).T
    matrix += torch.sin(angle_target) * weight @ torch.sin(angle_source).T
    index = target + old // 2
    outside = (index < -0.5) | (index > old - 0.5)
    matrix[outside] = 0.0
    return matrix / old
