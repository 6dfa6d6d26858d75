"""How well predicted probabilities separate two kinds, and how far they can be believed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.errors import ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceiverCurve:
    """Shares found and shares wrongly taken when everything above a threshold is taken.

    Parameters
    ----------
    false_positive_rate, true_positive_rate : shape (k,), from (0, 0) to (1, 1).
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Probability that a positive scores above a negative, ties counted half; nan where either is absent."""
        if np.isnan(self.true_positive_rate + self.false_positive_rate).any():
            return math.nan
        return float(np.trapezoid(self.true_positive_rate, self.false_positive_rate))


def receiver_curve(score: ArrayLike, is_positive: ArrayLike) -> ReceiverCurve:
    """Return the receiver's curve of a score.

    Parameters
    ----------
    score : shape (n,).
    is_positive : bool, shape (n,).

    Raises
    ------
    ShapeError
        Not one score for each item.
    """
    value, positive = _checked(score, is_positive)
    _, found, taken = _counts_above(value, positive)
    rates = []
    for counts, total in ((taken - found, len(value) - positive.sum()), (found, positive.sum())):
        rates.append(np.append(0.0, counts) / total if total else np.full(len(taken) + 1, math.nan))
    return ReceiverCurve(false_positive_rate=rates[0], true_positive_rate=rates[1])


def area_under_curve(score: ArrayLike, is_positive: ArrayLike) -> float:
    """Return the area under `receiver_curve`."""
    return receiver_curve(score, is_positive).area


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionRecall:
    """Precision and recall when everything above a threshold is taken, from the highest threshold down.

    Parameters
    ----------
    threshold : the scores, each once, falling, shape (k,).
    precision, recall : shape (k,); recall is nan where there is no positive.
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def average_precision(self) -> float:
        """Precision averaged over the recall; what is never found counts as 0. 0 where nothing is scored."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))


def precision_recall(score: ArrayLike, is_positive: ArrayLike, *, n_positive: int | None = None) -> PrecisionRecall:
    """Return the curve of precision against recall of a score.

    Parameters
    ----------
    score : shape (n,).
    is_positive : bool, shape (n,).
    n_positive : positives that there are, found or not. Default: those among the scored.

    Raises
    ------
    ShapeError
        Not one score for each item.
    """
    value, positive = _checked(score, is_positive)
    threshold, found, taken = _counts_above(value, positive)
    total = int(positive.sum()) if n_positive is None else n_positive
    return PrecisionRecall(
        threshold=threshold,
        precision=found / taken,
        recall=found / total if total else np.full(len(taken), math.nan),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Predicted against observed frequencies, bin by bin.

    Parameters
    ----------
    predicted, observed : means over each bin, shape (bins,); nan for an empty one.
    count : items in each bin.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Mean of |predicted − observed| over all items (expected calibration error); nan without items."""
        occupied = self.count > 0
        if not occupied.any():
            return math.nan
        gap = np.abs(self.predicted - self.observed)[occupied]
        return float(np.average(gap, weights=self.count[occupied]))


def calibration(probability: ArrayLike, is_positive: ArrayLike, *, bins: int = 10) -> Calibration:
    """Compare predicted probabilities with what came true, in bins of equal width from 0 to 1.

    Parameters
    ----------
    probability : shape (n,), 0 to 1.
    is_positive : bool, shape (n,).

    References
    ----------
    Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", section 4.
    """
    value, positive = _checked(probability, is_positive)
    place = np.clip((value * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    total = np.where(count > 0, count, math.nan)
    return Calibration(
        predicted=np.bincount(place, weights=value, minlength=bins) / total,
        observed=np.bincount(place, weights=positive, minlength=bins) / total,
        count=count,
    )


def _counts_above(
    value: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the scores, each once and falling, and how many positives and items are at least as high."""
    order = np.argsort(-value, kind="stable")
    last = np.append(np.flatnonzero(np.diff(value[order])), len(order) - 1) if len(order) else order
    found = np.cumsum(positive[order], dtype=np.int64)[last]
    return np.asarray(value[order][last]), np.asarray(found), np.asarray(1 + last, dtype=np.int64)


def _checked(score: ArrayLike, is_positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    value, positive = np.asarray(score, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    if value.ndim != 1 or value.shape != positive.shape:
        raise ShapeError(f"There must be one score for each item; got {value.shape} and {positive.shape}.")
    return value, positive
