"""From scores to log-odds that come true, where only some of the particles are labelled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

CEILING_SPREAD = 1.0
"""Standard deviation of the logarithm of the labelled share about the one that the expected number of particles
implies: that number is a guess, and the scores soon know better."""

SLOPE_SPREAD = 8.0
"""The same of the slope, on scores of deviation 1: separable scores do not give an infinite one."""


@dataclass(frozen=True, kw_only=True)
class CalibrationFit:
    """Log-odds of being a particle are ``slope * score + shift``.

    Parameters
    ----------
    slope, shift : of the straight line.
    labelled_share : of the particles.
    """

    slope: float
    shift: float
    labelled_share: float


def calibrate(score: NDArray[np.float64], is_labelled: NDArray[np.bool_], labelled_share: float) -> CalibrationFit:
    """Fit the probability of a label, that of being a particle times the share of particles that are labelled.

    Parameters
    ----------
    score : of peaks, shape (n,).
    is_labelled : whether a labelled particle lies there, shape (n,).
    labelled_share : guessed share of the particles that are labelled, 0 to 1.

    Notes
    -----
    P(labelled | s) = c / (1 + exp(-(a s + b))), by maximum likelihood under weak priors on a and log c. That labels are
    a fair sample of the particles makes c the height of the plateau that the share of labelled peaks reaches at high
    scores. References: Elkan and Noto 2008, "Learning classifiers from only positive and unlabeled data", lemma 1;
    Platt 1999, for the straight line.
    """
    middle, spread = float(score.mean()), max(float(score.std()), 1e-6)
    z = (score - middle) / spread
    guess = math.log(min(max(labelled_share, 1e-3), 0.99))

    def cost(values: NDArray[np.float64]) -> float:
        slope, shift, log_ceiling = values
        # log of σ(x) is -log(1 + e^-x)
        labelled = log_ceiling - np.logaddexp(0.0, -(slope * z + shift))
        missing = np.log(np.maximum(-np.expm1(labelled), 1e-12))
        likelihood = np.where(is_labelled, labelled, missing).sum()
        prior = ((log_ceiling - guess) / CEILING_SPREAD) ** 2 + (slope / SLOPE_SPREAD) ** 2
        return float(0.5 * prior - likelihood)

    start = np.array([2.0, -1.0, guess])
    bounds = [(1e-3, None), (None, None), (math.log(1e-4), math.log(0.999))]
    slope, shift, log_ceiling = minimize(cost, start, method="L-BFGS-B", bounds=bounds).x
    return CalibrationFit(
        slope=float(slope / spread),
        shift=float(shift - slope * middle / spread),
        labelled_share=float(math.exp(log_ceiling)),
    )
