import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

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


def test_a_matching_has_as_many_pairs_as_an_independent_maximum_matching():
    true = keyed_random.uniform(2, "crowded true", np.arange(120), size=2) * 60
    picked = keyed_random.uniform(3, "crowded picks", np.arange(150), size=2) * 60
    near = np.hypot(*(picked[:, None] - true).transpose(2, 0, 1)) <= 4
    first, second = matched(picked, true, distance=4)
    assert near[first, second].all()
    assert len(set(first)) == len(first) == len(set(second))
    assert len(first) == (maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum()


@pytest.mark.parametrize("n", [10, 60, 110])
def test_any_first_picks_have_as_many_pairs_as_if_the_others_were_not_there(n):
    true = keyed_random.uniform(2, "crowded true", np.arange(120), size=2) * 60
    picked = keyed_random.uniform(3, "crowded picks", np.arange(150), size=2) * 60
    all_of_them, _ = matched(picked, true, distance=4)
    assert (all_of_them < n).sum() == agreement(picked[:n], true, distance=4).n_matched
