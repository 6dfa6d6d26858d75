"""Grids of values that are interpolated between their nodes: natural cubic splines, and linear in four dimensions."""

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from halfmap.errors import ShapeError

_AXES = "xyzw"


class Grid(Protocol):
    """What both kinds of grid have in common: values that are linear in their nodes."""

    @property
    def values(self) -> Tensor:
        """float64, in array order: (z, y, x) or (w, z, y, x)."""

    def axis_weights(self, coordinates: Tensor) -> tuple[Tensor, ...]:
        """Return for each axis, x first, the weights of its nodes; see `SplineGrid.axis_weights`."""

    def weights_along(self, axis: int, coordinate: Tensor) -> Tensor:
        """Return the weights of the nodes of one axis, shape (..., n); x is axis 0."""

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Return the values at coordinates, shape (...)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplineGrid:
    """A three-dimensional grid, interpolated by the tensor product of natural cubic splines.

    Parameters
    ----------
    values : float64, shape (z, y, x)
        At the nodes. The z axis is time, dose or the number of a tilt, whatever the grid is used for.
    margin : (x, y, z), each at least 0 and below 0.5
        Nodes lie evenly between ``margin`` and ``1 − margin`` of their axis.

    Raises
    ------
    ShapeError
        The values have not three axes.

    Notes
    -----
    The spline passes through the nodes and has no curvature at the first and last one; beyond them the cubic of the
    last piece goes on. An axis of one node is constant, one of two is linear. So behave the grids of Warp and M
    (einspline's natural boundaries).
    """

    values: Tensor
    margin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _checked(self.values, 3))

    @classmethod
    def constant(cls, value: float, shape: tuple[int, int, int] = (1, 1, 1)) -> "SplineGrid":
        """Return a grid of one value, shape (z, y, x)."""
        return cls(values=torch.full(shape, float(value), dtype=torch.float64))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of nodes, (z, y, x)."""
        depth, height, width = self.values.shape
        return depth, height, width

    def axis_weights(self, coordinates: Tensor) -> tuple[Tensor, ...]:
        """Return for each axis, x first, the weights of its nodes.

        Parameters
        ----------
        coordinates : shape (..., 3), (x, y, z), 0 to 1 from one side of the axis to the other.

        Returns
        -------
        Three tensors of shape (..., n)
            The value is the sum over nodes of the product of the three weights and the node's value. Differentiable.
        """
        return tuple(self.weights_along(axis, coordinates[..., axis]) for axis in range(3))

    def weights_along(self, axis: int, coordinate: Tensor) -> Tensor:
        """Return the weights of the nodes of one axis, shape (..., n); x is axis 0."""
        margin = self.margin[axis]
        return _cubic_weights((coordinate - margin) / (1.0 - 2.0 * margin), self.shape[2 - axis])

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Return the values at coordinates, shape (...); differentiable in nodes and coordinates."""
        return _weighted(self.values, self.axis_weights(coordinates))

    def resized(self, shape: tuple[int, int, int]) -> "SplineGrid":
        """Return the grid sampled at the nodes of another, shape (z, y, x); the same margins."""
        if shape == self.shape:
            return self
        nodes = [
            _nodes(n) * (1.0 - 2.0 * margin) + margin for n, margin in zip(reversed(shape), self.margin, strict=True)
        ]
        return SplineGrid(values=self(_product(nodes)), margin=self.margin)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearGrid:
    """A four-dimensional grid, interpolated linearly.

    Parameters
    ----------
    values : float64, shape (w, z, y, x)
        At the nodes, which lie evenly from 0 to 1 of each axis. The w axis is dose where the grid warps a volume.

    Raises
    ------
    ShapeError
        The values have not four axes.

    Notes
    -----
    As the volume warp of Warp and M: below the first node the first piece goes on, beyond the last one the last
    value stays.
    """

    values: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _checked(self.values, 4))

    @classmethod
    def constant(cls, value: float, shape: tuple[int, int, int, int] = (1, 1, 1, 1)) -> "LinearGrid":
        """Return a grid of one value, shape (w, z, y, x)."""
        return cls(values=torch.full(shape, float(value), dtype=torch.float64))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of nodes, (w, z, y, x)."""
        duration, depth, height, width = self.values.shape
        return duration, depth, height, width

    def axis_weights(self, coordinates: Tensor) -> tuple[Tensor, ...]:
        """Return for each axis, x first, the weights of its nodes; coordinates of shape (..., 4), (x, y, z, w)."""
        return tuple(self.weights_along(axis, coordinates[..., axis]) for axis in range(4))

    def weights_along(self, axis: int, coordinate: Tensor) -> Tensor:
        """Return the weights of the nodes of one axis, shape (..., n); x is axis 0."""
        return _linear_weights(coordinate, self.shape[3 - axis])

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Return the values at coordinates, shape (...); differentiable in nodes and coordinates."""
        return _weighted(self.values, self.axis_weights(coordinates))

    def resized(self, shape: tuple[int, int, int, int]) -> "LinearGrid":
        """Return the grid sampled at the nodes of another, shape (w, z, y, x)."""
        if shape == self.shape:
            return self
        return LinearGrid(values=self(_product([_nodes(n) for n in reversed(shape)])))


