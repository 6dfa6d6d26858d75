"""What every executor must do, whatever its workers are."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from halfmap.compute.executor import Executor
from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.processes import ProcessExecutor
from halfmap.errors import ComputeError, FormatError, InputError
from support import executor_tasks as tasks

KINDS = ["in process", "processes", "dask"]
PROMPTLY_SECONDS = 15.0  # far below the 60 s that a task would sleep, far above a loaded machine's delays


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.count = 0
        self.messages: list[str] = []

    def start(self, label: str, total: int | None) -> None:
        self.started.append((label, total))

    def advance(self, n: int = 1) -> None:
        self.count += n

    def message(self, text: str) -> None:
        self.messages.append(text)


def open_kind(kind: str, scratch: Path) -> Executor:
    if kind == "in process":
        return InProcessExecutor(scratch=scratch)
    if kind == "processes":
        return ProcessExecutor(n_workers=2, scratch=scratch)
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    from halfmap.compute.dask_cluster import DaskExecutor

    return DaskExecutor.local(n_workers=2, scratch=scratch)


@pytest.fixture(scope="module", params=KINDS)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    with open_kind(request.param, tmp_path_factory.mktemp("scratch")) as opened:
        yield opened


# In process there is no worker to lose, and nothing is pickled.
with_workers = pytest.mark.parametrize("executor", KINDS[1:], indirect=True)


def test_results_come_in_the_order_of_items_whatever_finishes_first(executor: Executor) -> None:
    assert list(executor.map(tasks.sleep_longer_if_earlier, range(5))) == [0, 1, 2, 3, 4]


def test_a_generator_is_drawn_only_a_few_items_ahead_of_the_caller(executor: Executor) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield number

    results = executor.map(tasks.square, items())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert drawn <= 3 + 3 * executor.n_workers
    results.close()  # type: ignore[attr-defined]
    assert list(executor.map(tasks.square, [5])) == [25]


@pytest.mark.parametrize("n_chunks", [1, 2, 3, 6, 7])
def test_a_sum_is_the_same_to_the_last_bit_as_in_one_process(executor: Executor, n_chunks: int) -> None:
    expected = InProcessExecutor().reduce(tasks.tiny_sum, range(n_chunks), tasks.add)
    total = executor.reduce(tasks.tiny_sum, iter(range(n_chunks)), tasks.add)
    assert total.tobytes() == expected.tobytes()


def test_sums_too_large_to_send_are_added_where_they_are(executor: Executor) -> None:
    total = executor.reduce(tasks.large_sum, range(5), tasks.add_tables)
    assert total["count"] == 5
    np.testing.assert_allclose(total["data"], 10.5, rtol=1e-6)


def test_a_sum_over_nothing_is_refused(executor: Executor) -> None:
    with pytest.raises(InputError, match="at least one chunk; got none"):
        executor.reduce(tasks.square, [], tasks.add)


def test_a_value_is_broadcast_once_and_cached_by_workers(executor: Executor) -> None:
    reference = tasks.Reference(values=np.arange(1000, dtype=np.float32), name="ribosome")
    handle = executor.broadcast(reference)
    assert executor.broadcast(reference) == handle
    assert handle.path.exists()
    assert list(executor.map(partial(tasks.scaled_sum, handle), [1, 2, 3])) == [499500.0, 999000.0, 1498500.0]


def test_a_file_is_broadcast_without_being_copied(executor: Executor, tmp_path: Path) -> None:
    path = tmp_path / "optics.txt"
    path.write_text("300 kV")
    handle = executor.broadcast(path)
    assert handle.path == path
    assert list(executor.map(tasks.text_of, [handle])) == ["300 kV"]


def test_an_exception_arrives_at_its_turn_with_type_message_and_fields(executor: Executor) -> None:
    results = executor.map(partial(tasks.fail_at, 2), range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(
        FormatError, match=r"^micrograph_2.mrc, line 7: expected 1240 columns; found 12; copy"
    ) as caught:
        next(results)
    assert (caught.value.path, caught.value.line, caught.value.found) == (Path("micrograph_2.mrc"), 7, "12")
    assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]


def test_an_exception_in_a_chunk_or_in_the_addition_ends_a_sum(executor: Executor) -> None:
    with pytest.raises(FormatError, match="micrograph_3"):
        executor.reduce(partial(tasks.fail_at, 3), range(8), tasks.add)
    with pytest.raises(ValueError, match="cannot add 0"):
        executor.reduce(tasks.square, range(2), tasks.add_wrongly)


@with_workers
def test_an_exception_that_cannot_travel_still_tells_its_type_and_message(executor: Executor) -> None:
    with pytest.raises(ComputeError, match="UnpicklableError: particle 4"):
        list(executor.map(tasks.fail_in_its_own_way, [4]))


def test_with_a_label_progress_counts_items(executor: Executor) -> None:
    recorder = Recorder()
    list(executor.map(tasks.square, range(4), progress=recorder, label="Squaring"))
    executor.reduce(tasks.tiny_sum, range(3), tasks.add, progress=recorder, label="Adding")
    assert recorder.started == [("Squaring", 4), ("Adding", 3)]
    assert recorder.count == 7


def test_what_tasks_tell_reaches_the_caller(executor: Executor) -> None:
    recorder = Recorder()
    list(executor.map(tasks.tell, range(4), progress=recorder))
    assert recorder.started == []
    assert recorder.count == 12
    assert sorted(recorder.messages) == ["item 0", "item 1", "item 2", "item 3"]


def test_a_submitted_task_gives_its_result_or_raises(executor: Executor) -> None:
    assert executor.submit(tasks.square, 7).result() == 49
    with pytest.raises(FormatError, match="micrograph_1"):
        executor.submit(tasks.fail_at, 1, 1).result()


def test_a_task_knows_its_device(executor: Executor) -> None:
    assert list(executor.map(tasks.device_name, [0])) == ["cpu"]


def test_a_function_that_workers_cannot_import_is_refused(executor: Executor) -> None:
    with pytest.raises(InputError, match=r"must be a function that a worker can import; got .*<lambda>"):
        executor.map(lambda number: number, [1])


@with_workers
def test_an_item_that_cannot_be_pickled_is_refused(executor: Executor) -> None:
    with pytest.raises(InputError, match="must be picklable"):
        list(executor.map(tasks.square, [threading.Lock()]))  # type: ignore[list-item]
    assert list(executor.map(tasks.square, [2])) == [4]


@with_workers
def test_a_lost_worker_changes_neither_results_nor_progress(executor: Executor, tmp_path: Path) -> None:
    recorder = Recorder()
    assert list(executor.map(partial(tasks.die_once, tmp_path), range(4), progress=recorder)) == [0, 1, 2, 3]
    assert (tmp_path / "died2").exists()
    assert recorder.count == 8
    lost = [text for text in recorder.messages if "lost its worker" in text]
    assert sorted(set(recorder.messages) - set(lost)) == ["item 0", "item 1", "item 2", "item 3"]
    assert any(text.startswith("Chunk 2 of 'die_once' lost its worker (") for text in lost)
    if isinstance(executor, ProcessExecutor):  # Dask may have given the lost worker a second chunk already
        assert len(lost) == len(list(tmp_path.iterdir()))


@with_workers
def test_a_worker_lost_in_an_addition_does_not_change_the_sum(executor: Executor, tmp_path: Path) -> None:
    expected = InProcessExecutor().reduce(tasks.tiny_sum, range(5), tasks.add)
    total = executor.reduce(tasks.tiny_sum, range(5), partial(tasks.add_dying_once, tmp_path))
    assert (tmp_path / "died").exists()
    assert total.tobytes() == expected.tobytes()


@with_workers
def test_a_chunk_that_kills_every_worker_is_named(executor: Executor) -> None:
    with pytest.raises(ComputeError, match=r"Chunk 1 of 'Scoring' must be computed .* 3 workers lost"):
        list(executor.map(tasks.die_always, range(2), label="Scoring"))
    assert list(executor.map(tasks.square, [3])) == [9]


def _pids(folder: Path, at_least: int) -> list[int]:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        pids = [int(path.name.removeprefix("pid")) for path in folder.glob("pid*")]
        if len(pids) >= at_least:
            return pids
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


def _wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + PROMPTLY_SECONDS
    alive = set(pids)
    while alive and time.monotonic() < deadline:
        alive = {pid for pid in alive if _is_running(pid)}
        time.sleep(0.05)
    assert not alive


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from support import executor_tasks as tasks
from halfmap.compute.dask_cluster import DaskExecutor
from halfmap.compute.processes import ProcessExecutor

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    kinds = {"processes": partial(ProcessExecutor, n_workers=2), "dask": partial(DaskExecutor.local, n_workers=2)}
    with kinds[sys.argv[1]](scratch=folder / "scratch") as executor:
        if sys.argv[3] == "cancel":
            import threading, time
            def cancel():
                while len(list(folder.glob("pid*"))) < 2:
                    time.sleep(0.05)
                executor.cancel()
            threading.Thread(target=cancel).start()
        list(executor.map(partial(tasks.mark_and_sleep, folder), range(2)))
"""


@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("kill", -signal.SIGKILL, ""),
        ("interrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("cancel", 1, "The work must not be cancelled"),
    ],
)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_worker_outlives_a_caller_that_is_killed_interrupted_or_cancelled(
    kind: str, way: str, code: int, said: str, tmp_path: Path
) -> None:
    if kind == "dask":
        pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(tasks.__file__).parents[1]), *sys.path])}
    caller = subprocess.Popen(
        [sys.executable, str(script), kind, str(tmp_path), way],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    pids = _pids(tmp_path, at_least=2)
    began = time.monotonic()
    if way == "kill":
        caller.kill()
    elif way == "interrupt":
        os.kill(caller.pid, signal.SIGINT)
    errors = caller.communicate(timeout=2 * PROMPTLY_SECONDS)[1]
    assert time.monotonic() - began < PROMPTLY_SECONDS
    _wait_for_end(pids)
    assert caller.returncode == code
    assert said in errors
    if way != "kill":
        assert list((tmp_path / "scratch").glob("*")) == []
