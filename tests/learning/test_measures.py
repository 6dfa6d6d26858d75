import math

import numpy as np
import pytest

from halfmap.errors import ShapeError
from halfmap.learning.measures import area_under_curve, calibration, precision_recall, receiver_curve


def random_scores(n=500, seed=3):
    generator = np.random.default_rng(seed)
    positive = generator.random(n) < 0.4
    return np.round(generator.normal(positive, 1.0), 1), positive


def test_area_is_the_chance_that_a_positive_scores_above_a_negative():
    score, positive = random_scores()
    gap = score[positive][:, None] - score[~positive]
    expected = np.mean(gap > 0) + 0.5 * np.mean(gap == 0)
    assert area_under_curve(score, positive) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("score", "area"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([1, 1, 1, 1], 0.5)])
def test_area_of_plain_cases(score, area):
    assert area_under_curve(score, [False, False, True, True]) == pytest.approx(area)


def test_area_does_not_depend_on_the_scale_of_the_score():
    score, positive = random_scores()
    assert area_under_curve(np.exp(3 * score), positive) == pytest.approx(area_under_curve(score, positive))


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_area_is_unknown_without_both_kinds(positive):
    assert math.isnan(area_under_curve(np.arange(len(positive)), positive))


def test_receiver_curve_rises_from_nothing_to_everything():
    curve = receiver_curve(*random_scores())
    for rate in (curve.false_positive_rate, curve.true_positive_rate):
        assert rate[0] == 0
        assert rate[-1] == 1
        assert (np.diff(rate) >= 0).all()


def test_probabilities_that_come_true_have_no_calibration_error():
    generator = np.random.default_rng(1)
    probability = generator.random(200_000)
    found = calibration(probability, generator.random(200_000) < probability)
    assert found.expected_error < 0.005  # the deviation of a bin's share is 0.0035
    assert found.count.sum() == 200_000


def test_calibration_error_is_the_mean_gap():
    # all said to be 0.75, of which half come true; and 1.0 that always does
    found = calibration([0.75, 0.75, 1.0, 1.0], [True, False, True, True], bins=4)
    assert found.expected_error == pytest.approx(0.25 * 0.5 * 0 + abs((0.75 * 2 + 2) / 4 - 0.75))


def test_empty_bins_have_no_value_and_no_weight():
    found = calibration([0.05, 0.95], [False, True])
    assert found.expected_error == pytest.approx(0.05)
    assert np.isnan(found.observed[1:9]).all()


def test_scores_and_kinds_of_different_length_are_refused():
    with pytest.raises(ShapeError, match="one score for each item"):
        area_under_curve([1.0], [True, False])


def test_precision_and_recall_fall_and_rise_as_more_is_taken():
    curve = precision_recall([0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, True, False], n_positive=4)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])
    assert curve.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_average_precision_is_1_for_perfect_order_and_the_share_for_none():
    positive = np.arange(10) < 4
    assert precision_recall(-np.arange(10.0), positive).average_precision == 1.0
    assert precision_recall(np.zeros(10), positive).average_precision == pytest.approx(0.4)
    assert precision_recall([], [], n_positive=3).average_precision == 0.0
