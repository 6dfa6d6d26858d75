"""The lock of a job folder."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from halfmap.errors import ProjectError
from halfmap.project import lock
from halfmap.project.lock import Holder

HOLDING = """
import sys
from pathlib import Path
from halfmap.project import lock
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def living_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write(folder, holder: Holder) -> None:
    (folder / lock.NAME).write_text(json.dumps(asdict(holder)))


def test_a_free_lock_is_taken_and_given_back(tmp_path):
    assert lock.acquire(tmp_path) is None
    assert lock.holder(tmp_path) == Holder.this_process()
    lock.release(tmp_path)
    assert not (tmp_path / lock.NAME).exists()


def test_a_lock_carries_host_pid_and_start_time(tmp_path):
    lock.acquire(tmp_path)
    held = json.loads((tmp_path / lock.NAME).read_text())
    assert (held["host"], held["pid"]) == (socket.gethostname(), os.getpid())
    assert held["start_time"] > 1e9


def test_the_lock_of_a_living_process_is_refused_by_name(tmp_path, living_process):
    with pytest.raises(ProjectError, match=rf"must be free; got a lock held by process {living_process.pid} on"):
        lock.acquire(tmp_path)


def test_the_lock_of_a_killed_process_is_taken_over_and_its_holder_named(tmp_path, living_process):
    living_process.kill()
    living_process.wait()
    before = lock.acquire(tmp_path)
    assert before.pid == living_process.pid
    assert lock.holder(tmp_path) == Holder.this_process()


def test_a_later_process_of_the_same_number_does_not_hold_the_lock(tmp_path):
    write(tmp_path, replace(Holder.this_process(), start_time=1e9))
    assert lock.acquire(tmp_path) is not None


def test_the_lock_of_another_machine_is_never_taken_over(tmp_path):
    write(tmp_path, Holder(host="elsewhere", pid=1, start_time=1e9))
    with pytest.raises(ProjectError, match=r"if that machine is gone, remove .*\.lock"):
        lock.acquire(tmp_path)


def test_a_lock_file_cut_short_by_a_kill_counts_as_free(tmp_path):
    (tmp_path / lock.NAME).write_text('{"host": "el')
    assert lock.acquire(tmp_path) is None


def test_only_the_holder_gives_a_lock_back(tmp_path, living_process):
    lock.release(tmp_path)
    assert lock.holder(tmp_path).pid == living_process.pid


def test_of_many_that_take_over_at_once_one_succeeds(tmp_path):
    write(tmp_path, Holder(host=socket.gethostname(), pid=2**22 + 1, start_time=1e9))
    code = HOLDING.replace("lock.acquire", "sys.stdin.readline(); lock.acquire")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert said.count("held\n") == 1
