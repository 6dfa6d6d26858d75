"""`Hub`: one numbered stream of everything that happens, for any number of clients.

Clients keep no queue of their own: each asks the bus for what came after the last event it has, so a slow one costs no
memory; one that falls behind what the bus remembers is dropped.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from halfmap.sessions.events import EventBus
from halfmap.sessions.session import Session

HEARTBEAT_SECONDS = 15.0
MOST_CLIENTS = 200
_LISTEN_SECONDS = 1.0


class Hub:
    """One numbered stream of events of all sessions and jobs."""

    def __init__(self) -> None:
        self._bus = EventBus(first=time.time_ns() // 1_000_000)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: set[asyncio.Event] = set()
        self.dropped = 0
        self._listeners: dict[str, tuple[threading.Event, threading.Thread]] = {}

    @property
    def sequence(self) -> int:
        """Number of the last event."""
        return self._bus.sequence

    @property
    def n_clients(self) -> int:
        """Clients that listen now."""
        return len(self._changed)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop in which clients are served."""
        self._loop = loop

    def publish(self, kind: str, **values: Any) -> None:
        """Add an event, from any thread."""
        self._bus.publish(kind, **values)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def hear(self, session: Session) -> None:
        """Pass on the events of a session until `forget`."""
        ended = threading.Event()
        thread = threading.Thread(target=self._pass_on, args=(session, ended), name=f"hub {session.id}", daemon=True)
        self._listeners[session.id] = (ended, thread)
        thread.start()

    def forget(self, identity: str) -> None:
        """Stop passing on the events of a session."""
        ended, thread = self._listeners.pop(identity, (None, None))
        if ended is not None and thread is not None:
            ended.set()
            thread.join()

    async def follow(self, since: int, session: str | None = None) -> AsyncIterator[dict[str, Any] | None]:
        """Yield the events numbered above, as they come; None where there was none for a while.

        Those of other sessions than the one that is named are left out.

        Where some are forgotten, the first is one of the type ``reset``: what is shown must be read anew. It ends where
        the client has fallen behind what is remembered.
        """
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            if self._bus.since(since) is None:
                since = self._bus.sequence
                yield {"seq": since, "type": "reset"}
            while True:
                changed.clear()
                events = self._bus.since(since)
                if events is None:
                    self.dropped += 1
                    return
                for event in events:
                    since = int(event["seq"])
                    if session is None or event.get("session", session) == session:
                        yield dict(event)
                if not events:
                    try:
                        await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
                    except TimeoutError:
                        yield None
        finally:
            self._changed.discard(changed)

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    def _pass_on(self, session: Session, ended: threading.Event) -> None:
        since = int(session.snapshot(with_plots=False)["seq"])
        while not ended.is_set():
            if not session.wait(since, _LISTEN_SECONDS):
                continue
            events = session.events(since)
            if events is None:
                since = int(session.snapshot(with_plots=False)["seq"])
                self.publish("changed", session=session.id, what="all")
                continue
            for event in events:
                since = int(event["seq"])
                values = {name: value for name, value in event.items() if name not in ("seq", "type")}
                self.publish(str(event["type"]), session=session.id, **values)
