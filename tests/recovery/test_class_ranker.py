"""The shipped ranker on class averages of structures that it has not learned from."""

import numpy as np
import pytest

from halfmap.classification.ranking.fitting import log_odds
from halfmap.classification.ranking.judgement import judge
from halfmap.classification.ranking.labels import Examples
from halfmap.classification.ranking.scores import fallback_of, network, probability
from halfmap.jobs.class_ranker_stacks import Structure, examples_of, groups_of


def judged(examples):
    examples = examples.take(examples.is_sure)
    odds = log_odds(network(), examples.images, examples.features)
    return judge(examples, probability(odds), fallback_of(examples.features))


@pytest.mark.slow
def test_good_classes_of_held_out_structures_are_told_from_others():
    held_out = [Structure(name=name) for name in ("compact-d2-130-102", "ferritin-like-o-130")]
    groups = groups_of(held_out, n_stacks=3, most_particles=500, most_iterations=8, seed=77)
    found = judged(Examples.joined([examples_of(group) for group in groups]))
    assert found.n_classes > 15
    assert 0 < found.n_pure < found.n_classes
    # the area's standard error is about 0.03 for so few classes
    assert found.auc_pure > 0.88
    assert found.right_at_half > 0.75
    assert np.isfinite(found.expected_calibration_error)
