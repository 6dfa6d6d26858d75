"""Events of a project as JSON lines with a growing number, and the progress of a job.

The file ``.halfmap/events.jsonl`` is only ever appended to; several jobs may write at once.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

_TAIL_BYTES = 1 << 16
_PROGRESS_SECONDS = 2.0


class Display(Protocol):
    """Where a person watches a job's progress."""

    def update(self, label: str, done: int, total: int | None) -> None:
        """Show how far the job is."""
        ...

    def message(self, text: str) -> None:
        """Show a line of text."""
        ...


def append_event(project: Path, kind: str, **values: Any) -> int:
    """Append one event and return its number, 1 + that of the event before it.

    Parameters
    ----------
    project : the project's folder.
    kind : what happened: ``started``, ``progress``, ``message``, ``finished``, ``failed``, ``aborted``.
    values : what else is to be known of it.
    """
    path = project / ".halfmap" / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
        number = 1 + _last_number(tail)
        event = {"number": number, "time": time.time(), "event": kind, **values}
        start = b"" if not tail or tail.endswith(b"\n") else b"\n"
        stream.write(start + json.dumps(event, ensure_ascii=False).encode() + b"\n")
        stream.flush()
    return number


def read_events(project: Path, *, after: int = 0) -> list[dict[str, Any]]:
    """Return the events numbered above ``after``; a line cut short by a kill is passed over."""
    path = project / ".halfmap" / "events.jsonl"
    if not path.exists():
        return []
    events = (_parsed(line) for line in path.read_bytes().splitlines())
    return [event for event in events if event is not None and event["number"] > after]


def recent_events(project: Path) -> list[dict[str, Any]]:
    """Return the newest events, those of the last 64 KiB: enough to see what goes on now, however long the file is."""
    try:
        with open(project / ".halfmap" / "events.jsonl", "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return []
    return [event for event in map(_parsed, lines) if event is not None]


def _last_number(tail: bytes) -> int:
    for line in reversed(tail.splitlines()):
        event = _parsed(line)
        if event is not None:
            return int(event["number"])
    return 0


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "number" in event else None


class JobProgress:
    """The progress of one job: to the display at every step, to the log at each message, to the events now and then.

    Parameters
    ----------
    emit : appends an event.
    log : writes a line into ``run.log``.
    display : where a person watches; None for nobody.
    """

    def __init__(self, *, emit: Callable[..., Any], log: Callable[[str], None], display: Display | None = None) -> None:
        self._emit = emit
        self._log = log
        self._display = display
        self._label = ""
        self._done = 0
        self._total: int | None = None
        self._last_event = 0.0

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps."""
        self._label, self._done, self._total = label, 0, total
        self._log(f"{label}: {total} to do" if total is not None else label)
        self._last_event = 0.0
        self._show()

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more steps as done."""
        self._done += n
        self._show()

    def message(self, text: str) -> None:
        """Say something to the person who watches."""
        self._log(text)
        self._emit("message", text=text)
        if self._display is not None:
            self._display.message(text)

    def _show(self) -> None:
        if self._display is not None:
            self._display.update(self._label, self._done, self._total)
        now = time.monotonic()
        if now - self._last_event >= _PROGRESS_SECONDS or self._done == self._total:
            self._last_event = now
            self._emit("progress", label=self._label, done=self._done, total=self._total)
