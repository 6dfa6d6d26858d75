"""A server that is started again whenever it has been killed, and its one session."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfmap.errors import HalfmapError
from halfmap.sessions import store
from halfmap.sessions.journal import JOURNAL
from halfmap.web.client import LiveClient
from support.quick_processes import Forking

SECONDS = 600.0


class QuickServer:
    """A server of the session of ``data/acquisition`` in a project.

    Parameters
    ----------
    forking : starts it.
    project : its folder.
    """

    def __init__(self, forking: Forking, project: Path) -> None:
        self.forking, self.project = forking, project
        self._events: list[dict[str, Any]] = []
        self._size = -1
        (project / ".halfmap").mkdir(parents=True, exist_ok=True)
        self.start()
        self.session = str(self.client.open("data", "acquisition")["id"])
        self.work = project / "Live" / self.session

    def start(self) -> None:
        """Start it."""
        self.process = self.forking.server(
            self.project, root=[str(self.project / "data")], port=0, devices="cpu", workers=1, poll_seconds=0.3,
            force=True,
        )  # fmt: skip
        line = self.process.stdout.readline().decode()
        assert "is at http" in line, self.process.stderr.read().decode()
        self.client = LiveClient(line.split("is at ")[1].strip())

    def kill_server(self) -> None:
        """Kill it, and start another."""
        self.process.close()
        self.start()

    def kill_worker(self) -> None:
        """Kill the process that computes."""
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
        """Return how many jobs have ended."""
        return sum(one["event"] == "finished" for one in self.events())

    def is_in(self, phase: str) -> bool:
        """Tell whether a phase is the last thing in the journal."""
        return bool(self.events()[-1].get("phase") == phase)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that processes bring about, and return it."""
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
