"""The installed `halfmap` command in a process of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 120


def command() -> str:
    """Return the path of the installed command, that of this environment first."""
    beside = Path(sys.executable).with_name("halfmap")
    found = str(beside) if beside.exists() else shutil.which("halfmap")
    if found is None:
        pytest.skip("the halfmap command is not installed")
    return found


def environment() -> dict[str, str]:
    """Return an environment of one thread, so that tests do not crowd each other."""
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def halfmap(project: Path, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess:
    """Run the command in a project and wait for its end.

    Parameters
    ----------
    before : called in the new process before the command starts.
    """
    return subprocess.run(
        [command(), *words],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=before,
    )


def started(project: Path, *words: str) -> subprocess.Popen:
    """Start the command in a project."""
    return subprocess.Popen(
        [command(), *words],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a process brings about; kill it and fail where it does not."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.002)


def refusal(answer: subprocess.CompletedProcess) -> str:
    """Return the one paragraph in which a command says what the user's mistake was, and check that it is all."""
    assert answer.returncode == 2, answer
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    *before, last = answer.stderr.splitlines()
    assert last.startswith("halfmap: ")
    assert not any(line.startswith("halfmap: ") for line in before)
    return last
