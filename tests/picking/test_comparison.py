import numpy as np
import pytest

from halfmap.picking.comparison import Positions, compare


def positions(*rows, merit=None):
    place = np.array(rows, dtype=float).reshape(-1, 2)
    return Positions(
        position_angstrom=place, figure_of_merit=np.zeros(len(place)) if merit is None else np.array(merit)
    )


def test_micrographs_are_counted_apart_and_added():
    result = compare(
        [positions((0, 0), (100, 100)), positions((5, 5))],
        [positions((1, 0)), positions((900, 5), (5, 6))],
        distance_angstrom=2,
    )
    assert [(one.n_picked, one.n_true, one.n_matched) for one in result.counts] == [(2, 1, 1), (1, 2, 1)]
    assert result.total.f1 == pytest.approx(2 * 2 / (3 + 3))


def test_offsets_point_from_the_right_position_to_the_pick():
    result = compare([positions((1.0, 2.0))], [positions((0.5, 2.5))], distance_angstrom=1)
    np.testing.assert_allclose(result.offset_angstrom, [[0.5, -0.5]])


def test_of_two_picks_on_one_particle_the_better_one_is_right():
    result = compare([positions((0, 0), (1, 0), merit=[1.0, 5.0])], [positions((0, 0))], distance_angstrom=2)
    assert result.pairs[0][0].tolist() == [1]
    assert result.best == 0
    assert result.f1[0] == 1


def test_lists_without_a_pick_agree_on_nothing():
    result = compare([positions()], [positions((0, 0))], distance_angstrom=2)
    assert result.best is None
    assert result.total.recall == 0
    assert len(result.offset_angstrom) == 0


def test_the_curve_says_what_each_threshold_leaves():
    picked = positions((0, 0), (9, 9), (5, 5), (30, 30), merit=[3.0, 2.0, 2.0, 1.0])
    result = compare([picked], [positions((0, 0), (5, 5), (60, 0), (0, 60))], distance_angstrom=1)
    np.testing.assert_array_equal(result.curve.threshold, [3, 2, 1])
    np.testing.assert_allclose(result.f1, [2 / 5, 4 / 7, 4 / 8])  # 2 · matched / (picked + known)
    assert result.best == 1
