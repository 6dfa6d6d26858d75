import numpy as np
import pytest
import torch
from torch import nn

from halfmap import keyed_random
from halfmap.errors import ComputeError, InputError
from halfmap.learning.params import TrainingParams
from halfmap.learning.train import fit, initialise


def a_network():
    return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))


def circles(n=400):
    """Return points and whether they lie within a circle."""
    points = keyed_random.normal(1, "points", np.arange(n), size=3)
    return torch.from_numpy(points).float(), torch.from_numpy((points[:, :2] ** 2).sum(axis=1) < 1.4).float()


def trained(**settings):
    network = a_network()
    points, within = circles()
    params = TrainingParams(**{"epochs": 60, "learning_rate": 1e-2, **settings})
    initialise(network, params.seed)

    def loss(rows, epoch):
        return nn.functional.binary_cross_entropy_with_logits(network(points[rows])[:, 0], within[rows])

    return network, fit(network, len(points), loss, params)


def test_a_network_learns():
    network, losses = trained()
    points, within = circles()
    right = ((network(points)[:, 0] > 0) == within.bool()).float().mean()
    assert losses[-1] < 0.25 * losses[0]
    assert right > 0.95


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    (one, losses), (other, again), (third, _) = trained(epochs=3), trained(epochs=3), trained(epochs=3, seed=2)
    np.testing.assert_array_equal(losses, again)
    for name, values in one.state_dict().items():
        assert torch.equal(values, other.state_dict()[name])
    assert not torch.equal(one[0].weight, third[0].weight)


def test_global_generators_are_not_touched():
    network = a_network()
    before = torch.get_rng_state()
    initialise(network, 1)
    fit(network, 8, lambda rows, epoch: network(torch.ones(len(rows), 3)).square().mean(), TrainingParams(epochs=2))
    assert torch.equal(before, torch.get_rng_state())


def test_first_weights_have_the_variance_that_keeps_signals():
    layer = nn.Linear(200, 300)
    initialise(layer, 1)
    # 60,000 draws: the variance errs by 0.6 %
    assert float(layer.weight.var()) == pytest.approx(2 / 200, rel=0.02)
    assert float(layer.bias.abs().max()) == 0.0


def test_every_item_is_seen_once_in_each_epoch():
    seen = []
    layer = nn.Linear(1, 1)

    def loss(rows, epoch):
        seen.append((epoch, rows))
        return layer(torch.ones(len(rows), 1)).square().mean()

    fit(layer, 10, loss, TrainingParams(epochs=2, batch=4))
    for epoch in range(2):
        rows = np.concatenate([rows for number, rows in seen if number == epoch])
        assert sorted(rows) == list(range(10))
        assert sorted(len(rows) for number, rows in seen if number == epoch) == [3, 3, 4]


def test_a_loss_that_is_not_finite_is_an_error():
    layer = nn.Linear(1, 1)
    with pytest.raises(ComputeError, match="must be finite"):
        fit(layer, 1, lambda rows, epoch: layer(torch.ones(1, 1)).sum() * torch.inf, TrainingParams(epochs=1))


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(InputError, match="at least one item"):
        fit(nn.Linear(1, 1), 0, lambda rows, epoch: torch.zeros(()), TrainingParams())


def test_a_fit_that_goes_on_from_a_state_ends_at_the_same_bits():
    points, within = circles()
    params = TrainingParams(epochs=5)

    def fitted(**more):
        network = a_network()
        initialise(network, params.seed)

        def loss(rows, epoch):
            return nn.functional.binary_cross_entropy_with_logits(network(points[rows])[:, 0], within[rows])

        return network, fit(network, len(points), loss, params, **more)

    states = []
    whole, losses = fitted(after_epoch=states.append)
    continued, again = fitted(start=states[2])
    np.testing.assert_array_equal(losses, again)
    np.testing.assert_array_equal(states[2].losses, losses[:3])
    for name, values in whole.state_dict().items():
        assert torch.equal(values, continued.state_dict()[name])
