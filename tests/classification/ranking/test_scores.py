import hashlib
import importlib.resources

import numpy as np
import pytest

from halfmap.classification.ranking import scores
from halfmap.classification.ranking.features import FEATURES
from halfmap.classification.ranking.structures import (
    HELD_OUT_SPECIMENS,
    NEVER_TRAINED,
    TRAINING_FILES,
    TRAINING_SPECIMENS,
)
from support.class_tables import MASK_ANGSTROM, a_table

SCORES = pytest.mark.parametrize("score", [scores.score, scores.fallback_score])
TABLES = {
    "all that a run tells": (),
    "no FRC": ("frc", "frc_resolution_angstrom"),
    "as RELION's": ("frc", "frc_resolution_angstrom", "rotation_accuracy_degrees", "offset_accuracy_angstrom"),
    "averages alone": (
        "frc",
        "frc_resolution_angstrom",
        "rotation_accuracy_degrees",
        "offset_accuracy_angstrom",
        "ssnr",
        "ssnr_resolution_angstrom",
        "n_particles",
        "fraction",
    ),
}


@SCORES
@pytest.mark.parametrize("missing", TABLES.values(), ids=TABLES)
def test_scores_lie_between_0_and_1_whatever_is_missing(score, missing):
    found = score(a_table().without_columns(*missing), mask_diameter_angstrom=MASK_ANGSTROM)
    assert found.shape == (6,)
    assert ((found >= 0) & (found <= 1)).all()
    assert found[5] == 0  # no particles, no contrast


@SCORES
def test_scores_do_not_depend_on_the_grey_scale(score):
    one, other = (score(a_table(scale=scale), mask_diameter_angstrom=MASK_ANGSTROM) for scale in (1.0, 20.0))
    np.testing.assert_allclose(one, other, atol=1e-3)


@SCORES
def test_particles_score_above_noise(score):
    found = score(a_table(), mask_diameter_angstrom=MASK_ANGSTROM)
    assert found[:2].min() > found[4]


@SCORES
def test_a_table_of_no_classes_has_no_scores(score):
    assert score(a_table().take(np.zeros(0, dtype=int)), mask_diameter_angstrom=MASK_ANGSTROM).shape == (0,)


def test_the_score_without_a_network_rises_and_falls_as_it_is_said_to():
    plain = np.zeros((1, len(FEATURES)), dtype=np.float32)
    before = scores.fallback_of(plain)
    for name, weight, _ in scores.FALLBACK:
        more = plain.copy()
        more[0, FEATURES.index(name)] = 0.5
        assert np.sign(scores.fallback_of(more) - before) == np.sign(weight)
    signs = [np.sign(weight) for _, weight, _ in scores.FALLBACK]
    assert signs == [1, -1, -1, 1]


def test_the_card_is_of_the_shipped_weights():
    shipped = importlib.resources.files("halfmap.classification.ranking").joinpath("weights.safetensors").read_bytes()
    assert scores.card()["sha256"] == hashlib.sha256(shipped).hexdigest()
    assert tuple(scores.card()["features"]) == FEATURES
    assert len(shipped) < 1 << 20


def test_the_shipped_weights_learned_from_the_list_and_from_no_judge():
    card = scores.card()
    assert set(card["training_structures"]) == {*TRAINING_SPECIMENS, *TRAINING_FILES}
    assert set(HELD_OUT_SPECIMENS) <= set(card["held_out_structures"])
    assert not set(card["training_structures"]) & set(card["held_out_structures"])
    assert not [name for name in card["training_structures"] for part in NEVER_TRAINED if part in name.lower()]


def test_the_shipped_weights_were_good_enough_on_held_out_structures():
    figures = scores.card()["held_out"]
    assert figures["n_classes"] >= 100
    assert figures["auc_pure"] >= 0.95
    assert figures["expected_calibration_error"] <= 0.1
