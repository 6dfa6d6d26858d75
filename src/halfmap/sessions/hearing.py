"""`Hearing`: what the process that computes has said, and what follows where it fails or dies."""

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from halfmap.sessions import plan, store
from halfmap.sessions.book import Book
from halfmap.sessions.child import Child
from halfmap.sessions.notifications import NotificationSettings


class Hearing(Book):
    """A session's book, and the process that computes for it; what it computes, `halfmap.sessions.course` decides.

    Parameters
    ----------
    work, name, notifications : see `Book`.
    """

    def __init__(self, work: Path, *, name: str, notifications: NotificationSettings) -> None:
        super().__init__(work, name=name, notifications=notifications)
        self.woken = threading.Event()
        """Set where there may be something to do before the next look is due."""
        self._child: Child | None = None
        self._said: deque[dict[str, Any]] = deque()
        self._in_flight: int | None = None
        self._retry_at: float | None = None

    def _hear(self) -> None:
        """Take what the child has said; what cannot be written down now is taken again at the next tick."""
        if self._child is None:
            return
        is_alive = self._child.is_alive
        self._said.extend(self._child.messages())
        while self._said:
            self._take(self._said[0])
            self._said.popleft()
        if not is_alive:
            words = self._child.last_words()
            self._child.end()
            self._child = None
            number, self._in_flight = self._in_flight, None
            self.note_published()
            if number is not None and self.last_cycle < number:
                self._fail(f"The process that computes has ended with {words}.")

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["event"]
        if kind == "progress":
            self.show({name: message[name] for name in ("label", "done", "total")})
        elif kind == "phase":
            self.note({"event": "phase", "cycle": message["cycle"], "phase": message["phase"]})
        elif kind == "published":
            self.note_published()
            self._in_flight = None
            self.show(None)
            store.prune(self.work)
            self.events.publish("cycle", number=message["cycle"])
        elif kind == "failed":
            store.remove_parts(self.work)  # what failed may lie in the particles that were drawn
            self._fail(message["reason"])
            self._in_flight = None
        else:
            self.log.line(str(message.get("text", message)))

    def _fail(self, reason: str) -> None:
        self.note({"event": "failed", "reason": reason})
        pause = plan.pause_seconds(self.record.failures) if self.record.state == "failed" else None
        self._retry_at = None if pause is None else time.monotonic() + pause
        again = f" It is tried again in {pause:.0f} s." if pause is not None else ""
        self.tell(f"The job has failed: {reason}{again}", kind="failure")
        self.show(None)

    def _retry(self) -> None:
        if self._retry_at is None and plan.pause_seconds(self.record.failures) is not None:
            self._retry_at = time.monotonic() + (plan.pause_seconds(self.record.failures) or 0.0)  # after a restart
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._retry_at = None
            self.note({"event": "act", "act": "retry"})
