"""Servers and the processes that compute for them, killed at any moment, leave what undisturbed ones leave.

The processes are forked ones that begin at once (`support.quick_processes`); `tests/workflows/test_live.py` kills the
installed command.
"""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.io import relion
from halfmap.sessions import store
from support.live_folders import PER_MICROGRAPH, LiveFolder
from support.quick_processes import PHASE_SECONDS, Forking
from support.quick_servers import QuickServer, until

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


def job_with_kills(live: QuickServer, killed: Counter[str], n_jobs: int, n: int, least: int) -> None:
    """Wait until so many jobs have ended, and kill server and worker in turn, in each phase alike.

    They are killed until it has happened n times in all, and in each phase as often as is asked for at least.
    """
    waits = 1.5 * PHASE_SECONDS * keyed_random.uniform(n_jobs, "when processes are killed", np.arange(3 * n))
    while killed.total() < n or min(killed[phase] for phase in PHASES) < least:
        wanted = min(PHASES, key=lambda phase: killed[phase])
        until(lambda: live.is_in(wanted) or live.jobs_ended() == n_jobs, f"the phase {wanted}")  # noqa: B023
        if live.jobs_ended() == n_jobs:
            return
        time.sleep(waits[killed.total()])
        if killed.total() % 2:
            live.kill_server()
        else:
            live.kill_worker()
        killed[[one["phase"] for one in live.events() if one["event"] == "phase"][-1]] += 1
    until(lambda: live.jobs_ended() == n_jobs, "the end of the job")


def whole_session(
    forking: Forking, project: Path, filled: LiveFolder, order: list[int], kills: tuple[int, int], cycles: int
) -> tuple[Path, Counter[str]]:
    """Let a session take four micrographs, and two more when its first job has ended.

    Parameters
    ----------
    kills : how many there are in all, and at least in each phase; half of them in the first job.

    Returns
    -------
    Its folder, and how often its processes were killed in each phase.
    """
    folder = filled.copied(project / "data" / "acquisition")
    live, killed = QuickServer(forking, project), Counter[str]()
    try:
        for number in order:
            if number < FIRST:
                folder.add_rows(number)
        folder.write_table()
        n_first, n_all = FIRST * PER_MICROGRAPH, len(order) * PER_MICROGRAPH
        settings = SETTINGS | {"startup_cycles": cycles, "refinement_cycles": cycles}
        thresholds = {"first_threshold": n_first, "next_threshold": n_all - n_first}
        live.client.start_automatic(live.session, **settings, **thresholds)
        job_with_kills(live, killed, 1, kills[0] // 2, kills[1] // 2)
        for number in order:
            folder.add_rows(number)
        folder.write_table()
        job_with_kills(live, killed, 2, *kills)
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


def killed_and_quiet(tmp_path: Path, forking: Forking, kills: tuple[int, int], cycles: int) -> Counter[str]:
    """Compare a session that is killed, and sees micrographs in another order, with one in peace."""
    filled = filled_folder(tmp_path / "filled")
    quiet, _ = whole_session(forking, tmp_path / "quiet", filled, [0, 1, 2, 3, 4, 5], (0, 0), cycles)
    disturbed, killed = whole_session(forking, tmp_path / "killed", filled, [3, 5, 1, 0, 4, 2], kills, cycles)
    print(f"killed in {dict(killed)}")
    same_result(quiet, disturbed)
    return killed


def test_a_session_whose_processes_are_killed_ten_times_ends_as_one_in_peace(tmp_path: Path, forking: Forking) -> None:
    killed = killed_and_quiet(tmp_path, forking, (10, 1), 3)
    assert killed.total() >= 10
    assert min(killed[phase] for phase in PHASES) >= 1


@pytest.mark.slow
def test_a_session_whose_processes_are_killed_a_hundred_times_ends_as_one_in_peace(
    tmp_path: Path, forking: Forking
) -> None:
    killed = killed_and_quiet(tmp_path, forking, (100, 10), 20)
    assert killed.total() >= 100
    assert min(killed[phase] for phase in PHASES) >= 10
