"""Scores of many orientations, defoci and positions near a known one, as matrix products.

The CTF, the filters and the shifts go on the side of the image; on the other side stand bare slices of the template,
taken once for all defoci and positions, and for all particles that begin with the same orientation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.template_matching.model import BoxModel
from halfmap.template_matching.polish import ParticleStates
from halfmap.tensors import BandValues, Rotations

SCORES_AT_ONCE = 2**22
"""Scores of one product: 16 MiB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Mean and standard deviation of scores about a particle, of a search over all orientations.

    Parameters
    ----------
    mean, deviation : float32, shape (N, window, window), (y, x): at whole pixels about the given position.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def neutral(cls, n: int, window: int) -> "Statistics":
        """Return those of white noise: mean 0, deviation 1."""
        return cls(mean=torch.zeros(n, window, window), deviation=torch.ones(n, window, window))

    @property
    def half(self) -> int:
        """Pixels to either side of the middle."""
        return self.mean.shape[-1] // 2

    def at(self, particles: Tensor, shifts_pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Return both at the pixels nearest to positions.

        Parameters
        ----------
        particles : int64, shape (...): numbers of the particles.
        shifts_pixel : shape (..., 2): (x, y) from the given position of each.
        """
        x, y = (shifts_pixel.round().to(torch.int64) + self.half).clamp(0, 2 * self.half).unbind(-1)
        return self.mean[particles, y, x], self.deviation[particles, y, x]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The best of a grid.

    Parameters
    ----------
    states : shape (S, ...) of the S best orientations, the best first; each with its best position and defocus.
    z : float64, shape (S,): scores less their mean, in standard deviations of the search over all orientations.
    n_correlations : scores computed.
    """

    states: ParticleStates
    z: Tensor
    n_correlations: int


def search(
    model: BoxModel,
    observed: BandValues,
    ctf: Tensor,
    statistics: Statistics,
    particle: int,
    *,
    slices: BandValues,
    rotations: Rotations,
    defocus_angstrom: Tensor,
    start_pixel: Tensor,
    reach_pixel: int,
    limit_pixel: int,
    n_best: int,
) -> Found:
    """Try orientations, defoci and positions of one particle.

    Parameters
    ----------
    model : of its box.
    observed : complex64, shape (K,).
    ctf : of it, at each defocus, float32, shape (D, K).
    statistics, particle : of the search, and its number there.
    slices, rotations : bare slices, complex64, shape (R, K), and their orientations.
    defocus_angstrom : offsets, float64, shape (D,).
    start_pixel : int64, shape (2,): (x, y) of the middle of the window, from the centre of the box.
    reach_pixel : positions tried to either side. Where the best lies at the rim, the window moves there.
    limit_pixel : how far from the centre of the box positions may lie.
    n_best : orientations returned, at most.
    """
    frequencies, grid = model.band.frequencies, model.band.grid
    filtered = ctf * model.gain
    power = slices.real.square() + slices.imag.square()
    norm = ((filtered * model.noise).square() @ power.T).clamp(min=1e-30).rsqrt()
    right = torch.view_as_real(slices).flatten(-2)
    middle, n_correlations = start_pixel.clone(), 0
    while True:
        offsets = _window(middle, reach_pixel, limit_pixel)
        centred = observed * _ramps(offsets, frequencies, grid.pixel_size_angstrom)
        left = torch.view_as_real(filtered[:, None] * centred).flatten(-2).flatten(0, 1)
        mean, deviation = statistics.at(torch.full((len(offsets),), particle), offsets)
        best_z, best_place = [], []
        at_once = max(1, SCORES_AT_ONCE // len(left))
        for first in range(0, len(slices), at_once):
            part = slice(first, first + at_once)
            scores = (left @ right[part].T).unflatten(0, (len(filtered), len(offsets))) * norm[:, None, part]
            z = (scores - mean[:, None]) / deviation[:, None]
            best = z.flatten(0, 1).max(dim=0)
            best_z.append(best.values)
            best_place.append(best.indices)
        z, place = torch.cat(best_z), torch.cat(best_place)
        n_correlations += len(slices) * len(left)
        shifts = offsets[place % len(offsets)]
        found = shifts[z.argmax()]
        outside = ((found - middle).abs() == reach_pixel) & (found.abs() < limit_pixel)
        if not bool(outside.any()) or reach_pixel == 0:
            break
        middle = torch.where(outside, found, middle)
    chosen = z.argsort(descending=True, stable=True)[:n_best]
    states = ParticleStates(
        rotations=rotations[chosen],
        shifts_angstrom=shifts[chosen].to(torch.float64) * grid.pixel_size_angstrom,
        defocus_angstrom=defocus_angstrom[place[chosen] // len(offsets)],
    )
    return Found(states=states, z=z[chosen].to(torch.float64), n_correlations=n_correlations)


def _window(middle: Tensor, reach: int, limit: int) -> Tensor:
    """Return whole positions about the middle, (x, y), within the limit: int64, shape (T, 2)."""
    axes = []
    for place in middle.tolist():
        axes.append(torch.arange(max(-limit, place - reach), min(limit, place + reach) + 1, device=middle.device))
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def _ramps(offsets: Tensor, frequencies: Tensor, pixel_size_angstrom: float) -> Tensor:
    """Return what moves content at each offset to the centre, complex64, shape (T, K), from factors along x and y."""
    factors = []
    for axis in (0, 1):
        values, which = offsets[:, axis].unique(return_inverse=True)
        turns = (values.to(torch.float64) * pixel_size_angstrom)[:, None] * frequencies[:, axis] * (2 * math.pi)
        factors.append(torch.polar(torch.ones((), device=turns.device), turns.to(torch.float32))[which])
    return factors[0] * factors[1]
