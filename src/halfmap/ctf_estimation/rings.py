"""The part of a power spectrum that is fitted: its pixels between two resolutions, flattened."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

from halfmap.ctf_estimation.periodogram import PowerSpectra

_N_BINS = 64
_FLATTENING_DEGREE = 4
N_SECTORS = 12
"""Parts of the half-circle of directions. Every other one belongs to a fold of the cross-validation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Microscope:
    """What the CTF depends on besides defocus.

    Parameters
    ----------
    voltage_kv, spherical_aberration_mm, amplitude_contrast : of the CTF.
    """

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Rings:
    """Flattened pixels of power spectra.

    Parameters
    ----------
    frequencies : float64, shape (p, 2), (x, y) in 1/Å; each pair of mates once.
    values : float64, shape (k, p): power over its smooth fall with frequency.
    offset_angstrom : float64, shape (k,): how much more under focus each spectrum's part of the image is.
    limits : lowest and highest frequency, 1/Å.
    """

    frequencies: Tensor
    values: Tensor
    offset_angstrom: Tensor
    limits: tuple[float, float]

    @property
    def s(self) -> Tensor:
        """Lengths of the frequencies, 1/Å, shape (p,)."""
        return self.frequencies.norm(dim=-1)

    @property
    def sector(self) -> Tensor:
        """Which sector of directions each pixel lies in, int64, shape (p,)."""
        angle = torch.atan2(self.frequencies[:, 1], self.frequencies[:, 0]) % torch.pi
        return (angle * (N_SECTORS / torch.pi)).long().clamp(max=N_SECTORS - 1)

    def fold(self, number: int) -> "Rings":
        """Return the pixels of the even (0) or odd (1) sectors."""
        chosen = self.sector % 2 == number
        return Rings(
            frequencies=self.frequencies[chosen],
            values=self.values[:, chosen],
            offset_angstrom=self.offset_angstrom,
            limits=self.limits,
        )

    def polynomials(self, number: int) -> Tensor:
        """Return Chebyshev polynomials of the frequency over its range, shape (p, number)."""
        return polynomials(self.s, self.limits, number)


def polynomials(s: Tensor, limits: tuple[float, float], number: int) -> Tensor:
    """Return Chebyshev polynomials T₀ … of frequencies between two limits, shape (p, number)."""
    low, high = limits
    return torch.from_numpy(chebyshev.chebvander((2 * s.numpy() - low - high) / (high - low), number - 1))


def rings_of(
    spectra: PowerSpectra,
    *,
    min_resolution_angstrom: float,
    max_resolution_angstrom: float,
    offset_angstrom: NDArray[np.float64] | None = None,
) -> Rings:
    """Cut out and flatten what is fitted.

    Parameters
    ----------
    spectra : of one image.
    min_resolution_angstrom, max_resolution_angstrom : coarsest and finest detail.
    offset_angstrom : shape (k,); None for the same defocus in all.

    Notes
    -----
    Pixels next to the axes are left out: there lies what detectors add along rows and columns. The fall is a
    polynomial of degree 4 in the logarithm of the mean power; noise then is equally strong everywhere.
    """
    grid = spectra.grid
    frequencies = _half_frequencies(grid.side, grid.pixel_size_angstrom)
    s = frequencies.norm(dim=-1)
    limits = (1 / min_resolution_angstrom, 1 / max_resolution_angstrom)
    step = 1 / (grid.side * grid.pixel_size_angstrom)
    off_axes = (frequencies.abs() > 1.5 * step).all(dim=-1)
    chosen = (s >= limits[0]) & (s <= limits[1]) & off_axes
    kept = s[chosen]
    values = torch.stack([_flattened(power[chosen], kept, limits) for power in spectra.power])
    offset = np.zeros(len(values)) if offset_angstrom is None else offset_angstrom
    return Rings(frequencies=frequencies[chosen], values=values, offset_angstrom=torch.as_tensor(offset), limits=limits)


def _half_frequencies(side: int, pixel_size_angstrom: float) -> Tensor:
    x = torch.fft.rfftfreq(side, d=pixel_size_angstrom, dtype=torch.float64)
    y = torch.fft.fftfreq(side, d=pixel_size_angstrom, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _flattened(power: Tensor, s: Tensor, limits: tuple[float, float]) -> Tensor:
    bins = ((s - limits[0]) / (limits[1] - limits[0]) * _N_BINS).long().clamp(max=_N_BINS - 1)
    counts = torch.bincount(bins, minlength=_N_BINS).double()
    means = torch.bincount(bins, weights=power, minlength=_N_BINS) / counts.clamp(min=1)
    used = (counts > 0) & (means > 0)
    middles = limits[0] + (torch.arange(_N_BINS) + 0.5) * ((limits[1] - limits[0]) / _N_BINS)
    basis = polynomials(middles[used].double(), limits, _FLATTENING_DEGREE + 1)
    weights = counts[used].sqrt()[:, None]
    fall = torch.linalg.lstsq(basis * weights, means[used].log()[:, None] * weights).solution
    return power / (polynomials(s, limits, _FLATTENING_DEGREE + 1) @ fall).exp()[:, 0]
