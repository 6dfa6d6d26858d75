import numpy as np

from halfmap import keyed_random
from halfmap.kernels.greedy_suppression import keep_apart


def test_the_first_of_a_crowd_stays_and_the_rest_goes():
    position = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 2.0]])
    np.testing.assert_array_equal(keep_apart(position, np.ones(4), 2.0, 2.0), [True, False, True, False])


def test_other_signs_have_a_reach_of_their_own():
    position, sign = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]]), np.array([1.0, -1.0, 1.0])
    np.testing.assert_array_equal(keep_apart(position, sign, 1.5, 5.0), [True, False, True])


def test_chosen_points_are_apart_and_every_other_one_is_near_a_better_one():
    position = keyed_random.uniform(1, "points", np.arange(500), size=2) * 100
    keep = keep_apart(position, np.ones(500), 6.0, 6.0)
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance[np.ix_(keep, keep)].min() > 6
    for i in np.flatnonzero(~keep):
        assert distance[i, :i][keep[:i]].min() <= 6


def test_no_points_are_no_trouble():
    assert len(keep_apart(np.zeros((0, 2)), np.zeros(0), 1.0, 1.0)) == 0
