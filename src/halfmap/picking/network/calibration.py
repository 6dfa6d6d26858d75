"""From scores to log-odds that come true, where only some of the particles are labelled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit

CEILING_SPREAD = 1.0
"""Standard deviation of the logarithm of the labelled share about the one that the expected number of particles
implies: that number is a guess, and the scores soon know better."""

TAUGHT_SPREAD = 0.5
"""The same of the nats by which peaks are likelier in micrographs that have taught: a small network knows them hardly
better, and they are many, while those held out are few."""

SLOPE_SPREAD = 8.0
"""The same of the slope, on scores of deviation 1: separable scores do not give an infinite one."""


@dataclass(frozen=True, kw_only=True)
class CalibrationFit:
    """Log-odds of being a particle are ``slope * score + shift``.

    Parameters
    ----------
    slope, shift : of the straight line.
    labelled_share : of the particles.
    taught_shift : is added to the log-odds in micrographs that have taught.
    """

    slope: float
    shift: float
    labelled_share: float
    taught_shift: float


def calibrate(
    score: NDArray[np.float64],
    is_labelled: NDArray[np.bool_],
    labelled_share: float,
    *,
    has_taught: NDArray[np.bool_] | None = None,
) -> CalibrationFit:
    """Fit the probability of a label, that of being a particle times the share of particles that are labelled.

    Parameters
    ----------
    score : of peaks, shape (n,).
    is_labelled : whether a labelled particle lies there, shape (n,).
    labelled_share : guessed share of the particles that are labelled, 0 to 1.
    has_taught : whether the peak lies in a micrograph that has taught, shape (n,). Default: none does.

    Notes
    -----
    P(labelled | s) = c / (1 + exp(-(a s + b + d t))), t 1 where the micrograph has taught and else 0, by maximum
    likelihood under weak priors on a and log c, and a stronger one on d. That labels are a fair sample of the particles
    makes c the height of the plateau that the share of labelled peaks reaches at high scores. References: Elkan and
    Noto 2008, "Learning classifiers from only positive and unlabeled data", lemma 1; Platt 1999, for the straight line.
    """
    middle, spread = float(score.mean()), max(float(score.std()), 1e-6)
    z = (score - middle) / spread
    guess = math.log(min(max(labelled_share, 1e-3), 0.99))
    taught = np.zeros(len(score)) if has_taught is None else has_taught.astype(np.float64)

    def cost(values: NDArray[np.float64]) -> float:
        slope, shift, log_ceiling, more = values
        # log of σ(x) is -log(1 + e^-x)
        labelled = log_ceiling - np.logaddexp(0.0, -(slope * z + shift + more * taught))
        missing = np.log(np.maximum(-np.expm1(labelled), 1e-12))
        likelihood = np.where(is_labelled, labelled, missing).sum()
        prior = ((log_ceiling - guess) / CEILING_SPREAD) ** 2 + (slope / SLOPE_SPREAD) ** 2
        prior += (more / TAUGHT_SPREAD) ** 2
        return float(0.5 * prior - likelihood)

    start = np.array([2.0, -1.0, guess, 0.0])
    bounds = [(1e-3, None), (None, None), (math.log(1e-4), math.log(0.999)), (None, None)]
    slope, shift, log_ceiling, more = minimize(cost, start, method="L-BFGS-B", bounds=bounds).x
    return CalibrationFit(
        slope=float(slope / spread),
        shift=float(shift - slope * middle / spread),
        labelled_share=float(math.exp(log_ceiling)),
        taught_shift=float(more),
    )


def to_own_share(log_odds: NDArray[np.float64], share: float) -> float:
    """Return what to add to the log-odds of a micrograph's peaks, of which another share than usual are particles.

    Parameters
    ----------
    log_odds : of all peaks in the micrograph, shape (n,).
    share : of the peaks that are particles, which the log-odds suppose.

    Notes
    -----
    With r = e^{log-odds} (1 - share) / share, how many times likelier a peak is under a particle than without one, the
    share π of this micrograph maximises Σ log(π r + 1 - π), a concave function. Half a particle, and half a peak that
    is none, are the least.

    References
    ----------
    Saerens, Latinne, Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities",
    equation 2.4, whose fixed point this is.
    """
    if len(log_odds) < 2:
        return 0.0
    usual = math.log(share / (1 - share))
    most = math.log(2 * len(log_odds) - 1)

    def lack(logit: float) -> float:
        # derivative by the logit: particles that the log-odds give, less those of the share
        return float(expit(log_odds - usual + logit).sum() - len(log_odds) * expit(logit))

    if lack(-most) <= 0:
        return -most - usual
    return (most if lack(most) >= 0 else float(brentq(lack, -most, most))) - usual
