"""Peaks of a scaled MIP above what noise gives."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erfcinv, erfcx, log_ndtr, ndtr
from torch import Tensor

from halfmap.inference.peaks import apart, find_peaks


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplatePeaks:
    """Peaks, the highest first.

    Parameters
    ----------
    pixel : int64, shape (n, 2): (x, y) in the maps.
    position : float64, shape (n, 2): the same, sub-pixel.
    height : float64, shape (n,): the scaled MIP.
    """

    pixel: Tensor
    position: Tensor
    height: Tensor

    def __len__(self) -> int:
        return len(self.height)


def cutoff_of(false_positives: float, *, n_places: int, n_correlations: int) -> float:
    """Return the score that noise exceeds a given number of times in a micrograph.

    Parameters
    ----------
    false_positives : expected number, more than 0.
    n_places : pixels of the maps.
    n_correlations : of each of them.

    Notes
    -----
    z = √2 erfc⁻¹(2 f / (places · correlations)): every correlation an independent draw of a normal distribution.

    References
    ----------
    Rickgauer, Grigorieff, Denk 2017, eLife 6, e25648; Leopard-EM 1.2.
    """
    return float(math.sqrt(2.0) * erfcinv(min(2.0, 2.0 * false_positives / (float(n_places) * n_correlations))))


def expected_false_positives(z: NDArray[np.float64], *, n_places: int, n_correlations: int) -> NDArray[np.float64]:
    """Return how many correlations of noise exceed scores: the inverse of `cutoff_of`."""
    upper = 0.5 * erfcx(np.abs(z) / math.sqrt(2.0)) * np.exp(-np.square(z) / 2)
    tail = np.where(z >= 0, upper, ndtr(-z))
    return np.asarray(tail * float(n_places) * n_correlations)


def find_template_peaks(scaled_mip: Tensor, *, cutoff: float, distance_pixel: float) -> TemplatePeaks:
    """Find maxima above a cutoff, from the highest down each further than a distance from those before.

    Parameters
    ----------
    scaled_mip : float32, shape (y, x).
    cutoff : least height.
    distance_pixel : within which a higher peak suppresses others.
    """
    found = apart(find_peaks(scaled_mip, scaled_mip > cutoff), distance_pixel)
    return TemplatePeaks(
        pixel=torch.from_numpy(found.pixel.copy()),
        position=torch.from_numpy(found.position.copy()),
        height=torch.from_numpy(found.height.copy()),
    )


def expected_counts(edges: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return how many of ``count`` correlations of noise lie between edges, the outermost bins without end."""
    below = ndtr(edges)
    below[0], below[-1] = 0.0, 1.0
    return np.asarray(np.diff(below) * count)


def density_of_highest(z: NDArray[np.float64], n_correlations: int) -> NDArray[np.float64]:
    """Return the density of the highest of that many independent correlations of noise."""
    return np.asarray(
        n_correlations * np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi) * np.exp((n_correlations - 1) * log_ndtr(z))
    )
