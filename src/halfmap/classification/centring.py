"""Keeping class averages in the middle of their boxes, and the particles' offsets with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.tensors import Images, Rotations, Shifts


@dataclass(frozen=True, kw_only=True, eq=False)
class Centring:
    """Averages that have been moved.

    Parameters
    ----------
    averages : shape (C, y, x).
    shifts_angstrom : float64, shape (C, 2)
        (x, y) by which each was moved, whole pixels: a feature at p lies at p + shift now.
    """

    averages: Images
    shifts_angstrom: Shifts


def centre_of_mass_angstrom(averages: Images, grid: ImageGrid, mask_diameter_angstrom: float) -> Tensor:
    """Return the centre of mass of the positive pixels within a circle.

    Parameters
    ----------
    averages : shape (..., y, x), particles bright.
    mask_diameter_angstrom : of the circle about the box's centre.

    Returns
    -------
    float64, shape (..., 2): (x, y) from the box's centre; 0 where nothing is positive.
    """
    grid.check(averages, "Averages")
    inside = soft_disc(grid, mask_diameter_angstrom / 2, 0.0, device=averages.device, dtype=torch.float64)
    mass = averages.to(torch.float64).clamp_min(0.0) * inside
    moment = torch.einsum("...yx,yxc->...c", mass, grid.positions(device=averages.device))
    total = mass.sum((-2, -1))[..., None]
    return torch.where(total > 0, moment / total.clamp_min(torch.finfo(torch.float64).tiny), torch.zeros_like(moment))


def centred(
    averages: Images,
    grid: ImageGrid,
    mask_diameter_angstrom: float,
    *,
    max_shift_angstrom: float,
    least_shift_angstrom: float = 0.0,
) -> Centring:
    """Move averages so that the centre of mass of their positive pixels comes to the centre.

    Parameters
    ----------
    averages : shape (C, y, x), particles bright.
    mask_diameter_angstrom : of the circle that is looked at.
    max_shift_angstrom : longest shift, usually the range of the offset search: particles find the average again.
    least_shift_angstrom : shorter shifts are left alone; see `vdam_least_shift_angstrom`.

    Raises
    ------
    InputError
        The longest shift is negative.

    Notes
    -----
    Shifts are whole pixels: nothing is interpolated, so averages lose no resolution however often they are moved,
    and what leaves at one edge enters at the other. An average within half a pixel of its centre stays.
    """
    if not max_shift_angstrom >= 0:
        raise InputError(f"The longest shift of an average must not be negative; got {max_shift_angstrom} Å.")
    wanted = -centre_of_mass_angstrom(averages, grid, mask_diameter_angstrom)
    length = wanted.norm(dim=-1, keepdim=True)
    limited = wanted * (max_shift_angstrom / length.clamp_min(1e-12)).clamp_max(1.0)
    pixels = torch.trunc(limited / grid.pixel_size_angstrom + 0.5 * torch.sign(limited))
    # rounding up both components must not go beyond the range
    beyond = pixels.norm(dim=-1, keepdim=True) * grid.pixel_size_angstrom > max_shift_angstrom * (1 + 1e-9)
    pixels = torch.where(beyond, torch.trunc(limited / grid.pixel_size_angstrom), pixels)
    pixels = torch.where(length < least_shift_angstrom, torch.zeros_like(pixels), pixels)
    shifts = pixels * grid.pixel_size_angstrom
    return Centring(averages=moved(averages, grid, shifts), shifts_angstrom=shifts)


def moved(averages: Images, grid: ImageGrid, shifts_angstrom: Shifts) -> Images:
    """Move averages by whole pixels, each by its own; what leaves at one edge enters at the other.

    Parameters
    ----------
    averages : shape (C, y, x).
    shifts_angstrom : (x, y) of each, as of `Centring`, shape (C, 2).
    """
    pixels = (shifts_angstrom / grid.pixel_size_angstrom).round().long().tolist()
    rolled = [torch.roll(one, (y, x), dims=(-2, -1)) for one, (x, y) in zip(averages, pixels, strict=True)]
    return torch.stack(rolled) if rolled else averages.clone()


def vdam_least_shift_angstrom(mask_diameter_angstrom: float, pixel_size_angstrom: float) -> float:
    """Return the shortest shift for which VDAM moves an average: 1 % of the mask's diameter, at least 2 pixels.

    Notes
    -----
    RELION's rule. What is remembered of earlier mini-batches has to move too: `Moments.shifted`.
    """
    return max(0.01 * mask_diameter_angstrom, 2 * pixel_size_angstrom)


def following_origins(origin_angstrom: Shifts, rotations: Rotations, shifts_angstrom: Shifts) -> Shifts:
    """Return origins that describe the same images by references that have been moved.

    Parameters
    ----------
    origin_angstrom : shape (n, 2), what is applied to an image to centre it.
    rotations : shape (n, 3, 3), of the particles.
    shifts_angstrom : shape (n, 2), of each particle's class, in the frame of the reference.

    Returns
    -------
    float64, shape (n, 2): origin + (A s)_xy.

    Notes
    -----
    A point v of the reference lies at (A v)_xy − origin in the image. The same point is at v + s in the moved
    reference, so (A (v + s))_xy − origin′ has to be equal to it: origin′ = origin + (A s)_xy.
    """
    turned = (rotations[..., :2, :2].to(torch.float64) @ shifts_angstrom.to(torch.float64)[..., None])[..., 0]
    return origin_angstrom.to(torch.float64) + turned
