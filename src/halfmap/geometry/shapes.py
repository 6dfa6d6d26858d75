"""Soft shapes on grids: discs and spheres with raised-cosine edges."""

import math

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid


def raised_cosine_edge(distance_angstrom: Tensor, edge_angstrom: float) -> Tensor:
    """Fall from 1 to 0 over an edge outside a shape.

    Parameters
    ----------
    distance_angstrom : any shape
        Signed distance from the shape's surface, negative inside.
    edge_angstrom : width of the edge, not negative; 0 makes a hard one.

    Returns
    -------
    Shape of ``distance_angstrom``
        1 inside and on the surface, ½ + ½ cos(π d / width) in the edge, 0 beyond.

    Raises
    ------
    InputError
        A negative width.
    """
    if not edge_angstrom >= 0:
        raise InputError(f"The width of an edge must not be negative; got {edge_angstrom} Å.")
    if edge_angstrom == 0:
        return (distance_angstrom <= 0).to(distance_angstrom.dtype)
    fraction = (distance_angstrom / edge_angstrom).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(math.pi * fraction)


def soft_disc(
    grid: ImageGrid,
    radius_angstrom: float,
    edge_angstrom: float,
    *,
    centre_angstrom: tuple[float, float] = (0.0, 0.0),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a disc that is 1 inside its radius and falls to 0 over an edge outside it.

    Parameters
    ----------
    grid : of images.
    radius_angstrom : not negative.
    edge_angstrom : width of the raised-cosine edge, from the radius outwards.
    centre_angstrom : (x, y) from the grid's centre.

    Returns
    -------
    Shape ``grid.shape``

    Raises
    ------
    ShapeError
        The grid is that of volumes.
    InputError
        A negative radius or width.
    """
    return _soft_ball(grid, 2, radius_angstrom, edge_angstrom, centre_angstrom, device).to(dtype)


def soft_sphere(
    grid: ImageGrid,
    radius_angstrom: float,
    edge_angstrom: float,
    *,
    centre_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a sphere that is 1 inside its radius and falls to 0 over an edge outside it.

    Parameters as for `soft_disc`, on a grid of volumes; ``centre_angstrom`` is (x, y, z).
    """
    return _soft_ball(grid, 3, radius_angstrom, edge_angstrom, centre_angstrom, device).to(dtype)


def _soft_ball(
    grid: ImageGrid,
    ndim: int,
    radius_angstrom: float,
    edge_angstrom: float,
    centre_angstrom: tuple[float, ...],
    device: torch.device | str,
) -> Tensor:
    if grid.ndim != ndim:
        raise ShapeError(f"The grid must have {ndim} axes; got {grid.shape}.")
    if not radius_angstrom >= 0:
        raise InputError(f"A radius must not be negative; got {radius_angstrom} Å.")
    centre = torch.tensor(centre_angstrom, dtype=torch.float64, device=device)
    distance = (grid.positions(device=device) - centre).norm(dim=-1) - radius_angstrom
    return raised_cosine_edge(distance, edge_angstrom)
