import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.selection.duplicates import keep_best


def test_of_a_pair_the_better_one_stays_whatever_its_row():
    position = np.array([[0.0, 0.0], [5.0, 0.0], [100.0, 0.0]])
    group = np.array(["a", "a", "a"])
    np.testing.assert_array_equal(keep_best(group, position, np.array([1.0, 2.0, 0]), distance_angstrom=10), [0, 1, 1])
    np.testing.assert_array_equal(keep_best(group, position, np.array([2.0, 1.0, 0]), distance_angstrom=10), [1, 0, 1])


def test_ends_of_a_chain_survive_when_the_middle_goes():
    position = np.array([[0.0, 0.0], [8.0, 0.0], [16.0, 0.0]])
    keep = keep_best(np.zeros(3), position, np.array([3.0, 2.0, 1.0]), distance_angstrom=10)
    np.testing.assert_array_equal(keep, [True, False, True])


def test_particles_of_different_micrographs_are_never_duplicates():
    keep = keep_best(np.array(["a", "b"]), np.zeros((2, 2)), np.ones(2), distance_angstrom=10)
    assert keep.all()


def test_of_equals_the_first_stays_and_a_missing_score_is_worst():
    group = np.zeros(2)
    np.testing.assert_array_equal(keep_best(group, np.zeros((2, 2)), np.ones(2), distance_angstrom=1), [True, False])
    scores = np.array([np.nan, -5.0])
    np.testing.assert_array_equal(keep_best(group, np.zeros((2, 2)), scores, distance_angstrom=1), [False, True])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_survivors_are_apart_and_every_removed_one_has_a_better_neighbour(seed):
    uid = np.arange(400)
    position = keyed_random.uniform(seed, "positions", uid, size=2) * 300
    score = keyed_random.normal(seed, "scores", uid, size=1)[:, 0]
    keep = keep_best(np.zeros(400), position, score, distance_angstrom=15)
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1) + np.eye(400) * 1e9
    assert distance[np.ix_(keep, keep)].min() > 15
    better = (distance <= 15) & keep[None, :] & (score[None, :] > score[:, None])
    assert better[~keep].any(axis=1).all()
