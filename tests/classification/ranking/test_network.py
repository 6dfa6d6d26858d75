import numpy as np
import pytest
import torch

from halfmap.classification.ranking.features import FEATURES, SIDE, describe
from halfmap.classification.ranking.network import OUTPUTS, RankerNetwork
from halfmap.learning.train import initialise
from support.class_tables import MASK_ANGSTROM, a_table


@pytest.fixture(scope="module")
def network():
    made = RankerNetwork()
    initialise(made, 1)
    return made.eval()


@pytest.fixture(scope="module")
def seen():
    found = describe(a_table(), mask_diameter_angstrom=MASK_ANGSTROM)
    return torch.from_numpy(found.images), torch.from_numpy(found.features)


def quarter_turn(images):
    """Turn about pixel n // 2: what lies at (x, y) goes to (−y, x)."""
    n = images.shape[-1]
    mate = (-torch.arange(n)) % n
    return images[:, :, mate].transpose(1, 2)


def test_log_odds_do_not_depend_on_quarter_turns_and_mirrors(network, seen):
    images, features = seen
    with torch.no_grad():
        plain = network.log_odds(images, features)
        for other in (quarter_turn(images), quarter_turn(quarter_turn(images)), images.transpose(1, 2)):
            torch.testing.assert_close(network.log_odds(other, features), plain, atol=1e-4, rtol=1e-4)
        # and a single view does depend on them, so that the mean is needed
        assert float((network(quarter_turn(images), features) - network(images, features)).abs().max()) > 1e-3


def test_unknown_numbers_give_finite_answers_of_their_own(network, seen):
    images, features = seen
    with torch.no_grad():
        unknown = network(images, torch.full_like(features, torch.nan))
        zeros = network(images, torch.zeros_like(features))
    assert torch.isfinite(unknown).all()
    assert unknown.shape == (6, len(OUTPUTS))
    assert float((unknown - zeros).abs().max()) > 1e-3


def test_calibration_is_a_straight_line(network, seen):
    images, features = seen
    with torch.no_grad():
        before = network.log_odds(images, features)
        network.slope.fill_(2.0)
        network.shift.fill_(-1.0)
        after = network.log_odds(images, features)
        network.slope.fill_(1.0)
        network.shift.fill_(0.0)
    torch.testing.assert_close(after, 2 * before - 1)


def test_making_a_network_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    RankerNetwork()
    assert torch.equal(before, torch.get_rng_state())


def test_weights_are_small(network):
    n_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert n_bytes < 1 << 20


def test_an_item_does_not_depend_on_its_neighbours(network, seen):
    images, features = seen
    with torch.no_grad():
        alone = network(images[1:2], features[1:2])
        together = network(images, features)[1:2]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert images.shape[1:] == (SIDE, SIDE)
    assert features.shape[1] == len(FEATURES) == len(np.unique(FEATURES))
