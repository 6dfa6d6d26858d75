import hashlib
import json

import numpy as np
import pytest

import halfmap
from halfmap.classification.ranking import fitting
from halfmap.classification.ranking.structures import HELD_OUT_SPECIMENS, TRAINING_SPECIMENS
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import states
from support.ranker_examples import invented

NAMES = (*TRAINING_SPECIMENS[:10], *HELD_OUT_SPECIMENS[:5])
SETTINGS = {"epochs": 5, "batch": 16, "learning_rate": 5e-3, "folds": 2, "workers": 1, "threads": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


def examples_file(folder, **settings):
    path = folder / "examples.safetensors"
    states.save(path, invented(**{"names": NAMES, **settings}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    (root / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return halfmap.train_class_ranker(examples=examples_file(root), **SETTINGS)


def test_job_leaves_weights_card_examples_and_page(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert {"weights.safetensors", "card.json", "examples.safetensors", "report.html", "SUCCESS"} <= names
    assert trained.main_output.name == "weights.safetensors"


def test_the_card_tells_what_was_learned_from_and_how_well(trained):
    card = json.loads((trained.folder / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256(trained.main_output.read_bytes()).hexdigest()
    assert card["training_structures"] == sorted(TRAINING_SPECIMENS[:10])
    assert card["held_out_structures"] == sorted(HELD_OUT_SPECIMENS[:5])
    assert card["held_out"]["auc_good"] > 0.9
    assert card["held_out"]["expected_calibration_error"] < 0.2


def test_held_out_figures_are_those_of_the_written_weights(trained):
    card = json.loads((trained.folder / "card.json").read_text())
    network = fitting.from_bytes(trained.main_output.read_bytes())
    examples = invented(names=NAMES)
    judged = examples.take((examples.group >= 10) & examples.is_sure)
    odds = fitting.log_odds(network, judged.images, judged.features)
    assert card["held_out"]["n_classes"] == len(judged)
    assert card["held_out"]["right_at_half"] == pytest.approx(np.mean((odds > 0) == judged.is_good), abs=1e-6)


def test_the_same_examples_and_seed_give_the_same_weights(trained, project):
    again = halfmap.train_class_ranker(examples=trained.folder / "examples.safetensors", **SETTINGS)
    assert again.main_output.read_bytes() == trained.main_output.read_bytes()


def test_the_page_shows_calibration_curves_and_galleries(trained):
    page = (trained.folder / "report.html").read_text()
    for title in ("Calibration", "Receiver", "Highest scores", "Lowest scores", "Most wrong", "Loss"):
        assert title in page


def test_structures_that_judge_are_not_learned_from(project):
    (project / "betagal.mrc").write_bytes(b"")
    with pytest.raises(InputError, match="must not be one that it is judged by"):
        halfmap.train_class_ranker(map=("betagal.mrc",), **SETTINGS)
    spoilt = examples_file(project, names=("apoferritin", *NAMES[1:]))
    with pytest.raises(InputError, match="got 'apoferritin'"):
        halfmap.train_class_ranker(examples=spoilt, **SETTINGS)


def test_examples_without_a_judge_or_of_one_kind_are_refused(project):
    with pytest.raises(InconsistentDataError, match="The classes to be judged by"):
        halfmap.train_class_ranker(examples=examples_file(project, names=NAMES[:10]), **SETTINGS)


@pytest.mark.slow
def test_the_command_makes_its_own_examples(project):
    result = halfmap.train_class_ranker(
        structures=4, held_out=2, stacks=2, particles=240, iterations=6, folds=2, epochs=3, workers=1, threads=1
    )
    card = json.loads((result.folder / "card.json").read_text())
    assert len(card["training_structures"]) == 4
    assert card["held_out"]["n_classes"] > 5
