"""How good a ranker is on examples it has not learned from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.classification.ranking.labels import Examples
from halfmap.learning.measures import area_under_curve, calibration


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Figures of a ranker.

    Parameters
    ----------
    n_classes, n_pure, n_good : classes judged, those of them that are pure, and good.
    auc_pure, auc_good : areas under the receiver's curve for purity above one half, and for good classes; nan where
        all are of one kind.
    expected_calibration_error : of the score as the probability of a good class, in ten bins.
    right_at_half : share of classes that the threshold 0.5 puts on the right side.
    fallback_auc_pure, fallback_auc_good : areas of the score without a network.
    """

    n_classes: int
    n_pure: int
    n_good: int
    auc_pure: float
    auc_good: float
    expected_calibration_error: float
    right_at_half: float
    fallback_auc_pure: float
    fallback_auc_good: float


def judge(examples: Examples, score: NDArray[np.float64], fallback: NDArray[np.float64]) -> Judgement:
    """Judge scores, shape (n,), and those without a network, against what the examples are."""
    pure, good = examples.is_pure, examples.is_good
    return Judgement(
        n_classes=len(examples),
        n_pure=int(pure.sum()),
        n_good=int(good.sum()),
        auc_pure=area_under_curve(score, pure),
        auc_good=area_under_curve(score, good),
        expected_calibration_error=calibration(score, good).expected_error,
        right_at_half=float(np.mean((score > 0.5) == good)) if len(good) else float("nan"),
        fallback_auc_pure=area_under_curve(fallback, pure),
        fallback_auc_good=area_under_curve(fallback, good),
    )
