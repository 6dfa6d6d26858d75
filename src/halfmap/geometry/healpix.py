"""Grids of orientations: HEALPix directions (nested) times in-plane angles.

An orientation has one number that outlives every restriction to an asymmetric unit or a
neighbourhood: direction × angles per direction + angle.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from astropy_healpix.healpy import pix2ang
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_euler, turn_between_directions, viewing_direction
from halfmap.geometry.symmetry import in_asymmetric_unit

_MAX_ORDER = 12
_PIXEL_RADIUS_DEGREES = 62.0  # at order 0; halved at each order, it exceeds every pixel's centre-to-corner angle


@dataclass(frozen=True)
class OrientationGrid:
    """Orientations spread evenly over SO(3).

    Parameters
    ----------
    order : HEALPix order h, 0 to 12: 12 · 4^h directions and 6 · 2^h in-plane angles.

    Raises
    ------
    InputError
        An order outside its range.

    Notes
    -----
    Directions are the centres of the nested HEALPix pixels; the longitude is rot, the colatitude tilt.
    In-plane angle j turns the image by (j + ½) · step − 30°, so that a child's pixel and interval of
    angles lie inside its parent's. It is counted from a frame that goes from the base pixel's centre to
    the direction along the great circle: Euler's psi alone would send the children of an orientation
    near a pole up to 45° away. The nominal spacing is 60° / 2^h: 15° at h = 2, 7.5° at h = 3.

    References
    ----------
    Górski et al. 2005, "HEALPix: a framework for high-resolution discretization", ApJ 622, 759-771.
    """

    order: int

    def __post_init__(self) -> None:
        if not 0 <= self.order <= _MAX_ORDER:
            raise InputError(f"A HEALPix order must be 0 to {_MAX_ORDER}; got {self.order}.")

    @property
    def n_directions(self) -> int:
        """Number of directions over the whole sphere."""
        return 12 * 4**self.order

    @property
    def n_angles(self) -> int:
        """Number of in-plane angles of each direction."""
        return 6 * 2**self.order

    @property
    def n_orientations(self) -> int:
        """Number of orientations over all of SO(3)."""
        return self.n_directions * self.n_angles

    @property
    def spacing_degrees(self) -> float:
        """Step of the in-plane angles, and the nominal distance of neighbouring directions."""
        return 60.0 / 2**self.order

    def finer(self, levels: int = 1) -> "OrientationGrid":
        """Return the grid whose orientations are this one's children."""
        return OrientationGrid(self.order + levels)

    def directions(self, pixels: Tensor | None = None) -> Tensor:
        """Return unit vectors of directions.

        Parameters
        ----------
        pixels : int64, any shape
            Numbers of directions; all if omitted.

        Returns
        -------
        float64, shape (..., 3)
        """
        return _directions(self.order, torch.arange(self.n_directions) if pixels is None else pixels)

    def direction_numbers(self, symmetry: str = "C1") -> Tensor:
        """Return the numbers of the directions in a group's asymmetric unit, int64, ascending."""
        return torch.nonzero(in_asymmetric_unit(self.directions(), symmetry)).flatten()

    def numbers(self, symmetry: str = "C1") -> Tensor:
        """Return the numbers of the orientations in a group's asymmetric unit, int64, ascending."""
        angles = torch.arange(self.n_angles)
        return (self.direction_numbers(symmetry)[:, None] * self.n_angles + angles).flatten()

    def rotations(self, numbers: Tensor) -> Tensor:
        """Return the rotations of orientations.

        Parameters
        ----------
        numbers : int64, any shape.

        Returns
        -------
        float64, shape (..., 3, 3)

        Raises
        ------
        InputError
            A number that the grid does not have.
        """
        self._check(numbers)
        psi = (numbers % self.n_angles + 0.5) * self.spacing_degrees - 30.0
        return matrix_from_euler(0.0, 0.0, psi) @ self._frames(numbers // self.n_angles)

    def children(self, numbers: Tensor, levels: int = 1) -> Tensor:
        """Return the orientations of the finer grid that share a parent's cell.

        Parameters
        ----------
        numbers : int64, any shape.
        levels : how many orders finer, not negative.

        Returns
        -------
        int64, shape (..., 8^levels)
            Numbers in ``self.finer(levels)``: 4^levels directions by 2^levels angles. Every orientation
            of the finer grid has exactly one parent.
        """
        self._check(numbers)
        fine = self.finer(levels)
        directions = (numbers // self.n_angles)[..., None] * 4**levels + torch.arange(4**levels)
        angles = (numbers % self.n_angles)[..., None] * 2**levels + torch.arange(2**levels)
        return (directions[..., :, None] * fine.n_angles + angles[..., None, :]).flatten(-2)

    def neighbourhoods(self, centres: Tensor, max_angle_degrees: float) -> tuple[Tensor, Tensor]:
        """Return all orientations within an angle of each of some rotations.

        Parameters
        ----------
        centres : shape (N, 3, 3).
        max_angle_degrees : of the whole rotation, in-plane turn included, at most 180.

        Returns
        -------
        numbers : int64, shape (total,)
            Numbers of the neighbours, centre after centre, ascending within each.
        bounds : int64, shape (N + 1,)
            Neighbours of centre i are ``numbers[bounds[i]:bounds[i + 1]]``.

        Notes
        -----
        For one direction the trace of the relative rotation is a cosine of psi, so the angles within
        reach are one interval, found without a search.
        """
        centres = centres.double()
        owner, pixels = self._pixels_near(viewing_direction(centres), max_angle_degrees)
        relative = self._frames(pixels) @ centres[owner].mT
        cosine_part = relative[:, 0, 0] + relative[:, 1, 1]
        sine_part = relative[:, 1, 0] - relative[:, 0, 1]
        amplitude = torch.hypot(cosine_part, sine_part).clamp_min(1e-12)
        needed = 1.0 + 2.0 * math.cos(math.radians(max_angle_degrees)) - relative[:, 2, 2]
        reach = torch.rad2deg(torch.acos((needed / amplitude).clamp(-1.0, 1.0)))
        best = torch.rad2deg(torch.atan2(sine_part, cosine_part))
        step = self.spacing_degrees
        first = torch.ceil((best - reach + 30.0) / step - 0.5).to(torch.int64)
        last = torch.floor((best + reach + 30.0) / step - 0.5).to(torch.int64)
        last = torch.minimum(last, first + self.n_angles - 1)
        counts = torch.where(needed > amplitude, torch.zeros_like(first), (last - first + 1).clamp_min(0))
        pairs = torch.repeat_interleave(torch.arange(len(pixels)), counts)
        place = torch.arange(len(pairs)) - (counts.cumsum(0) - counts)[pairs]
        angles = torch.remainder(first[pairs] + place, self.n_angles)
        keys, _ = (owner[pairs] * self.n_orientations + pixels[pairs] * self.n_angles + angles).sort()
        bounds = torch.searchsorted(keys, torch.arange(len(centres) + 1) * self.n_orientations)
        return keys % self.n_orientations, bounds

    def _pixels_near(self, directions: Tensor, max_angle_degrees: float) -> tuple[Tensor, Tensor]:
        """Descend from the twelve base pixels; return pairs (index of the direction, pixel)."""
        owner = torch.arange(len(directions)).repeat_interleave(12)
        pixels = torch.arange(12).repeat(len(directions))
        for level in range(self.order + 1):
            if level:
                owner = owner.repeat_interleave(4)
                pixels = (pixels[:, None] * 4 + torch.arange(4)).flatten()
            margin = 1e-4 if level == self.order else _PIXEL_RADIUS_DEGREES / 2**level
            limit = math.cos(math.radians(min(max_angle_degrees + margin, 180.0)))
            near = (_directions(level, pixels) * directions[owner]).sum(-1) >= limit - 1e-12
            owner, pixels = owner[near], pixels[near]
        return owner, pixels

    def _frames(self, pixels: Tensor) -> Tensor:
        """Return rotations that look along directions, smooth within each base pixel; (..., 3, 3)."""
        direction = _directions(self.order, pixels)
        base = _directions(0, pixels // 4**self.order)
        turn = turn_between_directions(direction, base)
        longitude, colatitude = torch.atan2(base[..., 1], base[..., 0]), torch.acos(base[..., 2])
        return matrix_from_euler(torch.rad2deg(longitude), torch.rad2deg(colatitude), 0.0) @ turn

    def _check(self, numbers: Tensor) -> None:
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.n_orientations:
            raise InputError(
                f"Numbers of orientations must be 0 to {self.n_orientations - 1} at order {self.order}; "
                f"got {int(numbers.min())} to {int(numbers.max())}."
            )


def _directions(order: int, pixels: Tensor) -> Tensor:
    longitude, latitude = pix2ang(2**order, pixels.numpy(), nest=True, lonlat=True)
    rot, tilt = np.asarray(longitude, dtype=np.float64), 90.0 - np.asarray(latitude, dtype=np.float64)
    return viewing_direction(matrix_from_euler(rot, tilt, 0.0))
