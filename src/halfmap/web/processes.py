"""`JobProcesses`: jobs that a server has started, each in a process and process group of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfmap.web.hub import Hub

KILL_SECONDS = 10.0
_MOST_KEPT = 100
_MOST_WORDS = 4000
_OPTIONS = ("devices", "workers", "threads", "memory")


class Attempt:
    """A job that was asked for.

    Parameters
    ----------
    number : among those of this server.
    command : of the job.
    process : that runs it.
    """

    def __init__(self, number: int, command: str, process: subprocess.Popen[str]) -> None:
        self.number, self.command, self.process = number, command, process
        self.said = ""

    def to_json(self) -> dict[str, Any]:
        """Return how it stands."""
        code = self.process.poll()
        state = "running" if code is None else "ended" if code == 0 else "refused" if code == 2 else "failed"
        return {
            "attempt": self.number,
            "command": self.command,
            "pid": self.process.pid,
            "state": state,
            "said": self.said,
        }


class JobProcesses:
    """Jobs that a server has started.

    Parameters
    ----------
    hub : hears when one begins and ends.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._attempts: list[Attempt] = []
        self._locked = threading.Lock()
        self._number = 0

    def start(
        self, project: Path, command: str, values: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Start a job; what its process says of mistakes is kept.

        Parameters
        ----------
        values, options : parameters and run options, as JSON holds them.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "halfmap.web.job_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=project,
            text=True,
            start_new_session=True,
        )
        if process.stdin is None:
            raise AssertionError("the pipe was asked for")
        with process.stdin as stream:
            kept = {name: value for name, value in options.items() if name in _OPTIONS and value is not None}
            json.dump({"command": command, "values": dict(values), "options": kept}, stream)
        with self._locked:
            self._number += 1
            attempt = Attempt(self._number, command, process)
            self._attempts = [*self._attempts[-_MOST_KEPT:], attempt]
        threading.Thread(target=self._wait, args=(attempt,), daemon=True).start()
        self._hub.publish("jobs")
        return attempt.to_json()

    def listing(self) -> list[dict[str, Any]]:
        """Return the jobs that were asked for, the newest first."""
        return [one.to_json() for one in reversed(self._attempts)]

    def _wait(self, attempt: Attempt) -> None:
        _, said = attempt.process.communicate()
        attempt.said = (said or "")[-_MOST_WORDS:].strip()
        self._hub.publish("jobs")


def end_process(pid: int) -> None:
    """Interrupt a process as a terminal would, and end it where it does not end by itself within 10 s."""
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + KILL_SECONDS
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
