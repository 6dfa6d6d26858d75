"""Scores of class averages: the shipped network's, and one that needs none."""

import functools
import importlib.resources
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.classification.ranking import fitting
from halfmap.classification.ranking.features import FEATURES, describe
from halfmap.classification.ranking.network import RankerNetwork
from halfmap.data.class_averages import ClassAverages

FALLBACK: tuple[tuple[str, float, float], ...] = (
    ("log (1 + diameter over resolution)", 2.0, 1.8),
    ("scattered signal", -5.0, 0.05),
    ("edge signal", -9.0, 0.02),
    ("log deviation in the particle over that beside it", 2.0, 0.6),
)
"""Of the score without a network: feature, weight, and the value that stands for an unknown one."""

FALLBACK_CONSTANT = -4.2


def score(averages: ClassAverages, *, mask_diameter_angstrom: float) -> NDArray[np.float64]:
    """Score class averages.

    Parameters
    ----------
    averages : all classes of a run, since a class is compared with the others; ``average`` is needed, FRC, accuracies,
        SSNR and counts are used where they are there.
    mask_diameter_angstrom : of the classification's circular mask.

    Returns
    -------
    float64, shape (n,), 0 (rubbish) to 1
        The probability that most of a class's particles are whole, centred ones of one structure and that its average
        is a view of it. 0 for a class without particles.

    Raises
    ------
    InputError
        The diameter is not positive.
    """
    seen = describe(averages, mask_diameter_angstrom=mask_diameter_angstrom)
    odds = fitting.log_odds(network(), seen.images, seen.features)
    return np.where(seen.is_empty, 0.0, probability(odds))


def fallback_score(averages: ClassAverages, *, mask_diameter_angstrom: float) -> NDArray[np.float64]:
    """Score class averages by four numbers alone: parameters, range and meaning as of `score`, less sure.

    Notes
    -----
    The logistic function of a weighted sum: it rises with diameter over resolution and with the contrast inside the
    particle against that beside it, and falls with scattered signal and with signal at the rim.
    """
    seen = describe(averages, mask_diameter_angstrom=mask_diameter_angstrom)
    return np.where(seen.is_empty, 0.0, fallback_of(seen.features))


def fallback_of(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the score without a network of features (n, number of `FEATURES`)."""
    odds = np.full(len(features), FALLBACK_CONSTANT)
    for column, (_, weight, _) in zip(fallback_columns(features).T, FALLBACK, strict=True):
        odds += weight * column
    return probability(odds)


def fallback_columns(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the four features of the score without a network, unknown ones replaced, shape (n, 4)."""
    columns = [features[:, FEATURES.index(name)].astype(np.float64) for name, _, _ in FALLBACK]
    known = [
        np.where(np.isfinite(column), column, instead)
        for column, (_, _, instead) in zip(columns, FALLBACK, strict=True)
    ]
    return np.stack(known, axis=1)


@functools.cache
def network() -> RankerNetwork:
    """Return the shipped network."""
    return fitting.from_bytes(_shipped("weights.safetensors"))


def card() -> dict[str, Any]:
    """Return what is known of the shipped network: training and held-out structures, figures, command, versions."""
    content: dict[str, Any] = json.loads(_shipped("card.json"))
    return content


def _shipped(name: str) -> bytes:
    return importlib.resources.files("halfmap.classification.ranking").joinpath(name).read_bytes()


def probability(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of log odds; 0 where they are nan."""
    clipped = np.clip(np.nan_to_num(odds, nan=-math.inf), -50.0, 50.0)
    result: NDArray[np.float64] = 1 / (1 + np.exp(-clipped))
    return result
