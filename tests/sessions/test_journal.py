"""The journal: what is in it after any end of the process that writes it."""

import json
import os
from pathlib import Path

import pytest

from halfmap.errors import ProjectError
from halfmap.sessions import journal as journal_module
from halfmap.sessions.journal import JOURNAL, SNAPSHOTS, Journal


def some_events(folder: Path, n: int) -> Journal:
    journal = Journal(folder)
    for number in range(n):
        journal.append({"event": "x", "value": number})
    return journal


def test_events_come_back_in_order_with_growing_numbers(tmp_path: Path) -> None:
    some_events(tmp_path, 3)
    again = Journal(tmp_path)
    again.append({"event": "y"})
    assert [event["seq"] for event in again.replay()] == [1, 2, 3, 4]
    assert [event["seq"] for event in again.replay(after=2)] == [3, 4]


@pytest.mark.parametrize("kept", range(32))
def test_a_line_cut_at_any_byte_is_passed_over_and_the_next_one_is_whole(tmp_path: Path, kept: int) -> None:
    some_events(tmp_path, 2)
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:kept])
    journal = Journal(tmp_path)
    journal.append({"event": "after"})
    found = Journal(tmp_path).replay()
    assert found[0]["value"] == 0
    assert found[-1]["event"] == "after"
    assert [event["seq"] for event in found] == sorted({event["seq"] for event in found})


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = some_events(tmp_path, 2)
    before = (tmp_path / JOURNAL).read_bytes()
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:5]))
    with pytest.raises(ProjectError, match="No space left"):
        journal.append({"event": "lost"})
    monkeypatch.undo()
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert journal.append({"event": "found"})["seq"] == 3


def test_a_broken_snapshot_is_made_up_for_by_the_one_before_and_the_journal(tmp_path: Path) -> None:
    journal = some_events(tmp_path, 2)
    journal.save_snapshot({"value": 2})
    journal.append({"event": "x", "value": 3})
    journal.save_snapshot({"value": 3})
    journal.append({"event": "x", "value": 4})
    (tmp_path / SNAPSHOTS[0]).write_text('{"schema": 1, "seq": 3, "sta')
    again = Journal(tmp_path)
    sequence, state = again.newest_snapshot()
    assert (sequence, state) == (2, {"value": 2})
    assert [event["value"] for event in again.replay(after=sequence)] == [3, 4]
    assert again.append({"event": "x"})["seq"] == 5


def test_a_lost_journal_is_made_up_for_by_the_snapshot(tmp_path: Path) -> None:
    journal = some_events(tmp_path, 5)
    journal.save_snapshot({"value": 5})
    (tmp_path / JOURNAL).unlink()
    again = Journal(tmp_path)
    assert again.newest_snapshot() == (5, {"value": 5})
    assert again.append({"event": "x"})["seq"] == 6


def test_a_snapshot_of_another_schema_does_not_count(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOTS[0]).write_text(json.dumps({"schema": 99, "seq": 7, "state": {}}))
    assert Journal(tmp_path).newest_snapshot() == (0, {})


def test_the_journal_stays_short_over_many_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEPT_EVENTS", 20)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    journal = Journal(tmp_path)
    longest = 0
    for number in range(400):
        journal.append({"event": "x", "value": number})
        if number % 10 == 9:
            journal.save_snapshot({"value": number})
        longest = max(longest, len(journal.replay()))
    assert longest <= 60
    assert journal.replay()[-1]["value"] == 399
