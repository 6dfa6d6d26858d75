import numpy as np
import torch

from halfmap import keyed_random
from halfmap.learning.train import initialise
from halfmap.picking.network.model import REACH, TILE, DetectorNetwork, score
from halfmap.picking.network.preparation import DIAMETER_PIXEL


def a_network(seed=1):
    network = DetectorNetwork()
    initialise(network, seed)
    return network.eval()


def noise(*shape):
    return torch.from_numpy(keyed_random.normal(3, "test picture", 0, size=shape)).float()


def test_the_network_sees_two_diameters():
    assert 2 * REACH + 1 == 2 * DIAMETER_PIXEL + 1
    assert a_network()(torch.zeros(1, 2 * REACH + 1, 2 * REACH + 1)).shape == (1, 1, 1)


def test_weights_are_few():
    assert sum(value.numel() for value in a_network().state_dict().values()) < 200_000


def test_dense_prediction_equals_prediction_of_patches():
    network, picture = a_network(), noise(90, 75)
    dense = score(network, picture)
    for y, x in ((REACH, REACH), (44, 37), (90 - REACH - 1, 75 - REACH - 1)):
        patch = picture[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1]
        with torch.no_grad():
            # float32 sums in another order
            torch.testing.assert_close(network(patch[None])[0, 0, 0], dense[y, x], atol=1e-4, rtol=1e-4)


def test_tiles_leave_no_seams():
    network, picture = a_network(), noise(TILE + 40, 70)
    with torch.no_grad():
        at_once = network(torch.nn.functional.pad(picture, (REACH,) * 4)[None])[0]
    torch.testing.assert_close(score(network, picture), at_once, atol=1e-4, rtol=1e-4)


def test_the_score_of_a_shifted_picture_is_the_shifted_score():
    network, picture = a_network(), noise(100, 100)
    first, second = score(network, picture), score(network, picture.roll((3, 5), dims=(0, 1)))
    inner = slice(REACH + 6, -REACH - 6)
    torch.testing.assert_close(
        second.roll((-3, -5), dims=(0, 1))[inner, inner], first[inner, inner], atol=1e-4, rtol=1e-4
    )


def test_what_lies_out_of_reach_does_not_matter():
    network, picture = a_network(), noise(100, 100)
    changed = picture.clone()
    changed[:, 50 + REACH + 1 :] = 7.0
    before, after = score(network, picture), score(network, changed)
    np.testing.assert_array_equal(before[:, :51].numpy(), after[:, :51].numpy())
