"""What is drawn for each particle and micrograph: views, defocus, classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_euler

_TABLE_POINTS = 4001


def views(seed: int, purpose: str, uids: ArrayLike, *, preference: float = 0.0) -> Tensor:
    """Draw rotations, uniform or with preferred viewing directions.

    Parameters
    ----------
    seed, purpose, uids : key of the draws, one rotation for each uid.
    preference : κ of the density exp(κ cos² tilt) of viewing directions; 0 for uniform rotations, positive for views
        along ±z of the reference, negative for views across z.

    Returns
    -------
    float64, shape (n, 3, 3)
    """
    rot, tilt, psi = np.moveaxis(keyed_random.uniform(seed, purpose, uids, size=3), -1, 0)
    return matrix_from_euler(360.0 * rot, np.degrees(np.arccos(_cosine(tilt, preference))), 360.0 * psi)


def _cosine(quantile: NDArray[np.float64], preference: float) -> NDArray[np.float64]:
    """Return cos tilt of which a given share of the distribution lies below."""
    if preference == 0:
        return 2.0 * quantile - 1.0
    cosine = np.linspace(-1.0, 1.0, _TABLE_POINTS)
    density = np.exp(preference * (cosine**2 - (preference > 0)))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    values: NDArray[np.float64] = np.interp(quantile, cumulative / cumulative[-1], cosine)
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Defocus:
    """Defocus of micrographs or particles, each of shape (n,)."""

    u_angstrom: NDArray[np.float64]
    v_angstrom: NDArray[np.float64]
    angle_degrees: NDArray[np.float64]


def defocus(
    seed: int, uids: ArrayLike, *, minimum_angstrom: float, maximum_angstrom: float, astigmatism_angstrom: float
) -> Defocus:
    """Draw the defocus of micrographs.

    Parameters
    ----------
    minimum_angstrom, maximum_angstrom : limits of the mean of U and V, uniform between.
    astigmatism_angstrom : greatest U − V, uniform from 0.
    """
    mean, difference, angle = np.moveaxis(keyed_random.uniform(seed, "defocus", uids, size=3), -1, 0)
    middle = minimum_angstrom + mean * (maximum_angstrom - minimum_angstrom)
    half = 0.5 * difference * astigmatism_angstrom
    return Defocus(u_angstrom=middle + half, v_angstrom=middle - half, angle_degrees=180.0 * angle)


def class_of_quantile(
    quantile: NDArray[np.float64], n_classes: int, fractions: Sequence[float] = ()
) -> NDArray[np.int64]:
    """Return class numbers, from 1, of numbers uniform in [0, 1).

    Parameters
    ----------
    fractions : share of each class, scaled to a sum of 1; empty for equal shares.

    Raises
    ------
    InputError
        There is not one share for each class.
    """
    if fractions and len(fractions) != n_classes:
        raise InputError(
            f"There must be one class fraction for each of {n_classes} specimens; got {len(fractions)}; "
            "give as many as specimens."
        )
    shares = np.array(fractions if fractions else [1.0] * n_classes, dtype=np.float64)
    edges = np.cumsum(shares / math.fsum(shares))
    chosen = np.searchsorted(edges, quantile, side="right")
    return (np.minimum(chosen, n_classes - 1) + 1).astype(np.int64)
