"""Which peaks of a score are picks: an automatic threshold below, one above, and a distance."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from halfmap.inference.peaks import Peaks, apart
from halfmap.picking.second_look import rival_peaks
from halfmap.picking.threshold import Threshold, automatic_threshold, middle_and_spread


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Picks among peaks.

    Parameters
    ----------
    picks : the peaks between the thresholds.
    too_strong : those above the upper one.
    threshold, upper_threshold : least and greatest height of a pick.
    """

    picks: Peaks
    too_strong: Peaks
    threshold: float
    upper_threshold: float


def choose_peaks(
    positive: Tensor,
    negative: Tensor,
    allowed: Tensor,
    *,
    distance_pixel: float,
    lobe_pixel: float,
    threshold: float,
    upper_threshold: float,
) -> Choice:
    """Choose picks among the peaks of a score.

    Parameters
    ----------
    positive, negative : float32, shape (y, x): scores of the micrograph and of its inverted copy.
    allowed : bool, shape (y, x): where a pick may lie.
    distance_pixel : least distance of two picks.
    lobe_pixel : reach of a peak among those of the other sign.
    threshold : moves the automatic threshold, in standard deviations of the background's scores.
    upper_threshold : spreads above the median pick beyond which a peak is too strong.
    """
    found, rivals = rival_peaks(positive, negative, allowed, distance_pixel=distance_pixel, lobe_pixel=lobe_pixel)
    peaks = apart(found, distance_pixel)
    automatic = automatic_threshold(negative, allowed, height=peaks.height, rivals=rivals)
    least = automatic.value + threshold * automatic.sigma
    most = _upper_threshold(peaks.height, automatic, upper_threshold)
    taken = peaks.height >= least
    return Choice(
        picks=peaks.take(taken & (peaks.height <= most)),
        too_strong=peaks.take(taken & (peaks.height > most)),
        threshold=least,
        upper_threshold=most,
    )


def _upper_threshold(height: np.ndarray, automatic: Threshold, factor: float) -> float:
    """Height above which a peak is too strong for the particles of this micrograph."""
    middle, spread = middle_and_spread(height[height >= automatic.value])
    return middle + factor * spread if math.isfinite(middle) else math.inf


def marked_specks(reason: np.ndarray, peaks: Peaks, radius_pixel: np.ndarray, value: int) -> np.ndarray:
    """Return the areas left out with discs around peaks that are too strong, where the ground was usable.

    Parameters
    ----------
    reason : uint8, shape (y, x).
    peaks : the peaks.
    radius_pixel : of each disc, shape (n,).
    value : the reason to be written.
    """
    marked = reason.copy()
    rows, columns = np.ogrid[: marked.shape[0], : marked.shape[1]]
    for (x, y), radius in zip(peaks.position, radius_pixel, strict=True):
        marked[((columns - x) ** 2 + (rows - y) ** 2 <= radius**2) & (marked == 0)] = value
    return marked
