"""The process that computes: killed at any time, it leaves what an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest

from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.progress import SilentProgress
from halfmap.inference import expectation
from halfmap.io.mrc import map_data
from halfmap.project.parameters_json import to_json
from halfmap.sessions import plan, store
from halfmap.sessions.checkpoints import CHECKPOINTS, CheckpointedExecutor
from halfmap.sessions.child import Child
from halfmap.sessions.cycle import run_cycle
from halfmap.sessions.observation import Observation
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.watching import open_source
from support.live_folders import LiveFolder
from support.live_sessions import FAST


def prepared(work: Path, folder: LiveFolder, number: int, seen: Observation) -> None:
    settings = LiveSettings(**FAST)
    cycles = plan.cycles_of(settings, seen.n_particles, kind="abinit")
    store.prepare(
        work, number, observation=seen, folder=folder.path, settings=to_json(settings),
        plan=asdict(cycles[number - 1]), is_ab_initio=True,
    )  # fmt: skip


def test_a_cycle_that_was_cut_short_goes_on_from_its_chunks_with_the_same_result(
    tmp_path: Path, folder: LiveFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expectation, "_MOST_IN_CHUNK", 20)
    source, seen = open_source(folder.path, Path("unused")), Observation()
    for _ in range(2):
        seen = source.poll(seen)
    results, whole, counted = {}, expectation.expect_chunk, []

    def counting(*arguments: object) -> object:
        counted.append(1)
        if work.name == "cut" and len(counted) == 7:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(expectation, "expect_chunk", counting)
    for work in (tmp_path / "whole", tmp_path / "cut"):
        work.mkdir()
        counted.clear()
        with InProcessExecutor() as executor:
            for number in (1, 2):
                prepared(work, folder, number, seen)
                for _ in range(2):
                    kept = CheckpointedExecutor(executor, store.part_of(work, number) / CHECKPOINTS)
                    try:
                        run_cycle(work, number, kept, SilentProgress(), lambda name: None)
                        break
                    except KeyboardInterrupt:
                        assert list((store.part_of(work, number) / CHECKPOINTS).iterdir())
        results[work.name] = (len(counted), np.array(map_data(store.folder_of(work, 2) / store.CLASSES)))
    assert results["cut"][0] == results["whole"][0] + 1  # but the one in whose midst it was cut
    np.testing.assert_array_equal(results["cut"][1], results["whole"][1])
    assert not (store.folder_of(tmp_path / "cut", 2) / CHECKPOINTS).exists()


def test_a_worker_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from halfmap.sessions.child import Child;"
        f"child = Child(Path({str(tmp_path)!r}), ['halfmap.sessions.worker', {str(tmp_path)!r}, 'cpu', '1', ''], bool);"
        "print(child.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive


def test_a_worker_that_is_ended_is_dead_and_says_how(tmp_path: Path) -> None:
    child = Child(tmp_path, ("halfmap.sessions.worker", str(tmp_path), "cpu", "1", ""), lambda: None)
    child.end()
    assert not child.is_alive
    assert child.last_words().startswith("signal 15")


def test_an_orphan_of_a_killed_server_is_ended_before_a_session_begins(tmp_path: Path) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    store.note_child(tmp_path, orphan.pid)
    store.end_orphan(tmp_path)
    assert orphan.wait(5) == -signal.SIGKILL
    assert not (tmp_path / store.CHILD).exists()


def test_a_process_that_has_an_orphans_number_by_chance_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    store.note_child(tmp_path, other.pid)
    noted = json.loads((tmp_path / store.CHILD).read_text())
    (tmp_path / store.CHILD).write_text(json.dumps(noted | {"start_time": noted["start_time"] - 100}))
    store.end_orphan(tmp_path)
    assert other.poll() is None
    other.kill()
    other.wait()
