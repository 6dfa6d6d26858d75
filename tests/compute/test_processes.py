"""What is special to worker processes of this machine."""

import itertools
import threading
import time
from pathlib import Path

import pytest

from halfmap.compute import processes
from halfmap.compute.processes import ProcessExecutor
from halfmap.errors import ComputeError, InputError
from support import executor_tasks as tasks


def test_no_more_workers_are_started_than_items_need(tmp_path: Path) -> None:
    with ProcessExecutor(n_workers=8, scratch=tmp_path) as executor:
        assert list(tmp_path.iterdir()) == []
        assert len(set(executor.map(tasks.process_id, range(2)))) <= 2
        pool = executor._pool
        assert pool is not None
        assert len(pool._workers()) <= 2


def test_words_of_a_task_do_not_reach_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with ProcessExecutor(n_workers=1) as executor:
        list(executor.map(tasks.shout, [0]))
    assert capfd.readouterr().out == ""


def test_a_task_whose_result_nobody_waits_for_any_more_is_stopped(tmp_path: Path) -> None:
    with ProcessExecutor(n_workers=2) as executor:
        results = executor.map(tasks.die_always, [0, 1], label="Scoring")
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        began = time.monotonic()
    assert time.monotonic() - began < 5.0


def test_workers_that_cannot_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START", "raise SystemExit(3)")
    with (
        ProcessExecutor(n_workers=1) as executor,
        pytest.raises(ComputeError, match="must start; got none in 3 tries: it ended with exit code 3"),
    ):
        list(executor.map(tasks.square, [1]))


def test_a_worker_that_is_gone_when_it_is_handed_a_task_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would be heard of: the pool has to look for a worker by itself."""
    send, n_sent = processes.Connection.send_bytes, itertools.count()

    def broken_once(connection: processes.Connection, task: bytes) -> None:
        if next(n_sent) == 0:
            raise BrokenPipeError
        send(connection, task)

    monkeypatch.setattr(processes.Connection, "send_bytes", broken_once)
    with ProcessExecutor(n_workers=1) as executor:
        gives_up = threading.Timer(60, executor.cancel)
        gives_up.start()
        try:
            assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]
        finally:
            gives_up.cancel()


def test_after_its_block_an_executor_starts_anew() -> None:
    executor = ProcessExecutor(n_workers=1)
    for _ in range(2):
        with executor:
            assert executor.submit(tasks.square, 3).result() == 9


def test_a_cancelled_executor_takes_no_more() -> None:
    with ProcessExecutor(n_workers=1) as executor:
        executor.cancel()
        with pytest.raises(ComputeError, match="must not be cancelled"):
            list(executor.map(tasks.square, [1]))


def test_no_workers_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1; got 0"):
        ProcessExecutor(n_workers=0)
