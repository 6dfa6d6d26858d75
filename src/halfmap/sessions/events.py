"""`EventBus`: what happens in a session, numbered, for whoever watches; the newest ones stay in memory."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT = 2000


class EventBus:
    """Numbered events of which the newest are kept, safe to use from several threads.

    Parameters
    ----------
    first : number of the first event; growing over restarts where the journal's number is taken.
    """

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._changed = threading.Condition()

    @property
    def sequence(self) -> int:
        """Number of the last event."""
        return self._next - 1

    def publish(self, kind: str, **values: Any) -> int:
        """Add an event, wake whoever waits, and return its number."""
        with self._changed:
            number = self._next
            self._events.append({"seq": number, "type": kind, **values})
            self._next += 1
            self._changed.notify_all()
            return number

    def since(self, number: int) -> list[Mapping[str, Any]] | None:
        """Return the events numbered above; None where some of them are forgotten, so that all must be read anew."""
        with self._changed:
            if number >= self._next:  # of an earlier run of the program
                return None
            oldest = self._events[0]["seq"] if self._events else self._next
            if number < oldest - 1:
                return None
            return [event for event in self._events if event["seq"] > number]

    def wait(self, number: int, timeout_seconds: float) -> bool:
        """Wait for an event numbered above; tell whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self.sequence > number, timeout_seconds)
