import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from halfmap.errors import InconsistentDataError, InputError
from halfmap.picking.network import card
from halfmap.picking.network.card import Detector, DetectorCard
from halfmap.picking.network.model import DetectorNetwork, score
from halfmap.picking.network.specimens import CALIBRATING_SPECIMENS, TRAINING_SPECIMENS, check_training_specimen

A_CARD = DetectorCard(
    diameter_angstrom=130.0,
    source="a test",
    n_micrographs=1,
    n_labels=1,
    n_held_out_labels=1,
    channels=16,
    expected_per_micrograph=1.0,
    loss="pn",
    epochs=1,
    seed=1,
    best_epoch=1,
    average_precision=0.5,
    precision_at_even_odds=None,
    recall_at_even_odds=0.5,
    labelled_share=0.5,
)


def written(**changes):
    return card.to_bytes(Detector(network=DetectorNetwork(), card=dataclasses.replace(A_CARD, **changes)))


def with_metadata(content, metadata):
    return save(load(content), metadata=metadata)


def test_a_detector_comes_back_as_it_was():
    network = DetectorNetwork()
    again = card.from_bytes(card.to_bytes(Detector(network=network, card=A_CARD)), "model")
    assert again.card == A_CARD
    picture = torch.linspace(-1, 1, 50 * 60).reshape(50, 60)
    assert torch.equal(score(again.network, picture), score(network, picture))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\x80\x04cos\nsystem\n.", "without the header"),
        (struct.pack("<Q", 1 << 60) + b"{}", "without the header"),
        (struct.pack("<Q", 6) + b"{nonsense}", "no JSON"),
        (written()[:-100], "weights that are not"),
        (with_metadata(written(), {}), "without the card"),
        (with_metadata(written(), {"halfmap_detector": "[]"}), "cannot be read"),
        (written(version=1), "version 1"),
        (written(diameter_pixel=24), "prepared in another way"),
        (with_metadata(written(), {"halfmap_detector": json.dumps({"version": 2, "spam": 2})}), "other fields"),
        (save({"first.weight": torch.zeros(3)}, metadata={"halfmap_detector": json.dumps(
            dataclasses.asdict(A_CARD))}), "weights that are not"),
    ],
)  # fmt: skip
def test_foreign_and_broken_files_are_refused(content, said):
    with pytest.raises(InconsistentDataError, match=said):
        card.from_bytes(content, "model.safetensors")


def test_weights_that_are_not_finite_are_refused():
    network = DetectorNetwork()
    network.slope.fill_(np.nan)
    with pytest.raises(InconsistentDataError, match="not finite"):
        card.from_bytes(card.to_bytes(Detector(network=network, card=A_CARD)), "model")


def test_a_size_far_from_the_learned_one_is_a_concern():
    assert card.concern(A_CARD, 140.0) is None
    assert "130" in str(card.concern(A_CARD, 200.0))
    assert card.concern(dataclasses.replace(A_CARD, diameter_angstrom=None), 200.0) is None


def test_the_shipped_detector_has_not_seen_what_it_is_judged_by():
    told = card.general().card
    assert set(told.specimens) == set(TRAINING_SPECIMENS)
    for name in (*told.specimens, *CALIBRATING_SPECIMENS):
        check_training_specimen(name)
    assert not set(told.specimens) & set(CALIBRATING_SPECIMENS)


def test_the_shipped_detector_is_small():
    assert len(card.to_bytes(card.general())) < 2 * 2**20


@pytest.mark.parametrize(
    "name",
    [
        "hollow-o-130",
        "ferritin-like-o-130",
        "hollow-c1-100-3",
        "betagal-like-d2-180",
        "elongated-d2-170",
    ],
)
def test_specimens_that_judge_are_refused(name):
    with pytest.raises(InputError, match="to learn from"):
        check_training_specimen(name)
