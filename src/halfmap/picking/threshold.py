"""One automatic threshold for a micrograph.

First the question whether there is anything but noise, from the peaks that noise makes of either sign; then, if there
is, where the peaks of particles part from the rest.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels.two_normals import fit_two_normals

FALSE_SHARE = 0.1
"""Share of false peaks that the mirrored peaks may announce among those taken."""

FALSE_PEAKS = 0.1
"""Number of noise peaks expected above the threshold where too few stand out for a share."""

UNEVEN_SIGMA = 4.5
"""Standard deviations of an even lottery beyond which the signs of peaks are no chance: once in 150,000."""

UNEVEN_SHARE = 0.25
"""Mirrored peaks for each positive one up to which the positive ones are worth having."""

FIRST_SIGMA = 2.0
"""The first guess of the threshold does not lie below this many standard deviations of the background's scores."""

LEAST_SIGMA = 1.5
"""Nor does the final one lie below this many."""

WEAK_SPREADS = 4.0
"""Peaks this many spreads below the median pick are none of its kind: broken particles, the edge of carbon."""

FEWEST = 3
"""Members below which a population of peaks cannot be described."""

ROUNDS = 200
SETTLED = 0.01
"""Expectation maximisation ends when no mean moves by this part of a hundredth of the heights' spread."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where picks begin.

    Parameters
    ----------
    value : a peak of at least this score is a pick.
    sigma : standard deviation of the background's scores, the unit by which users move the threshold.
    """

    value: float
    sigma: float


def background_sigma(negative: Tensor, usable: Tensor) -> float:
    """Return the root mean square of the negative scores: particles make no negative ones, noise as many as positive.

    Parameters
    ----------
    score : shape (y, x).
    usable : bool, shape (y, x).
    """
    heights = negative[usable & (negative > 0)].to(torch.float64)
    return float((heights**2).mean().sqrt()) if heights.numel() else 0.0


def mirrored_threshold(value: np.ndarray, *, false_share: float = FALSE_SHARE) -> float:
    """Return the lowest score above which mirrored peaks announce at most a share of false ones.

    Parameters
    ----------
    value : signed peak values; noise is as likely to make -t as t.
    false_share : the share allowed.

    Returns
    -------
    The lowest t with (2 + number ≤ -t) / (number ≥ t) ≤ share, or infinity.

    Notes
    -----
    With 2, noise alone lets a threshold through once in half a million times; with the 1 of the usual rule, once in
    five hundred.

    References
    ----------
    Barber and Candès 2015, Annals of Statistics 43, 2055: the "knockoff+" rule, which holds the expected share of
    false ones below the one allowed for any noise of symmetric distribution.
    """
    order = np.argsort(-np.abs(value), kind="stable")
    positive = np.cumsum(value[order] > 0)
    negative = np.cumsum(value[order] < 0)
    good = np.flatnonzero(2 + negative <= false_share * positive)
    return float(np.abs(value[order][good[-1]])) if len(good) else math.inf


def sign_threshold(value: np.ndarray) -> float:
    """Return the lowest score above which positive peaks outnumber mirrored ones beyond all chance.

    For micrographs in which something else makes strong negative peaks too, such as carbon that was not recognised:
    a few of them are enough for the rule of `mirrored_threshold` to find nothing.

    Parameters
    ----------
    value : signed peak values; noise is as likely to make -t as t.

    Returns
    -------
    The lowest t at which positive and negative peaks are in no even lottery (`UNEVEN_SIGMA`) and at most
    `UNEVEN_SHARE` as many are negative, or infinity.
    """
    order = np.argsort(-np.abs(value), kind="stable")
    positive = np.cumsum(value[order] > 0)
    negative = np.cumsum(value[order] < 0)
    uneven = (positive - negative) ** 2 >= UNEVEN_SIGMA**2 * (positive + negative)
    good = np.flatnonzero(uneven & (negative <= UNEVEN_SHARE * positive))
    return float(np.abs(value[order][good[-1]])) if len(good) else math.inf


def gaussian_threshold(score: Tensor, usable: Tensor, sigma: float, false_peaks: float = FALSE_PEAKS) -> float:
    """Return the score that the peaks of a Gaussian field as rough as this one exceed so many times.

    Parameters
    ----------
    score : shape (y, x).
    usable : bool, shape (y, x).
    sigma : standard deviation of the field.
    false_peaks : expected number of peaks above the threshold.

    References
    ----------
    Worsley 1996, Human Brain Mapping 4, 58: expected Euler characteristic of a two-dimensional Gaussian field,
    A λ (2π)^(-3/2) z exp(-z²/2), λ the variance of its derivative over its own.
    """
    inner = usable[1:, 1:] & usable[:-1, 1:] & usable[1:, :-1]
    steps = (score[1:, 1:] - score[:-1, 1:]) ** 2 + (score[1:, 1:] - score[1:, :-1]) ** 2
    n_inner = int(inner.sum())
    spread = float(score[usable].to(torch.float64).var()) if n_inner > 1 else 0.0
    if spread == 0:
        return math.inf
    roughness = float((steps * inner).sum(dtype=torch.float64)) / n_inner / 2 / spread
    cells = float(usable.sum()) * roughness / (2 * math.pi) ** 1.5
    z = np.arange(1.0, 12.0, 0.01)
    rare = np.flatnonzero(cells * z * np.exp(-(z**2) / 2) <= false_peaks)
    return float(z[rare[0]]) * sigma


