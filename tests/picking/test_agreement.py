import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.picking.agreement import Agreement, agreement, matched


def test_each_position_is_matched_once():
    picked = np.array([[0.0, 0.0], [1.0, 0.0], [50.0, 50.0]])
    found = agreement(picked, np.array([[0.5, 0.0]]), distance=2)
    assert found == Agreement(n_picked=3, n_true=1, n_matched=1)
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == 1
    assert found.f1 == pytest.approx(0.5)


def test_nearest_pairs_do_not_rob_others_of_their_only_partner():
    # the pick at 1.0 is nearest to both; only giving it to the position at 2.5 lets both be matched
    picked, true = np.array([[1.0, 0.0], [-0.9, 0.0]]), np.array([[0.5, 0.0], [2.5, 0.0]])
    assert agreement(picked, true, distance=1.6).n_matched == 2


def test_shifted_and_shuffled_positions_match_their_own():
    true = keyed_random.uniform(1, "true", np.arange(200), size=2) * 1000
    order = keyed_random.permutation(1, "order", 200)
    shifted = true[order] + 0.01
    picked, known = matched(shifted, true, distance=0.1)
    np.testing.assert_array_equal(order[picked], known)
    assert len(known) == 200


def test_empty_sets_agree_on_nothing():
    nothing, one = np.zeros((0, 2)), np.zeros((1, 2))
    assert agreement(nothing, one, distance=1).n_matched == 0
    assert np.isnan(agreement(nothing, one, distance=1).precision)
    assert np.isnan(agreement(nothing, nothing, distance=1).f1)
    assert agreement(one, nothing, distance=1) + agreement(one, one, distance=1) == Agreement(
        n_picked=2, n_true=1, n_matched=1
    )