def values_over_images(grid: Grid, places: Tensor, times: Tensor) -> Tensor:
    """Return the values of a grid at places that move from image to image.

    Parameters
    ----------
    places : shape (..., T, 2) for a grid of three axes, (..., T, 3) for one of four, 0 to 1.
    times : shape (T,), where the images lie on the last axis.

    Returns
    -------
    float64, shape (..., T)
        As the grid called at places and times together, in far less memory where it has a node for each image.
    """
    last = grid.values.dim() - 1
    at_images = torch.tensordot(grid.weights_along(last, times), grid.values, dims=([-1], [0]))
    weights = [grid.weights_along(axis, places[..., axis]) for axis in range(last)]
    formula = "tyx,...tx,...ty->...t" if last == 2 else "tzyx,...tx,...ty,...tz->...t"
    values: Tensor = torch.einsum(formula, at_images, *weights)
    return values


def _checked(values: Tensor, ndim: int) -> Tensor:
    if values.dim() != ndim or not values.numel():
        names = ", ".join(reversed(_AXES[:ndim]))
        raise ShapeError(f"A grid's values must have the axes ({names}); got shape {tuple(values.shape)}.")
    return values.to(torch.float64)


def _weighted(values: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Sum nodes times weights, one axis after the other, x first."""
    result = torch.tensordot(weights[0], values, dims=([-1], [-1]))
    for weight in weights[1:]:
        extra = result.dim() - weight.dim()
        result = (result * weight.reshape(*weight.shape[:-1], *(1,) * extra, weight.shape[-1])).sum(-1)
    return result


def _cubic_weights(position: Tensor, n: int) -> Tensor:
    if n == 1:
        return torch.ones((*position.shape, 1), dtype=torch.float64, device=position.device)
    u = position.to(torch.float64) * (n - 1)
    first = u.detach().floor().clamp(0, n - 2)
    t = u - first
    basis = (
        torch.stack(((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), dim=-1) / 6
    )  # of the four B-splines that reach the piece
    rows = first.long()[..., None] + torch.arange(4, device=u.device)
    return torch.einsum("...k,...kn->...n", basis, _coefficients_of_nodes(n).to(u.device)[rows])


def _linear_weights(position: Tensor, n: int) -> Tensor:
    u = position.to(torch.float64) * (n - 1)
    first = u.detach().trunc().clamp(0, n - 1)
    second = (first + 1).clamp(max=n - 1)
    t = (u - first)[..., None]
    nodes = torch.arange(n, device=u.device, dtype=torch.float64)
    return (nodes == first[..., None]) * (1 - t) + (nodes == second[..., None]) * t


@cache
def _coefficients_of_nodes(n: int) -> Tensor:
    """Return the matrix, shape (n + 2, n), from values at nodes to the coefficients of their B-splines."""
    system = torch.zeros((n + 2, n + 2), dtype=torch.float64)
    for node in range(n):
        system[node + 1, node : node + 3] = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
    system[0, :3] = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    system[-1, -3:] = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    right = torch.zeros((n + 2, n), dtype=torch.float64)
    right[1:-1] = torch.eye(n, dtype=torch.float64)
    return torch.linalg.solve(system, right)


def _nodes(n: int) -> Tensor:
    """Where nodes lie, 0 to 1; a single one in the middle."""
    return torch.linspace(0.0, 1.0, n, dtype=torch.float64) if n > 1 else torch.full((1,), 0.5, dtype=torch.float64)


def _product(nodes: list[Tensor]) -> Tensor:
    """Return all combinations of coordinates, x first in the list and in the last axis, shape (..., y, x, ndim)."""
    return torch.stack(torch.meshgrid(*reversed(nodes), indexing="ij")[::-1], dim=-1)
