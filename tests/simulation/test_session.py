import numpy as np
import pytest

from halfmap.simulation.session import SessionPaceParams, course_of, kept_when_processed_again


def test_every_micrograph_comes_once_in_its_turn():
    course = course_of(SessionPaceParams(), 200, seed=1)
    comes = [one for one in course if one.event in ("processed", "half written")]
    assert [one.micrograph for one in comes] == list(range(200))
    assert [one.intervals for one in comes] == list(range(200))
    assert [one.intervals for one in course] == sorted(one.intervals for one in course)


def test_what_is_half_written_is_completed_and_comes_again_only_after_that():
    course = course_of(SessionPaceParams(half_written_fraction=0.5, reprocessed_fraction=0.5), 200, seed=1)
    when = {(one.event, one.micrograph): one.intervals for one in course}
    half = {number for event, number in when if event == "half written"}
    assert half == {number for event, number in when if event == "completed"}
    for (event, number), intervals in when.items():
        if event in ("completed", "processed again"):
            assert intervals > number
        if event == "processed again" and number in half:
            assert intervals > when["completed", number]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fractions_are_kept(fraction):
    course = course_of(SessionPaceParams(half_written_fraction=fraction, reprocessed_fraction=fraction), 1000, seed=3)
    for event in ("half written", "processed again"):
        share = sum(one.event == event for one in course) / 1000
        assert abs(share - fraction) <= 4 * (fraction * (1 - fraction) / 1000) ** 0.5  # four standard errors


def test_processing_again_drops_some_and_turns_the_order():
    uids = np.arange(1, 501)
    kept = kept_when_processed_again(1, uids)
    assert (np.diff(kept) < 0).all()
    assert 350 < len(kept) < 450
    assert kept_when_processed_again(1, np.array([7])).tolist() == [0]
