"""Picks: one form for every picker, and no micrograph forgotten."""

import numpy as np
import pytest

from halfmap.data.picks import Picks
from halfmap.errors import InconsistentDataError
from support.particle_sets import some_picks


def test_micrographs_without_picks_are_remembered():
    picks = Picks.concatenate(
        [
            Picks.of_micrograph("a.mrc", [[1.0, 2.0]], source="log", figure_of_merit=[3.0]),
            Picks.of_micrograph("b.mrc", [], source="log", figure_of_merit=[]),
        ]
    )
    assert picks.micrographs == ("a.mrc", "b.mrc")
    assert {name: len(rows) for name, rows in picks.by_micrograph().items()} == {"a.mrc": 1, "b.mrc": 0}
    assert picks.source == "log"
    assert len(picks.in_micrograph("b.mrc")) == 0


def test_picks_are_complete_with_a_position_alone():
    picks = Picks.of_micrograph("a.mrc", [[1.0, 2.0], [3.0, 4.0]], source="hand")
    assert picks.figure_of_merit.tolist() == [0.0, 0.0]
    assert picks["class_number"].tolist() == [0, 0]
    assert picks["psi_degrees"].tolist() == [0.0, 0.0]
    assert len(set(picks.uid)) == 2


def test_the_uid_follows_from_micrograph_and_position():
    first = some_picks(6)
    again = some_picks(6).take([5, 3, 1])
    assert Picks(columns={name: again[name] for name in ("micrograph_name", "position_pixel")}).uid.tolist() == (
        first.uid[[5, 3, 1]].tolist()
    )


def test_sources_of_joined_picks_are_listed():
    parts = [Picks.of_micrograph("a.mrc", [[number, 0.0]], source=source) for number, source in enumerate("xyx")]
    assert Picks.concatenate(parts).source == "x, y"


def test_picks_need_a_position():
    with pytest.raises(InconsistentDataError, match="micrograph_name and position_pixel; got micrograph_name"):
        Picks(columns={"micrograph_name": ["a"]})


def test_picks_without_a_place_are_refused():
    with pytest.raises(InconsistentDataError, match=r"got \(nan, 9\) in row 2 of b\.star, micrograph a\.mrc"):
        Picks.of_micrograph("a.mrc", [[3.0, 4.0], [np.nan, 9.0]], source="b.star")


def test_every_pick_belongs_to_its_micrograph():
    picks = some_picks(10)
    for name, rows in picks.by_micrograph().items():
        assert set(picks.micrograph_name[rows]) == {name}
        np.testing.assert_array_equal(picks.in_micrograph(name).uid, picks.uid[rows])
