"""Servers and the processes that compute for them, killed at any moment, leave what undisturbed ones leave.

The processes are forked ones that begin at once (`support.quick_processes`); `tests/workflows/test_live.py` kills the
installed command.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.errors import HalfmapError
from halfmap.io import relion
from halfmap.sessions import store
from halfmap.sessions.journal import JOURNAL
from halfmap.web.client import LiveClient
from support.live_folders import PER_MICROGRAPH, LiveFolder
from support.quick_processes import PHASE_SECONDS, Forking

PHASES = ("import", "E-step", "M-step", "publishing")
SETTINGS = {
    "classes": 3,
    "mask_radius_angstrom": 60.0,
    "initial_resolution_angstrom": 30.0,
    "final_resolution_angstrom": 14.0,
    "particles_per_class": 30,
    "seed": 1,
}
FIRST = 4
SECONDS = 60.0


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    found = Forking(tmp_path_factory.mktemp("forking"))
    yield found
    found.close()


class Live:
    """A server that is started again whenever it has been killed, and its one session."""

    def __init__(self, forking: Forking, project: Path) -> None:
        self.forking, self.project = forking, project
        self._events: list[dict[str, Any]] = []
        self._size = -1
        (project / ".halfmap").mkdir(parents=True, exist_ok=True)
        self.start()
        self.session = str(self.client.open("data", "acquisition")["id"])
        self.work = project / "Live" / self.session

    def start(self) -> None:
        self.process = self.forking.server(
            self.project, root=[str(self.project / "data")], port=0, devices="cpu", workers=1, poll_seconds=0.3,
            force=True,
        )  # fmt: skip
        line = self.process.stdout.readline().decode()
        assert "is at http" in line, self.process.stderr.read().decode()
        self.client = LiveClient(line.split("is at ")[1].strip())

    def kill_server(self) -> None:
        self.process.close()
        self.start()

    def kill_worker(self) -> None:
        os.kill(json.loads((self.work / store.CHILD).read_text())["pid"], signal.SIGKILL)

    def events(self) -> list[dict[str, Any]]:
        """Return what the journal holds, read again where it has grown."""
        size = (self.work / JOURNAL).stat().st_size
        if size != self._size:
            lines = (self.work / JOURNAL).read_text().splitlines()
            self._events = [json.loads(line) for line in lines if line.endswith("}")]
            self._size = size
        return self._events

    def jobs_ended(self) -> int:
        return sum(one["event"] == "finished" for one in self.events())

    def is_in(self, phase: str) -> bool:
        return bool(self.events()[-1].get("phase") == phase)


def until(condition: Any, what: str) -> Any:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            found = condition()
        except HalfmapError:  # the session is not open again yet
            found = None
        if found:
            return found
        time.sleep(0.004)
    raise AssertionError(f"{what} did not happen in {SECONDS} s")


def job_with_kills(live: Live, killed: Counter[str], n: int, n_jobs: int) -> None:
    """Wait until so many jobs have ended, and kill server and worker in turn up to n times, in each phase alike."""
    waits = 1.5 * PHASE_SECONDS * keyed_random.uniform(n_jobs, "when processes are killed", np.arange(n))
    for number in range(n):
        wanted = min(PHASES, key=lambda phase: killed[phase])
        until(lambda: live.is_in(wanted) or live.jobs_ended() == n_jobs, f"the phase {wanted}")  # noqa: B023
        if live.jobs_ended() == n_jobs:
            return
        time.sleep(waits[number])
        if number % 2:
            live.kill_server()
        else:
            live.kill_worker()
        killed[[one["phase"] for one in live.events() if one["event"] == "phase"][-1]] += 1
    until(lambda: live.jobs_ended() == n_jobs, "the end of the job")


def whole_session(
    forking: Forking, project: Path, filled: LiveFolder, order: list[int], n_kills: int, cycles: int
) -> tuple[Path, Counter[str]]:
    """Let a session take four micrographs, and two more when its first job has ended.

    Returns
    -------
    Its folder, and how often its processes were killed in each phase.
    """
    folder = filled.copied(project / "data" / "acquisition")
    live, killed = Live(forking, project), Counter[str]()
    try:
        for number in order:
            if number < FIRST:
                folder.add_rows(number)
        folder.write_table()
        n_first, n_all = FIRST * PER_MICROGRAPH, len(order) * PER_MICROGRAPH
        settings = SETTINGS | {"startup_cycles": cycles, "refinement_cycles": cycles}
        thresholds = {"first_threshold": n_first, "next_threshold": n_all - n_first}
        live.client.start_automatic(live.session, **settings, **thresholds)
        job_with_kills(live, killed, n_kills // 2, 1)
        for number in order:
            folder.add_rows(number)
        folder.write_table()
        job_with_kills(live, killed, n_kills - n_kills // 2, 2)
    finally:
        live.process.close()
    return live.work, killed


def filled_folder(path: Path) -> LiveFolder:
    """Return a folder of six stacks that no table names yet."""
    found = LiveFolder(path, n_micrographs=6)
    for number in range(6):
        found.process(number)
    found.rows.clear()
    return found


def same_result(first: Path, second: Path) -> None:
    numbers = [one["number"] for one in store.published(first)]
    assert numbers == [one["number"] for one in store.published(second)]
    for number in numbers:
        one, other = (store.folder_of(work, number) / store.CLASSES for work in (first, second))
        assert one.read_bytes() == other.read_bytes()
    tables = [relion.read_particles(store.folder_of(work, numbers[-1]) / store.DATA) for work in (first, second)]
    for name in ("class_number", "origin_angstrom", "rotation"):
        np.testing.assert_array_equal(tables[0][name], tables[1][name])


def killed_and_quiet(tmp_path: Path, forking: Forking, n_kills: int, cycles: int) -> Counter[str]:
    """Compare a session that is killed, and sees micrographs in another order, with one in peace."""
    filled = filled_folder(tmp_path / "filled")
    quiet, _ = whole_session(forking, tmp_path / "quiet", filled, [0, 1, 2, 3, 4, 5], 0, cycles)
    disturbed, killed = whole_session(forking, tmp_path / "killed", filled, [3, 5, 1, 0, 4, 2], n_kills, cycles)
    print(f"killed in {dict(killed)}")
    same_result(quiet, disturbed)
    return killed


def test_a_session_whose_processes_are_killed_ten_times_ends_as_one_in_peace(tmp_path: Path, forking: Forking) -> None:
    killed = killed_and_quiet(tmp_path, forking, 10, 3)
    assert killed.total() == 10
    assert min(killed[phase] for phase in PHASES) >= 1


@pytest.mark.slow
def test_a_session_whose_processes_are_killed_a_hundred_times_ends_as_one_in_peace(
    tmp_path: Path, forking: Forking
) -> None:
    killed = killed_and_quiet(tmp_path, forking, 100, 20)
    assert killed.total() == 100
    assert min(killed[phase] for phase in PHASES) >= 10
