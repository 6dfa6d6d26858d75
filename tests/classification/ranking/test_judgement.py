import math

import numpy as np
import pytest

from halfmap.classification.ranking.judgement import judge
from support.ranker_examples import invented


def test_a_score_that_is_the_truth_is_perfect():
    examples = invented()
    truth = examples.is_good.astype(float)
    found = judge(examples, truth, 1 - truth)
    assert (found.auc_good, found.fallback_auc_good) == (1.0, 0.0)
    assert found.expected_calibration_error == 0.0
    assert found.right_at_half == 1.0
    assert (found.n_classes, found.n_good) == (240, int(examples.is_good.sum()))


def test_a_score_of_chance_is_worth_nothing():
    examples = invented()
    found = judge(examples, np.random.default_rng(2).random(240), np.full(240, 0.3))
    assert 0.4 < found.auc_pure < 0.6  # 0.5 ± 2.7 deviations
    assert found.fallback_auc_pure == 0.5
    assert found.expected_calibration_error > 0.1


def test_figures_of_one_kind_are_unknown():
    examples = invented()
    good = examples.take(examples.is_good)
    found = judge(good, np.ones(len(good)), np.ones(len(good)))
    assert math.isnan(found.auc_good)
    assert found.expected_calibration_error == pytest.approx(0.0)
