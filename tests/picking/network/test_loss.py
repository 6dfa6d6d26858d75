import numpy as np
import pytest
import scipy.stats
import torch

from halfmap import keyed_random
from halfmap.picking.network.loss import binomial_expectation, detector_loss, non_negative_risk


def odds(n, mean=-1.0, seed=1):
    return torch.from_numpy(mean + keyed_random.normal(seed, "test log-odds", 0, size=n))


def test_binomial_expectation_is_the_cross_entropy_of_a_binomial_to_a_normal_distribution():
    log_odds, share, n = odds(500), 0.2, 64
    belief = torch.sigmoid(log_odds).numpy()
    mean, variance = n * belief.mean(), n * (belief * (1 - belief)).mean() + 1e-2
    k = np.arange(n + 1)
    expected = -np.sum(scipy.stats.binom.pmf(k, n, share) * scipy.stats.norm.logpdf(k, mean, np.sqrt(variance)))
    assert float(binomial_expectation(log_odds, share, independent=n)) == pytest.approx(expected, rel=1e-9)


def test_binomial_expectation_is_least_where_the_mean_belief_is_the_share():
    shifts = torch.linspace(-4, 4, 161, dtype=torch.float64)
    base = 30 * odds(4000, mean=0.0)  # sure of each pixel, so the variance hardly changes
    losses = torch.stack([binomial_expectation(base + 30 * shift, 0.3) for shift in shifts])
    best = float(torch.sigmoid(base + 30 * shifts[losses.argmin()]).mean())
    assert best == pytest.approx(0.3, abs=0.03)  # steps of the scan


def test_non_negative_risk_is_the_risk_with_labels_on_average():
    positive, negative = odds(4000, 1.0), odds(6000, -2.0, seed=2)
    share = 0.4
    everything = torch.cat([positive, negative])
    known = torch.nn.functional.softplus(-positive).mean() + torch.nn.functional.softplus(negative).mean()
    torch.testing.assert_close(non_negative_risk(positive, everything, share), known)


def test_where_all_particles_have_a_label_the_rest_is_background():
    positive, unlabelled = odds(10), odds(90, seed=2)
    for kind in ("ge-binomial", "pu"):
        assert float(detector_loss(kind, positive, unlabelled, 0.0)) == float(
            detector_loss("pn", positive, unlabelled, 0.2)
        )


@pytest.mark.parametrize("kind", ["ge-binomial", "pn", "pu"])
def test_a_step_without_labels_is_finite(kind):
    unlabelled = odds(50).requires_grad_()
    loss = detector_loss(kind, odds(0), unlabelled, 0.1)
    loss.backward()
    assert bool(torch.isfinite(unlabelled.grad).all())
