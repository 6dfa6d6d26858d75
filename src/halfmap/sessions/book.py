"""`Book`: what a session remembers, in its journal and its folders, and what it tells."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from halfmap.errors import HalfmapError, InputError
from halfmap.project.parameters import build
from halfmap.sessions import store
from halfmap.sessions.events import EventBus
from halfmap.sessions.journal import Journal
from halfmap.sessions.log import SessionLog
from halfmap.sessions.notifications import NotificationSettings, Sender
from halfmap.sessions.record import Record, applied
from halfmap.sessions.settings import LiveSettings

_SNAPSHOT_EVERY = 50
_NOTICES = 50
_LAST_SAID = 4


class Book:
    """What a session remembers and tells; safe to use from several threads.

    Parameters
    ----------
    work : folder of the session, which nobody else works in.
    name : of the session.
    notifications : whom to tell.
    """

    def __init__(self, work: Path, *, name: str, notifications: NotificationSettings) -> None:
        self.work = work
        self.locked = threading.RLock()
        self.log = SessionLog(work / "log.txt")
        self.journal = Journal(work)
        self.record = _restored(self.journal)
        self.events = EventBus(first=time.time_ns() // 1_000_000)
        self.cycles = store.published(work)
        self.progress: dict[str, Any] | None = None
        self.notices: list[str] = []
        self._sender = Sender(notifications, name, self.log.line)
        self._set_damaged_aside()
        self.note_published()

    @property
    def settings(self) -> LiveSettings:
        """The settings of the job that runs or ran last, or the first guess."""
        return build(LiveSettings, self.record.settings)

    def cycle(self, number: int) -> dict[str, Any]:
        """Return what ``cycle.json`` says of a cycle.

        Raises
        ------
        InputError
            There is no such cycle.
        """
        if not any(one["number"] == number for one in self.cycles):
            raise InputError(
                f"A cycle must be one of those published; got number {number}; ask for the list of cycles."
            )
        return store.read_cycle(self.work, number)

    def cycle_folder(self, number: int) -> Path:
        """Return the folder of a cycle."""
        return store.folder_of(self.work, number)

    def newest_with_particles(self) -> dict[str, Any]:
        """Return the newest cycle whose particles have classes."""
        for one in reversed(self.cycles):
            if one["kind"] != "seed":
                return self.cycle(one["number"])
        raise InputError("A cycle with classified particles must be there; got none yet; wait for the second cycle.")

    def tracks_of(self, number: int, classes: Sequence[int]) -> list[int]:
        """Return the tracks of classes of a cycle, by number from 1."""
        rows = {one["index"]: one["track"] for one in self.cycle(number)["classes"]}
        unknown = [one for one in classes if one not in rows]
        if unknown:
            raise InputError(f"A class must be one of 1 to {len(rows)}; got {unknown[0]}; look at the cycle again.")
        return [int(rows[one]) for one in classes]

    @property
    def last_cycle(self) -> int:
        """Number of the newest cycle, 0 before the first."""
        return int(self.cycles[-1]["number"]) if self.cycles else 0

    def note(self, event: Mapping[str, Any]) -> None:
        """Write an event into the journal, take what follows from it, and tell whoever watches."""
        with self.locked:
            numbered = self.journal.append(event)
            self.record = applied(self.record, numbered)
            self.events.publish("changed", what=event["event"])
            if numbered["seq"] % _SNAPSHOT_EVERY == 0:
                with suppress(HalfmapError):  # the journal holds all
                    self.journal.save_snapshot(self.record.to_json())

    def tell(self, text: str, *, kind: str = "notice") -> None:
        """Say something to people: in the log, in the page's notices, and to those who asked to be notified."""
        self.log.line(text)
        if kind == "notice":
            self.notices = [*self.notices[1 - _NOTICES :], text]
        else:
            self._sender.send(kind, text)
        self.events.publish(kind, text=text)

    def _set_damaged_aside(self) -> None:
        for number in store.set_damaged_aside(self.work, self.cycles):
            self.note({"event": "damaged", "cycle": number, "last_cycle": self.last_cycle})
            self.tell(f"Cycle {number} cannot be read any more; it is set aside in its session's folder.")

    def note_published(self) -> None:
        """Let the journal know of cycles that are published; a kill may have come between."""
        self.cycles = [*self.cycles, *store.published(self.work, after=self.last_cycle)]
        for one in self.cycles:
            if one["number"] > self.record.last_cycle:
                self.note(
                    {
                        "event": "cycle",
                        "cycle": one["number"],
                        "kind": one["kind"],
                        "n_particles": one["particles"],
                        "anew": one["kind"] == "seed",
                        "born": one["born"],
                    }
                )
                self.log.line(f"Cycle {one['number']} ({one['kind']}) is there: {one['particles']:,} particles.")
                for text in one.get("notices", ()):
                    self.tell(text)

    def show(self, progress: dict[str, Any] | None) -> None:
        """Tell how far the cycle is; None: none runs."""
        if progress != self.progress:
            self.progress = progress
            self.events.publish("progress", progress=progress)

    def say_once(self, text: str) -> None:
        """Say something that is not among the last things said: two troubles at once must not fill the log."""
        if text not in self.notices[-_LAST_SAID:]:
            self.tell(text)

    def close_book(self) -> None:
        """Keep a snapshot, and send what waits to be told."""
        with suppress(HalfmapError):  # the journal holds all
            self.journal.save_snapshot(self.record.to_json())
        self._sender.close()


def _restored(journal: Journal) -> Record:
    """Return what follows from the newest snapshot and the events after it."""
    sequence, values = journal.newest_snapshot()
    record = Record.from_json(values)
    for event in journal.replay(after=sequence):
        record = applied(record, event)
    return record
