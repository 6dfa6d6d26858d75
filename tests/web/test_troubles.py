"""Disks that are full, shares that vanish, damaged files: a server says so, and goes on when they are mended."""

import errno
import json
import os
import time
from collections import namedtuple

import pytest

from halfmap.io import atomic
from halfmap.sessions import course, journal, plan, store
from halfmap.sessions import session as session_module
from support.live_folders import PER_MICROGRAPH
from support.live_servers import a_server
from support.live_sessions import FAST, ChildHere

API = "/api/v1"
SETTINGS = FAST | {"startup_cycles": 1}
CYCLES = 3
SECONDS = 60.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Let nothing be waited for, and cycles be computed in the test's own process."""
    monkeypatch.setattr(plan, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(session_module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(course, "Child", ChildHere)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Live:
    """The session of a folder, as a page sees it."""

    def __init__(self, server, name="grid1"):
        self.server, self.client = server, server.client()
        shown = self.client.post(f"{API}/sessions", json={"root": "data", "path": name}).json()
        self.path = f"{API}/sessions/{shown['id']}"
        self.work = server.services.work / shown["id"]

    def shown(self):
        return self.client.get(self.path).json()

    def until(self, condition):
        end = time.monotonic() + SECONDS
        while not condition(shown := self.shown()):
            assert time.monotonic() < end, shown
            time.sleep(0.02)
        return shown

    def told(self, text):
        """Wait until the page tells something in its banner."""
        return self.until(lambda shown: any(text in one for one in shown["source"]["notices"]))

    def counted(self, n):
        return self.until(lambda shown: shown["source"]["particles"] == n)

    def start(self, **values):
        return self.client.post(f"{self.path}/start", json={"values": SETTINGS | values})

    def ended(self, n):
        """Wait until so many cycles are there and no job runs."""
        return self.until(lambda shown: shown["state"] == "listening" and len(shown["cycles"]) == n)


@pytest.fixture
def live(server, grid):
    found = Live(server)
    found.counted(3 * PER_MICROGRAPH)
    return found


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_has_no_room_for_a_cycle_is_told_of_and_waited_for(live, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(course.shutil, "disk_usage", lambda path: usage(10, 9, 1 << 20))
        live.start()
        live.told("is full: 1 MiB are free")
        assert live.shown()["cycles"] == []
    live.ended(CYCLES)


def test_a_journal_that_finds_no_room_refuses_commands_and_loses_none_of_what_is_computed(live, monkeypatch):
    write = os.write

    def no_room_for_events(descriptor, data):
        return full() if b'"event"' in data else write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", no_room_for_events)
        answer = live.start()
        assert answer.status_code == 409
        assert "No space left on device" in answer.json()["detail"]
    assert live.shown()["state"] == "stopped"
    live.start()
    live.until(lambda shown: shown["cycles"])
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", no_room_for_events)
        live.told("No space left on device")
    live.ended(CYCLES)
    events = [json.loads(line) for line in (live.work / journal.JOURNAL).read_text().splitlines()]
    assert [one["cycle"] for one in events if one["event"] == "cycle"] == list(range(1, CYCLES + 1))
    phases = [(one["cycle"], one["phase"]) for one in events if one["event"] == "phase"]
    assert len(set(phases)) == 4 * CYCLES


def test_a_disk_that_fills_up_during_a_cycle_fails_it_and_the_next_try_waits_for_room(live, monkeypatch):
    usage, replace, refused = namedtuple("usage", "total used free"), os.replace, []

    def no_room_for_cycles(source, target):
        if "cycles" not in str(target):
            return replace(source, target)
        refused.append(target)
        return full()

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", no_room_for_cycles)
        patch.setattr(course.shutil, "disk_usage", lambda path: usage(10, 9, 0 if refused else 1 << 40))
        live.start()
        live.told("is full: 0 MiB are free")
    live.ended(CYCLES)
    assert "No space left on device" in live.client.get(f"{live.path}/log").json()["text"]


def test_a_session_that_finds_no_room_to_begin_is_opened_when_there_is(server, grid, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", full)
        answer = server.client().post(f"{API}/sessions", json={"root": "data", "path": "grid1"})
        assert answer.status_code == 409
    assert Live(server).shown()["state"] == "stopped"


def test_a_share_that_vanishes_is_told_of_and_waited_for(live, grid, tmp_path):
    live.start()
    live.until(lambda shown: shown["cycles"])
    grid.rename(tmp_path / "away")
    shown = live.until(lambda shown: "is not there" in str(shown["source"]["notices"]) or shown["state"] == "listening")
    assert shown["source"]["particles"] == 3 * PER_MICROGRAPH
    (tmp_path / "away").rename(grid)
    live.ended(CYCLES)


def test_after_a_damaged_state_the_newest_good_one_is_gone_on_from(live):
    live.start()
    live.ended(CYCLES)
    path = store.folder_of(live.work, CYCLES) / store.STATE
    path.write_bytes(path.read_bytes()[:1000])
    live.start(classification_type="refine")
    shown = live.ended(CYCLES + 1)
    assert f"Cycle {CYCLES + 1} goes on from cycle {CYCLES - 1}" in shown["source"]["notices"][-1]
    cycle = live.client.get(f"{live.path}/cycles/{CYCLES + 1}").json()
    assert sum(one["particles"] for one in cycle["classes"]) == 3 * PER_MICROGRAPH


def test_where_no_state_is_left_whole_the_page_says_how_to_begin_anew(live):
    live.start()
    live.ended(CYCLES)
    for path in live.work.glob(f"cycles/*/{store.STATE}"):
        path.write_bytes(b"\0" * 1000)
    live.start(classification_type="refine")
    shown = live.until(lambda shown: shown["state"] == "failed")
    assert "start a job with the type abinit" in shown["why_idle"]
    live.start(classification_type="abinit")
    live.ended(2 * CYCLES)


def test_damaged_files_of_a_session_are_set_aside_when_the_server_starts_again(tmp_path, filled):
    with a_server(tmp_path) as server:
        filled.copied(server.data / "grid1")
        live = Live(server)
        live.counted(3 * PER_MICROGRAPH)
        live.start()
        live.ended(CYCLES)
    for name in ("snapshot.json", f"cycles/{CYCLES:04d}/{store.CYCLE}"):
        (live.work / name).write_bytes(b"\0" * 100)
    with open(live.work / journal.JOURNAL, "ab") as stream:
        stream.write(b'{"seq": 10000, "eve')
    with a_server(tmp_path) as server:
        live = Live(server)
        shown = live.counted(3 * PER_MICROGRAPH)
        assert [one["number"] for one in shown["cycles"]] == list(range(1, CYCLES))
        assert f"Cycle {CYCLES} cannot be read any more" in shown["source"]["notices"][0]
        live.start(classification_type="refine")
        shown = live.ended(CYCLES)
        assert [one["number"] for one in shown["cycles"]] == list(range(1, CYCLES + 1))


def test_a_stack_that_is_half_written_waits_with_its_reason_and_comes_in_when_it_is_whole(server, grid, filled):
    stack = grid / filled.name(1)
    whole = stack.read_bytes()
    stack.write_bytes(whole[: len(whole) // 2])
    live = Live(server)
    live.counted(2 * PER_MICROGRAPH)
    (waiting,) = live.until(lambda shown: shown["source"]["quarantine"])["source"]["quarantine"]
    assert waiting["name"] == filled.name(1)
    assert waiting["reason"]
    live.start()
    assert live.ended(CYCLES)["cycles"][-1]["particles"] == 2 * PER_MICROGRAPH
    stack.write_bytes(whole)
    live.counted(3 * PER_MICROGRAPH)
    assert live.shown()["source"]["quarantine"] == []


def test_a_stack_that_is_damaged_after_it_was_taken_is_named_and_used_again_when_it_is_mended(live, grid, filled):
    stack = grid / filled.name(1)
    whole, status = stack.read_bytes(), stack.stat()
    stack.write_bytes(whole[:-1000])
    live.start()
    live.told(f"{PER_MICROGRAPH} particles are left out, for stacks are not as when they were listed: 1 of 3 changed")
    assert live.ended(CYCLES)["cycles"][-1]["particles"] == 2 * PER_MICROGRAPH
    assert f"as {filled.name(1)}." in " ".join(live.shown()["source"]["notices"])
    stack.write_bytes(whole)
    os.utime(stack, ns=(status.st_atime_ns, status.st_mtime_ns))
    live.start()
    shown = live.until(lambda shown: len(shown["cycles"]) > CYCLES and shown["state"] == "listening")
    assert shown["cycles"][-1]["particles"] == 3 * PER_MICROGRAPH


def test_the_clock_of_the_microscope_may_be_ahead_by_years(server, filled):
    folder = filled.copied(server.data / "grid1")
    for path in folder.path.rglob("*"):
        os.utime(path, (path.stat().st_mtime + 2 * time.time(),) * 2)
    live = Live(server)
    live.counted(3 * PER_MICROGRAPH)
    shown = live.shown()
    assert shown["source"]["lag_s"] < SECONDS
    live.start()
    assert live.ended(CYCLES)["cycles"][-1]["particles"] == 3 * PER_MICROGRAPH
