"""Extraction and insertion of slices as differentiable functions, by compiled kernel or plain tensor operations.

Shapes are those of `halfmap.fourier.multilinear`. On a CPU in single precision kernels do the work,
else tensor operations.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from halfmap.fourier import multilinear
from halfmap.kernels import image_slices, slice_extraction, slice_insertion

POINTS_PER_THREAD = 20_000


class Extract(torch.autograd.Function):
    """Slices of half transforms; the derivative by the values is insertion."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
        """Return slices, complex, shape (C, N, K)."""
        ctx.save_for_backward(values, planes, coordinates)
        return _extract(values.resolve_conj(), planes, coordinates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the derivatives by values and planes."""
        values, planes, coordinates = ctx.saved_tensors
        by_values = by_planes = None
        gradient = gradient.resolve_conj()
        if ctx.needs_input_grad[0]:
            empty = torch.empty(0, dtype=values.real.dtype, device=values.device)
            by_values, _ = _insert(gradient, empty, planes, coordinates, values.shape)
            by_values[..., 0] /= 2  # of a coefficient and its mate, stored both
        if ctx.needs_input_grad[1]:
            by_planes = _plane_gradient(values, planes, coordinates, gradient)
        return by_values, by_planes, None


class Insert(torch.autograd.Function):
    """Insertion into half transforms; the derivative by the values is slices."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weights: Tensor, planes: Tensor, coordinates: Tensor, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return data and weight, both of the shape (C, ...), with mates on kx = 0 sharing what they got."""
        ctx.save_for_backward(values, planes, coordinates)
        data, weight = _insert(values.resolve_conj(), weights, planes, coordinates, shape)
        ctx.mark_non_differentiable(weight)
        return data, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        """Return the derivatives by values and planes."""
        values, planes, coordinates = ctx.saved_tensors
        both = gradient.resolve_conj().clone()
        _add_mates(both)
        by_values = _extract(both, planes, coordinates) if ctx.needs_input_grad[0] else None
        by_planes = _plane_gradient(both, planes, coordinates, values) if ctx.needs_input_grad[2] else None
        return by_values, None, by_planes, None, None


def _add_mates(transforms: Tensor) -> None:
    """Give both mates on kx = 0 the sum of either, in place."""
    axes = tuple(range(1, transforms.ndim - 1))
    transforms[..., 0] = transforms[..., 0] + transforms[..., 0].flip(axes).conj()


def _has_kernel(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.complex64


def _extract(values: Tensor, planes: Tensor, coordinates: Tensor) -> Tensor:
    if not _has_kernel(values):
        return multilinear.extract_slices(values, planes, coordinates)
    points = _numpy(planes), _numpy(coordinates)
    if planes.shape[-1] == 2:
        slices = image_slices.extract_slices(
            _numpy(values), *points, n_threads=_n_threads(planes, coordinates, len(values))
        )
    else:
        slices = slice_extraction.extract_slices(_numpy(values[0]), *points, n_threads=_n_threads(planes, coordinates))[
            None
        ]
    return torch.view_as_complex(torch.from_numpy(slices))


def extract_sloping_slices(values: Tensor, rotations: Tensor, coordinates: Tensor) -> Tensor:
    """Return slices of one volume and its slopes at their points, complex, shape (4, N, K)."""
    if not _has_kernel(values):
        return multilinear.extract_sloping_slices(values, rotations, coordinates)
    threads = _n_threads(rotations, coordinates)
    slices = slice_extraction.extract_sloping_slices(
        _numpy(values[0]), _numpy(rotations), _numpy(coordinates), n_threads=threads
    )
    return torch.view_as_complex(torch.from_numpy(slices))


def _insert(
    values: Tensor, weights: Tensor, planes: Tensor, coordinates: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    data = torch.zeros(shape, dtype=values.dtype, device=values.device)
    weight = torch.zeros(shape if weights.numel() else (0,), dtype=values.real.dtype, device=values.device)
    if _has_kernel(values):
        insert = image_slices.insert_slices if planes.shape[-1] == 2 else _insert_into_volume
        insert(
            _numpy(data),
            _numpy(weight),
            _numpy(planes),
            _numpy(coordinates),
            _numpy(values),
            _numpy(weights),
            n_threads=_n_threads(planes, coordinates, len(values)),
        )
    else:
        multilinear.insert_slices(data, weight, planes, coordinates, values, weights)
    _add_mates(data)
    if weights.numel():
        _add_mates(weight)
    return data, weight


def _insert_into_volume(
    data: Any, weight: Any, planes: Any, coordinates: Any, values: Any, weights: Any, *, n_threads: int
) -> None:
    weight, weights = (weight[0], weights[0]) if weight.size else (weight, weights)
    slice_insertion.insert_slices(data[0], weight, planes, coordinates, values[0], weights, n_threads=n_threads)


def _plane_gradient(values: Tensor, planes: Tensor, coordinates: Tensor, gradient: Tensor) -> Tensor:
    # of images it is rarely asked for, and has no kernel
    if not _has_kernel(values) or planes.shape[-1] == 2:
        return multilinear.plane_gradient(values, planes, coordinates, gradient)
    return torch.from_numpy(
        slice_extraction.plane_gradient(
            _numpy(values[0]),
            _numpy(planes),
            _numpy(coordinates),
            _numpy(gradient[0]),
            n_threads=_n_threads(planes, coordinates),
        )
    )


def _n_threads(planes: Tensor, coordinates: Tensor, n_references: int = 1) -> int:
    """Return how many threads pay: a part must outlast the start of its thread."""
    n_points = n_references * len(planes) * len(coordinates)
    return max(1, min(torch.get_num_threads(), n_points // POINTS_PER_THREAD))


def _numpy(tensor: Tensor) -> Any:
    """View a contiguous tensor as an array, complex numbers as pairs."""
    detached = tensor.detach()
    return (torch.view_as_real(detached) if detached.is_complex() else detached).contiguous().numpy()
