"""A day of a session in a minute: neither its memory nor its files grow with what has passed."""

import gc
import tracemalloc
from pathlib import Path

import psutil
import pytest

from halfmap.sessions import book, events, journal, log
from halfmap.sessions.session import Session
from halfmap.web.hub import Hub
from support.live_folders import LiveFolder
from support.live_sessions import a_session

LOOKS_OF_A_DAY = 24 * 360
"""One every 10 s."""


def an_hour_or_more(session: Session, looks: int, first: int) -> None:
    """Let a session look at its folder, and happen what happens beside: a cycle every 5 looks, people who click."""
    course = session.course
    for number in range(first, first + looks):
        session.tick()
        course.show({"label": "Cycle", "done": number, "total": 10**9})
        for clicks in range(4):
            session.stage({"classes": 3 + (number + clicks) % 90})
        if number % 5 == 0:
            for phase in ("import", "E-step", "M-step", "publishing"):
                course.note({"event": "phase", "cycle": number, "phase": phase})
            course.note({"event": "selected", "tracks": [number]})
            course.tell(f"Look {number}: {'something happened. ' * 5}")
        if number % 10 == 0:
            session.undo()
            session.snapshot()


def files_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def opened(tmp_path: Path) -> tuple[Session, Hub]:
    folder = LiveFolder(tmp_path / "acquisition", n_micrographs=2)
    folder.arrive(range(2))
    session, hub = a_session(tmp_path / "s", folder.path), Hub()
    hub.hear(session)
    return session, hub


def test_neither_memory_nor_files_grow_with_what_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 100)
    monkeypatch.setattr(journal, "KEPT_EVENTS", 100)
    monkeypatch.setattr(book, "_SNAPSHOT_EVERY", 20)
    monkeypatch.setattr(log, "_ROTATED_BYTES", 2000)
    session, hub = opened(tmp_path)
    an_hour_or_more(session, 60, 0)  # whatever fills up once is full
    tracemalloc.start()
    used = []
    for number in range(1, 3):
        an_hour_or_more(session, 60, 60 * number)
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    hub.forget(session.id)
    record = session.course.record
    session.close()
    assert used[1] - used[0] < 30_000  # bytes; each of the 300 events and more would take 300
    found = files_of(tmp_path / "s")
    assert found["log.txt.1"] < 3000
    assert found["log.txt"] < 3000
    assert found[journal.JOURNAL] < 40_000
    again = Session(tmp_path / "s", tmp_path / "acquisition")
    assert again.course.record == record
    again.close()


@pytest.mark.slow
def test_a_day_of_looks_and_clicks_costs_no_memory(tmp_path: Path) -> None:
    session, hub = opened(tmp_path)
    used = []
    for number in range(4):
        an_hour_or_more(session, LOOKS_OF_A_DAY // 4, number * LOOKS_OF_A_DAY // 4)
        gc.collect()
        used.append(psutil.Process().memory_info().rss / 2**20)
    hub.forget(session.id)
    session.close()
    found = files_of(tmp_path / "s")
    print(f"MiB after each quarter of a day: {[round(one, 1) for one in used]}; bytes of files: {found}")
    assert used[3] - used[1] < 5  # MiB, of 12 hours
    assert found[journal.JOURNAL] < 4 << 20
