"""Slices in plain tensor operations: the path of accelerators, and what the kernels are tested against.

Arguments are those of `halfmap.kernels.slice_extraction`, as tensors on one device: values complex,
shape (2R + 1, 2R + 1, R + 1); planes float64, shape (N, 2, 3); coordinates float64, shape (K, 2).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

POINTS_AT_ONCE = {"cpu": 1 << 15}
"""Points of a chunk by device type: temporaries stay in a cache on a CPU and fill an accelerator."""


def extract_slices(values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
    """Interpolate slices.

    Returns
    -------
    Complex, shape (N, K), dtype of ``values``.
    """
    flat = values.reshape(-1)
    slices = torch.empty(len(planes), len(coordinates), dtype=values.dtype, device=values.device)
    for share in _chunks(planes, coordinates):
        cell, fraction, sign = _locate(planes[share], coordinates, values)
        total = torch.zeros_like(slices[share])
        for offset, weight in _corners(fraction, values):
            total += weight * flat[cell + offset]
        slices[share] = _turned(total, sign)
    return slices


def insert_slices(
    data: Tensor, weight: Tensor, planes: Tensor, coordinates: Tensor, values: Tensor, weights: Tensor
) -> None:
    """Add slices, complex (N, K), and real weights to a volume in place; empty weights are left out.

    Notes
    -----
    On accelerators sums are formed in any order.
    """
    flat = torch.view_as_real(data).reshape(-1, 2)
    for share in _chunks(planes, coordinates):
        cell, fraction, sign = _locate(planes[share], coordinates, data)
        turned = torch.view_as_real(_turned(values[share], sign).resolve_conj())
        for offset, corner in _corners(fraction, data):
            at = (cell + offset).reshape(-1)
            flat.index_add_(0, at, (corner[..., None] * turned).reshape(-1, 2))
            if weight.numel():
                weight.view(-1).index_add_(0, at, (corner * weights[share] * sign.abs()).reshape(-1))


def plane_gradient(values: Tensor, planes: Tensor, coordinates: Tensor, gradients: Tensor) -> Tensor:
    """Differentiate a function of the slices by their planes.

    Parameters
    ----------
    gradients : complex, shape (N, K): derivative by the real part + i derivative by the imaginary part.

    Returns
    -------
    float64, shape (N, 2, 3).
    """
    flat = values.reshape(-1)
    result = torch.empty(planes.shape, dtype=torch.float64, device=values.device)
    for share in _chunks(planes, coordinates):
        cell, fraction, sign = _locate(planes[share], coordinates, values)
        turned = _turned(gradients[share], sign) * sign
        slopes = torch.zeros_like(fraction)
        for corner, (offset, _) in enumerate(_corners(fraction, values)):
            read = flat[cell + offset]
            change = turned.real * read.real + turned.imag * read.imag
            upper = [corner & 1, corner >> 1 & 1, corner >> 2]
            factors = [fraction[axis] if upper[axis] else 1 - fraction[axis] for axis in range(3)]
            for axis in range(3):
                others = factors[(axis + 1) % 3] * factors[(axis + 2) % 3]
                slopes[axis] += change * others * (1 if upper[axis] else -1)
        result[share] = torch.einsum("dnk,ki->nid", slopes.to(torch.float64), coordinates)
    return result


def _chunks(planes: Tensor, coordinates: Tensor) -> Iterator[slice]:
    size = max(1, POINTS_AT_ONCE.get(planes.device.type, 1 << 24) // max(1, len(coordinates)))
    return (slice(start, start + size) for start in range(0, len(planes), size))


def _locate(planes: Tensor, coordinates: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the flat index of each point's cell (n, K), the fractions (3, n, K) and the signs (n, K)."""
    radius = like.shape[-1] - 1
    points = torch.einsum("nid,ki->dnk", planes, coordinates)
    sign = torch.where(points[0] >= 0, 1.0, -1.0)
    inside = points.square().sum(0) < (radius - 1e-6) ** 2
    sign = torch.where(inside, sign, torch.zeros_like(sign)).to(points.dtype)
    points = points * sign
    points[1:] += radius
    corner = points.floor()
    x, y, z = corner.to(torch.int64)
    cell = (z * (2 * radius + 1) + y) * (radius + 1) + x
    real = torch.zeros((), dtype=like.dtype).real.dtype
    return cell, (points - corner).to(real), sign.to(real)


def _corners(fraction: Tensor, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the eight corners of the cells, x fastest: offset of the flat index, and weight (n, K)."""
    row = like.shape[-1]
    sheet = row * like.shape[-2]
    x, y, z = fraction
    for upper_z in range(2):
        for upper_y in range(2):
            side = (z if upper_z else 1 - z) * (y if upper_y else 1 - y)
            for upper_x in range(2):
                yield upper_z * sheet + upper_y * row + upper_x, side * (x if upper_x else 1 - x)


def _turned(values: Tensor, sign: Tensor) -> Tensor:
    """Conjugate what belongs to a mate, and clear what lies beyond the range."""
    return torch.complex(values.real * sign.abs(), values.imag * sign)
