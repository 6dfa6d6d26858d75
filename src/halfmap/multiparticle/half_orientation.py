"""Whether two half-maps show one particle in one orientation and of one hand, which compact ones hide at low shells."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import rescale
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.geometry.shapes import soft_sphere

LEAST_GAIN, LEAST_AGREEMENT = 0.1, 0.6
"By how much maps agree better, and how well, where another orientation is taken for theirs: not by chance."
_SHELLS, _COARSE_SHELLS = 12, 8
"Of the species' box, twice the particle's diameter: down to a sixth of it, and to a quarter where all turns are tried."
_TURNS, _VIEWS = OrientationGrid(2), OrientationGrid(0)
_VIEW_STEP = 6
_KEPT, _REACH_DEGREES, _FINER = 6, 16.0, 2
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class HalfOrientation:
    """How the second half-map lies to the first.

    Parameters
    ----------
    direct : mean FSC as they are.
    best : largest mean FSC over all turns of the second, and of its mirror image.
    turn_degrees : of that.
    is_mirrored : whether it is of the mirror image.
    resolution_angstrom : down to which shells were compared.
    """

    direct: float
    best: float
    turn_degrees: float
    is_mirrored: bool
    resolution_angstrom: float


def half_orientation(half1: Volume, half2: Volume, *, diameter_angstrom: float) -> HalfOrientation:
    """Compare half-maps over all turns.

    Parameters
    ----------
    half1, half2 : on the grid of a species, a box twice as wide as the particle.

    Notes
    -----
    Slices of both at a few views stand for the volumes: those of a map turned by M are its slices at A Mᵀ, those of
    its mirror image about the origin are their complex conjugates.
    """
    grid = half1.grid
    sphere = soft_sphere(grid, diameter_angstrom / 2, diameter_angstrom / 8)
    side = min(grid.side, 2 * (_SHELLS + 2))
    transforms, small = [], grid
    for half in (half1, half2):
        values, small = rescale(half.values * sphere, grid, side)
        transforms.append(slices.prepare(values.float(), small))
    band = FourierBand(small.square(small.side, small.pixel_size_angstrom))
    band = band.head(min(_SHELLS, band.max_shell))
    compared = _Compared(transforms[0], transforms[1], band)
    coarse = _TURNS.rotations(torch.arange(_TURNS.n_orientations))
    found = compared.scores(coarse, _COARSE_SHELLS)
    tried = [torch.eye(3, dtype=torch.float64)[None]]
    for hand in range(2):
        centres = coarse[found[:, hand].topk(_KEPT).indices]
        near, _ = _TURNS.finer(_FINER).neighbourhoods(centres, _REACH_DEGREES / 2)
        tried.append(_TURNS.finer(_FINER).rotations(near.flatten().unique()))
    turns = torch.cat(tried)
    scores = compared.scores(turns, _SHELLS)
    best = int(scores.argmax())
    number, hand = divmod(best, 2)
    return HalfOrientation(
        direct=float(scores[0, 0]),
        best=float(scores.max()),
        turn_degrees=float(angular_distance_degrees(turns[number], turns[0])),
        is_mirrored=hand == 1,
        resolution_angstrom=band.max_resolution_angstrom,
    )


def check_orientation(half1: Volume, half2: Volume, *, diameter_angstrom: float) -> HalfOrientation:
    """Return how half-maps lie to one another.

    Raises
    ------
    InconsistentDataError
        They agree far better where one is turned or mirrored.
    """
    found = half_orientation(half1, half2, diameter_angstrom=diameter_angstrom)
    if found.best - found.direct > LEAST_GAIN and found.best > LEAST_AGREEMENT:
        mirrored = " and mirrored" if found.is_mirrored else ""
        raise InconsistentDataError(
            f"Half-maps of a species must show it in one orientation and of one hand; got a mean FSC of "
            f"{found.direct:.2f} down to {found.resolution_angstrom:.0f} Å as they are, and {found.best:.2f} with the "
            f"second turned by {found.turn_degrees:.0f}°{mirrored}; name both halves of one refinement."
        )
    return found


class _Compared:
    """Slices of the first map at a few views, with which those of the second are compared at any turn."""

    def __init__(self, first: slices.PaddedTransform, second: slices.PaddedTransform, band: FourierBand) -> None:
        self._views = _VIEWS.rotations(torch.arange(0, _VIEWS.n_orientations, _VIEW_STEP))
        self._first = slices.extract(first, self._views, band)
        self._second, self._band = second, band

    def scores(self, turns: Tensor, last_shell: int) -> Tensor:
        """Return the mean FSC over shells with the second map at v = M v', and with its mirror image, (n, 2)."""
        band = self._band.head(min(last_shell, self._band.max_shell))
        first = self._first[:, : len(band)]
        power = band.shell_sum(first.abs().square()).sum(0)
        found = []
        for some in turns.split(_BATCH):
            views = self._views @ some.mT[:, None]
            second = slices.extract(self._second, views.flatten(0, 1), band).unflatten(0, views.shape[:2])
            norm = (band.shell_sum(second.abs().square()).sum(1) * power).sqrt().clamp(min=1e-300)
            both = [band.shell_sum((first * other).real).sum(1) / norm for other in (second.conj(), second)]
            found.append(torch.stack([one[:, 1:].mean(1) for one in both], dim=-1))
        return torch.cat(found)
