"""States that a job keeps, and finds again."""

from dataclasses import dataclass

import numpy as np
import pytest

from halfmap.jobs.step_states import StepStates
from support.contexts import a_context


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """A state."""

    number: int
    values: np.ndarray


def some_states(context, n):
    states = StepStates(context, "count", Counted)
    for number in range(n):
        states.save(number, Counted(number=number, values=np.arange(number)))
    return states


def names(context):
    return sorted(path.name for path in (context.folder / "state").iterdir())


def test_the_last_two_are_kept_and_the_newest_is_found(tmp_path):
    with a_context(tmp_path) as context:
        assert StepStates(context, "count", Counted).newest() is None
        states = some_states(context, 12)
        assert names(context) == ["count_000010.safetensors", "count_000011.safetensors"]
        assert states.newest().number == 11
        states.keep_only_newest()
        assert names(context) == ["count_000011.safetensors"]


def test_a_broken_state_is_told_and_the_one_before_it_counts(tmp_path):
    with a_context(tmp_path) as context:
        states = some_states(context, 3)
        last = context.folder / "state" / "count_000002.safetensors"
        last.write_bytes(last.read_bytes()[:50])
        assert states.newest().number == 1
        assert any("Passed over a saved state" in text for text in context.progress.messages)


def test_what_else_lies_in_the_folder_stays(tmp_path):
    with a_context(tmp_path) as context:
        (context.folder / "state").mkdir()
        other = context.folder / "state" / "image_checks_0.safetensors"
        other.write_bytes(b"theirs")
        some_states(context, 4).keep_only_newest()
        assert other.exists()


def test_each_state_that_follows_is_saved_before_it_is_told_and_a_cancelled_job_ends_between_two(tmp_path, monkeypatch):
    with a_context(tmp_path) as context:
        states = StepStates(context, "count", Counted)
        seen = []
        cancelled_after = 3

        def further(state):
            return Counted(number=state.number + 1, values=np.arange(state.number + 1))

        monkeypatch.setattr(context, "is_cancelled", lambda: len(seen) == cancelled_after)

        def follow(state):
            for current in states.follow(state, further, lambda last: last.number == 5, lambda last: last.number):
                assert states.newest().number == current.number
                seen.append(current.number)

        with pytest.raises(KeyboardInterrupt):
            follow(Counted(number=0, values=np.arange(0)))
        assert seen == [1, 2, 3]
        cancelled_after = 0
        follow(states.newest())
        assert seen == [1, 2, 3, 4, 5]
        follow(states.newest())
        assert seen == [1, 2, 3, 4, 5]
