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

from halfmap.errors import JobFailed
from halfmap.project import lock
from halfmap.project.folder import job_folders
from halfmap.web.hub import Hub

KILL_SECONDS = 10.0
START_SECONDS = 30.0
_LOOK_SECONDS = 0.2
_NEWEST = 20
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
        self.job: str | None = None
        self.ended = threading.Event()

    def to_json(self) -> dict[str, Any]:
        """Return how it stands."""
        code = self.process.poll()
        state = "running" if code is None else "ended" if code == 0 else "refused" if code == 2 else "failed"
        return {
            "attempt": self.number,
            "command": self.command,
            "job": self.job,
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
        """Start a job, and wait up to 30 s until it has its folder or has ended.

        Parameters
        ----------
        values, options : parameters and run options, as JSON holds them.

        Raises
        ------
        JobFailed
            It has ended without its result; its process says why.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "halfmap.web.job_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project,
            text=True,
            start_new_session=True,
        )
        kept = {name: value for name, value in options.items() if name in _OPTIONS and value is not None}
        asked = json.dumps({"command": command, "values": dict(values), "options": kept})
        with self._locked:
            self._number += 1
            attempt = Attempt(self._number, command, process)
            self._attempts = [*self._attempts[-_MOST_KEPT:], attempt]
        threading.Thread(target=self._wait, args=(attempt, project, asked), daemon=True).start()
        end = time.monotonic() + START_SECONDS
        while attempt.job is None and time.monotonic() < end and not attempt.ended.wait(_LOOK_SECONDS):
            attempt.job = _job_of(project, process.pid)
        self._hub.publish("jobs")
        shown = attempt.to_json()
        if shown["state"] in ("refused", "failed"):
            raise JobFailed(attempt.said or f"The job ended with {process.returncode}; look into its run.log.")
        return shown

    def listing(self) -> list[dict[str, Any]]:
        """Return the jobs that were asked for, the newest first."""
        return [one.to_json() for one in reversed(self._attempts)]

    def _wait(self, attempt: Attempt, project: Path, asked: str) -> None:
        folder, said = attempt.process.communicate(asked)
        attempt.said = (said or "")[-_MOST_WORDS:].strip()
        if folder.strip():
            attempt.job = Path(folder.strip()).relative_to(project).as_posix()
        attempt.ended.set()
        self._hub.publish("jobs")


def _job_of(project: Path, pid: int) -> str | None:
    """Return the newest job that a process runs; None where it has none yet."""
    for job in reversed(job_folders(project)[-_NEWEST:]):
        holder = lock.holder(job.path)
        if holder is not None and holder.pid == pid:
            return job.path.relative_to(project).as_posix()
    return None


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
