"""What a detector is taught with: some positions that hold particles, and the rest, which may or may not."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from halfmap.picking.network.params import LossKind

INDEPENDENT = 256
"""Number of unlabelled pixels that a step counts as independent, as many as in a step of Bepler et al. Neighbouring
pixels are not, so their true number does not say how well the share of particles among them is known."""


def detector_loss(kind: LossKind, positive: Tensor, unlabelled: Tensor, expected_share: float) -> Tensor:
    """Return the loss of a step.

    Parameters
    ----------
    kind : of loss.
    positive : log-odds of pixels that are labelled, shape (n,).
    unlabelled : log-odds of pixels that are not, shape (m,).
    expected_share : of the unlabelled pixels that belong to particles; where none is left, they all count as
        background.
    """
    on_positive = softplus(-positive).mean() if len(positive) else positive.sum()
    if kind == "pn" or expected_share <= 0:
        return on_positive + softplus(unlabelled).mean()
    if kind == "ge-binomial":
        return on_positive + binomial_expectation(unlabelled, expected_share)
    return non_negative_risk(positive, unlabelled, expected_share)


def binomial_expectation(log_odds: Tensor, expected_share: float, independent: int = INDEPENDENT) -> Tensor:
    """Return the cross entropy from a binomial number of particles to the number that a detector believes in.

    Parameters
    ----------
    log_odds : shape (m,).
    expected_share : probability of one pixel.
    independent : pixels that count as independent.

    Notes
    -----
    With μ and v the mean and variance of the number of particles among n independent pixels, as the detector has it,
    the cross entropy of Binomial(n, π) to the normal distribution is ½ log 2πv + ((nπ - μ)² + nπ(1 - π)) / 2v.

    References
    ----------
    Bepler et al. 2019, Nature Methods 16, 1153, "GE-binomial".
    """
    belief = torch.sigmoid(log_odds)
    mean = independent * belief.mean()
    variance = independent * (belief * (1 - belief)).mean() + 1e-2
    expected = independent * expected_share
    missed = (expected - mean) ** 2 + expected * (1 - expected_share)
    return 0.5 * torch.log(2 * math.pi * variance) + missed / (2 * variance)


def non_negative_risk(positive: Tensor, unlabelled: Tensor, expected_share: float) -> Tensor:
    """Return the risk that the unlabelled would have with labels, as far as it can be known; never negative.

    References
    ----------
    Kiryo, Niu, du Plessis, Sugiyama 2017, "Positive-unlabeled learning with non-negative risk estimator", equation 6,
    here with both parts counted alike, since particles take a hundredth of the area.
    """
    if not len(positive):
        return softplus(unlabelled).mean()
    background = softplus(unlabelled).mean() - expected_share * softplus(positive).mean()
    return softplus(-positive).mean() + background.clamp_min(0.0) / (1 - expected_share)
