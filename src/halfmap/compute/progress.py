"""How far the work has come, told from wherever it happens.

A step is given a `Progress` and calls it. A task that an executor runs elsewhere asks `task_progress()`
instead: what it says there is gathered in a `TaskReport`, travels with the executor's own messages and
reaches the caller's `Progress` in the caller's thread.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

REPORT_INTERVAL_SECONDS = 0.1


class Progress(Protocol):
    """What a step tells about its advance; the command line draws it, the web sends it on, tests record it."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a new count up to ``total``, or without a known end."""

    def advance(self, n: int = 1) -> None:
        """Add ``n`` to the count."""

    def message(self, text: str) -> None:
        """Say one line to whoever watches."""


class SilentProgress:
    """A `Progress` that keeps quiet."""

    def start(self, label: str, total: int | None) -> None:
        """Ignore the start of a count."""

    def advance(self, n: int = 1) -> None:
        """Ignore an advance."""

    def message(self, text: str) -> None:
        """Ignore a message."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskReport:
    """What one run of a task has told so far.

    Counts are since the task's start, so a report that is lost, repeated or sent by a second try of the
    same task does no harm.

    Parameters
    ----------
    advanced : sum of all advances.
    messages : all messages in their order.
    losses : one sentence for each worker that was lost with the task so far.
    """

    advanced: int
    messages: tuple[str, ...]
    losses: tuple[str, ...] = ()


NOTHING_TOLD = TaskReport(advanced=0, messages=())


class ReportingProgress:
    """The `Progress` of a running task: it gathers, and sends a report on from time to time.

    Parameters
    ----------
    send : takes a report, where reports can be sent while the task runs.

    Notes
    -----
    ``start`` is not passed on: a watcher sees the count of the whole, not one for every chunk.
    """

    def __init__(self, send: Callable[[TaskReport], None] | None = None) -> None:
        self._send = send
        self._sent_at = time.monotonic()
        self._advanced = 0
        self._messages: list[str] = []

    def start(self, label: str, total: int | None) -> None:
        """Ignore the start of a count within a task."""

    def advance(self, n: int = 1) -> None:
        """Add ``n`` to what the task has advanced."""
        self._advanced += n
        self._send_if_due()

    def message(self, text: str) -> None:
        """Keep a message for the caller."""
        self._messages.append(text)
        self._send_if_due()

    def report(self) -> TaskReport:
        """Return all that was told so far."""
        return TaskReport(advanced=self._advanced, messages=tuple(self._messages))

    def _send_if_due(self) -> None:
        now = time.monotonic()
        if self._send is not None and now - self._sent_at >= REPORT_INTERVAL_SECONDS:
            self._sent_at = now
            self._send(self.report())


class ReportLedger:
    """The caller's side of a task's reports: passes on only what is new."""

    def __init__(self) -> None:
        self._advanced = 0
        self._n_messages = self._n_losses = 0

    def pass_on(self, report: TaskReport, progress: Progress) -> None:
        """Tell ``progress`` what this report adds to the ones before it."""
        if report.advanced > self._advanced:
            progress.advance(report.advanced - self._advanced)
            self._advanced = report.advanced
        for text in report.messages[self._n_messages :]:
            progress.message(text)
        self._n_messages = max(self._n_messages, len(report.messages))
        for text in report.losses[self._n_losses :]:
            progress.message(text)
        self._n_losses = max(self._n_losses, len(report.losses))


_SILENT = SilentProgress()
_task_progress: ContextVar[Progress] = ContextVar("task_progress", default=_SILENT)


def task_progress() -> Progress:
    """Return the progress that the running task may tell; a silent one outside of any task."""
    return _task_progress.get()


@contextmanager
def reporting_to(progress: Progress) -> Iterator[None]:
    """Make ``progress`` the one that `task_progress` returns within the block."""
    token = _task_progress.set(progress)
    try:
        yield
    finally:
        _task_progress.reset(token)