def two_populations(height: np.ndarray, first: float) -> float:
    """Return the height at which a peak is as likely to be a particle as not.

    Two normal populations are fitted to the heights by expectation maximisation, from the split at a first guess and
    from the one of least variance within its parts (Otsu's); the likelier end counts. The threshold thereby follows
    the particles where they are many and the noise where they are few.

    Parameters
    ----------
    height : shape (n,): heights of peaks that keep their distance, noise and particles.
    first : the first guess.

    Returns
    -------
    The crossing between the two means, or the first guess where fewer than three peaks lie on a side of it.
    """
    if min((height >= first).sum(), (height < first).sum()) < FEWEST:
        return first
    fits = [fit for start in (first, _otsu(height)) if (fit := _fit_two(height, start)) is not None]
    return max(fits)[1] if fits else first


def _fit_two(height: np.ndarray, start: float) -> tuple[float, float] | None:
    """Fit two populations from a split; returns log-likelihood and crossing, or None where one dies out."""
    above = height >= start
    if min(above.sum(), (~above).sum()) < FEWEST:
        return None
    least_spread = 1e-2 * float(height.std())
    share = np.array([(~above).mean(), above.mean()])
    mean = np.array([height[~above].mean(), height[above].mean()])
    spread = np.array([height[~above].std(), height[above].std()]).clip(least_spread)
    alive = fit_two_normals(
        height.astype(np.float64),
        share,
        mean,
        spread,
        least_spread=least_spread,
        fewest=FEWEST - 1,
        rounds=ROUNDS,
        settled=SETTLED * least_spread,
    )
    if not alive:
        return None
    between = np.linspace(mean[0], mean[1], 1001)
    density = _log_density(between, share, mean, spread)
    crossed = np.flatnonzero(density[1] > density[0])
    likelihood = float(np.logaddexp(*_log_density(height, share, mean, spread)).sum())
    return (likelihood, float(between[crossed[0]])) if len(crossed) and mean[1] > mean[0] else None


def _otsu(height: np.ndarray) -> float:
    """Split of least variance within the parts."""
    rising = np.sort(height)
    n = np.arange(1, len(rising))
    low = np.cumsum(rising)[:-1]
    between = (low / n - (rising.sum() - low) / (len(rising) - n)) ** 2 * n * (len(rising) - n)
    return float(rising[int(between.argmax()) + 1])


def _log_density(height: np.ndarray, share: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Log of each population's share times its normal density, up to a constant; shape (2, n)."""
    deviation = (height - mean[:, None]) / spread[:, None]
    return np.asarray(np.log(share / spread)[:, None] - 0.5 * deviation**2)


def automatic_threshold(negative: Tensor, usable: Tensor, *, height: np.ndarray, rivals: np.ndarray) -> Threshold:
    """Choose where picks begin.

    Two tests find out whether anything stands out of the noise: the mirrored one serves micrographs with many
    particles and any noise, the Gaussian one those with a few strong particles, among which a share means nothing.
    If neither does, the threshold lies above all that noise can make.

    Parameters
    ----------
    negative : shape (y, x): score of the inverted micrograph.
    usable : bool, shape (y, x): without masked areas and the frame.
    height : heights of the peaks that keep their distance.
    rivals : signed heights of the peaks left when both signs compete.
    """
    sigma = background_sigma(negative, usable)
    first = mirrored_threshold(rivals)
    if math.isinf(first):
        first = sign_threshold(rivals)
    first = min(first, gaussian_threshold(negative, usable, sigma))
    first = max(first, FIRST_SIGMA * sigma)
    if not (height >= first).any():
        return Threshold(value=first, sigma=sigma)
    value = max(two_populations(height, first), LEAST_SIGMA * sigma)
    middle, spread = middle_and_spread(height[height >= value])
    return Threshold(value=max(value, middle - WEAK_SPREADS * spread), sigma=sigma)


def middle_and_spread(height: np.ndarray) -> tuple[float, float]:
    """Return the median of picks' scores and their robust standard deviation, at least that of a score in noise, 1."""
    if not len(height):
        return -math.inf, 1.0
    middle = float(np.median(height))
    return middle, max(1.4826 * float(np.median(np.abs(height - middle))), 1.0)
