import numpy as np
import pytest
import torch

from halfmap.classification.ranking import fitting
from halfmap.errors import InconsistentDataError
from halfmap.learning.measures import area_under_curve, calibration
from halfmap.learning.params import TrainingParams
from support.ranker_examples import invented

PARAMS = TrainingParams(epochs=5, batch=16, learning_rate=5e-3)


@pytest.fixture(scope="module")
def fitted():
    return fitting.fit_ranker(invented(), PARAMS)


def test_a_ranker_learns_what_tells_good_classes_apart(fitted):
    network, losses = fitted
    unseen = invented(seed=2)
    odds = fitting.log_odds(network, unseen.images, unseen.features)
    assert losses[-1] < losses[0]
    assert area_under_curve(odds, unseen.is_good) > 0.9


def test_the_same_seed_gives_the_same_weights(fitted):
    again = fitting.fit_ranker(invented(), PARAMS)[0]
    assert fitting.to_bytes(again) == fitting.to_bytes(fitted[0])


def test_weights_survive_their_file(fitted):
    examples = invented()
    read = fitting.from_bytes(fitting.to_bytes(fitted[0]))
    np.testing.assert_array_equal(
        fitting.log_odds(read, examples.images, examples.features),
        fitting.log_odds(fitted[0], examples.images, examples.features),
    )


@pytest.mark.parametrize("content", [b"", b"nonsense that is no file", torch.zeros(3).numpy().tobytes()])
def test_bytes_of_something_else_are_refused(content):
    with pytest.raises(InconsistentDataError, match="weights must be those of its network"):
        fitting.from_bytes(content)


def test_scores_of_nothing_are_nothing(fitted):
    empty = invented().take(np.zeros(0, dtype=int))
    assert fitting.log_odds(fitted[0], empty.images, empty.features).shape == (0,)


def test_folds_divide_structures_and_never_their_classes():
    examples = invented()
    fold = fitting.folds_of(examples, 5, seed=1)
    assert set(fold) == set(range(5))
    for group in np.unique(examples.group):
        assert len(set(fold[examples.group == group])) == 1
    assert np.bincount(fold).tolist() == [48] * 5
    with pytest.raises(InconsistentDataError, match="at least 16 structures"):
        fitting.folds_of(examples, 16, seed=1)


def test_calibration_makes_probabilities_come_true(fitted):
    generator = np.random.default_rng(4)
    true_odds = generator.normal(0.5, 2.0, 20_000)
    good = generator.random(20_000) < 1 / (1 + np.exp(-true_odds))
    slope, shift = fitting.platt((true_odds - 1.0) / 3.0, good)  # too timid, and shifted
    assert slope == pytest.approx(3.0, rel=0.05)
    assert shift == pytest.approx(1.0, abs=0.1)
    network = fitting.from_bytes(fitting.to_bytes(fitted[0]))
    examples = invented(seed=3)
    before = fitting.log_odds(network, examples.images, examples.features)
    fitting.calibrate(network, before, examples.is_good)
    after = fitting.log_odds(network, examples.images, examples.features)
    errors = [calibration(1 / (1 + np.exp(-odds)), examples.is_good).expected_error for odds in (before, after)]
    assert errors[1] <= errors[0] + 0.02
    np.testing.assert_allclose(after, float(network.slope) * before + float(network.shift), rtol=1e-5)


def test_separable_examples_give_finite_slopes():
    weights = fitting.logistic(np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([False, False, True, True]))
    assert np.isfinite(weights).all()
    assert 0 < weights[0] < 20


def test_logistic_regression_finds_the_weights_of_its_columns():
    generator = np.random.default_rng(5)
    columns = generator.normal(size=(40_000, 3))
    odds = columns @ [1.0, -2.0, 0.0] + 0.5
    found = fitting.logistic(columns, generator.random(40_000) < 1 / (1 + np.exp(-odds)))
    np.testing.assert_allclose(found, [1.0, -2.0, 0.0, 0.5], atol=0.06)  # 3 standard errors
