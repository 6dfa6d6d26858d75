"""Slices in plain tensor operations: the path of accelerators, and what the kernels are tested against.

One mechanism serves references of d = 2 and 3 axes. Arguments that the functions share, on one device:

values : complex, shape (C, 2R + 1, ..., R + 1) with d axes after the first
    Transforms of C references at wave numbers from -R to R, along x from 0 to R.
planes : float64, shape (N, 2, d)
    Point (kx, ky) of slice n lies at kx · row 0 + ky · row 1.
coordinates : float64, shape (K, 2)
    (kx, ky) of the points of a slice, in wave numbers of the reference. Of curved slices of volumes (kx, ky, kz), with
    three rows in ``planes``.

Points at a radius of R or more count as zero.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

POINTS_AT_ONCE = {"cpu": 1 << 15}
"""Points of a chunk by device type: temporaries stay in a cache on a CPU and fill an accelerator."""


def extract_slices(values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
    """Interpolate slices of all references, the same ones of each.

    Returns
    -------
    Complex, shape (C, N, K), dtype of ``values``.
    """
    flat = values.reshape(-1)
    slices = torch.empty((len(values), len(planes), len(coordinates)), dtype=values.dtype, device=values.device)
    for share in _chunks(planes, coordinates, len(values)):
        cell, fraction, sign = _locate(planes[share], coordinates, values)
        total = torch.zeros_like(slices[:, share])
        for _, offset, weight in _corners(fraction, values):
            total += weight * flat.index_select(0, (cell + offset).reshape(-1)).reshape(cell.shape)
        slices[:, share] = _turned(total, sign)
    return slices


def insert_slices(
    data: Tensor, weight: Tensor, planes: Tensor, coordinates: Tensor, values: Tensor, weights: Tensor
) -> None:
    """Add slices, complex (C, N, K), and real weights to transforms in place; empty weights are left out.

    Parameters
    ----------
    data, weight : shape of ``values`` above; or ``weight`` of size 0.

    Notes
    -----
    On accelerators sums are formed in any order.
    """
    flat = torch.view_as_real(data).view(-1, 2)
    for share in _chunks(planes, coordinates, len(data)):
        cell, fraction, sign = _locate(planes[share], coordinates, data)
        turned = torch.view_as_real(_turned(values[:, share], sign).resolve_conj())
        for _, offset, corner in _corners(fraction, data):
            at = (cell + offset).reshape(-1)
            flat.index_add_(0, at, (corner[..., None] * turned).reshape(-1, 2))
            if weight.numel():
                weight.view(-1).index_add_(0, at, (corner * sign.abs() * weights[:, share]).reshape(-1))


def plane_gradient(values: Tensor, planes: Tensor, coordinates: Tensor, gradients: Tensor) -> Tensor:
    """Differentiate a function of the slices by their planes.

    Parameters
    ----------
    gradients : complex, shape (C, N, K): derivative by the real part + i derivative by the imaginary part.

    Returns
    -------
    float64, shape (N, 2, d).
    """
    flat = values.reshape(-1)
    result = torch.empty(planes.shape, dtype=torch.float64, device=values.device)
    for share in _chunks(planes, coordinates, len(values)):
        cell, fraction, sign = _locate(planes[share], coordinates, values)
        turned = _turned(gradients[:, share], sign) * sign
        slopes = torch.zeros_like(fraction)
        for upper, offset, _ in _corners(fraction, values):
            read = flat.index_select(0, (cell + offset).reshape(-1)).reshape(cell.shape)
            change = (turned.real * read.real + turned.imag * read.imag).sum(0)
            for axis in range(len(slopes)):
                others = torch.ones_like(change)
                for other in range(len(slopes)):
                    if other != axis:
                        others = others * (fraction[other] if upper[other] else 1 - fraction[other])
                slopes[axis] += change * others * (1 if upper[axis] else -1)
        result[share] = torch.einsum("dnk,ki->nid", slopes.to(torch.float64), coordinates)
    return result


def extract_sloping_slices(values: Tensor, rotations: Tensor, coordinates: Tensor) -> Tensor:
    """Interpolate slices of one volume, and how it changes around each of their points.

    Parameters
    ----------
    values : as above, of one volume: C = 1.
    rotations : float64, shape (N, 3, 3).

    Returns
    -------
    Complex, shape (4, N, K): see `halfmap.kernels.slice_extraction.extract_sloping_slices`.
    """
    flat = values.reshape(-1)
    result = torch.empty((4, len(rotations), len(coordinates)), dtype=values.dtype, device=values.device)
    for share in _chunks(rotations, coordinates, 1):
        cell, fraction, sign = _locate(rotations[share, :2], coordinates, values)
        slices = torch.zeros(cell.shape[1:], dtype=values.dtype, device=values.device)
        slopes = [torch.zeros_like(slices) for _ in range(3)]
        for upper, offset, weight in _corners(fraction, values):
            read = flat.index_select(0, (cell[0] + offset).reshape(-1)).reshape(slices.shape)
            slices += weight * read
            for axis in range(3):
                along = fraction[axis] if upper[axis] else 1 - fraction[axis]
                slopes[axis] += (weight / along.clamp(min=1e-30) * (1 if upper[axis] else -1)) * read
        turned = torch.stack([_turned(slope, sign) * sign for slope in slopes], dim=-1)
        along_axes = turned @ rotations[share].mT.to(turned.dtype)
        result[:, share] = torch.stack([_turned(slices, sign), *along_axes.unbind(-1)])
    return result


def _chunks(planes: Tensor, coordinates: Tensor, n_references: int) -> Iterator[slice]:
    size = max(1, POINTS_AT_ONCE.get(planes.device.type, 1 << 24) // max(1, len(coordinates) * n_references))
    return (slice(start, start + size) for start in range(0, len(planes), size))


def _locate(planes: Tensor, coordinates: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the flat index of each point's cell (C, n, K), the fractions (d, n, K), x first, and the signs (n, K)."""
    radius = like.shape[-1] - 1
    points = torch.einsum("nid,ki->dnk", planes, coordinates)
    sign = torch.where(points[0] >= 0, 1.0, -1.0)
    inside = points.square().sum(0) < (radius - 1e-6) ** 2
    sign = torch.where(inside, sign, torch.zeros_like(sign)).to(points.dtype)
    points = points * sign
    points[1:] += radius
    corner = points.floor()
    *strides, whole = _strides(like)
    cell = sum(along.to(torch.int64) * stride for along, stride in zip(corner, strides, strict=True))
    cell = cell + whole * torch.arange(len(like), device=points.device)[:, None, None]
    real = torch.zeros((), dtype=like.dtype).real.dtype
    return cell, (points - corner).to(real), sign.to(real)


def _strides(like: Tensor) -> list[int]:
    """Return the steps of the flat index along x, y (and z), and from one reference to the next."""
    strides = [1]
    for side in reversed(like.shape[1:]):
        strides.append(strides[-1] * side)
    return strides


def _corners(fraction: Tensor, like: Tensor) -> Iterator[tuple[tuple[int, ...], int, Tensor]]:
    """Yield the corners of the cells: 0 or 1 along x, y (and z), offset of the flat index, and weight (n, K)."""
    strides = _strides(like)[:-1]
    for backwards in product((0, 1), repeat=len(fraction)):
        upper = backwards[::-1]
        weight = torch.ones_like(fraction[0])
        for axis in reversed(range(len(fraction))):
            weight = weight * (fraction[axis] if upper[axis] else 1 - fraction[axis])
        yield upper, sum(up * stride for up, stride in zip(upper, strides, strict=True)), weight


def _turned(values: Tensor, sign: Tensor) -> Tensor:
    """Conjugate what belongs to a mate, and clear what lies beyond the range."""
    return torch.complex(values.real * sign.abs(), values.imag * sign)
