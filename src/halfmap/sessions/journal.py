"""The journal of a session: what happened, in order, one line each; and snapshots of what followed from it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfmap.errors import ProjectError

SCHEMA = 1
JOURNAL = "journal.jsonl"
SNAPSHOTS = ("snapshot.json", "snapshot.previous.json")
KEPT_EVENTS = 10_000


class Journal:
    """Events as JSON lines with a growing number; each is on the disc before the call returns.

    Parameters
    ----------
    folder : of the session.

    Notes
    -----
    A line cut short by a kill is passed over, and the next event begins on a line of its own. Of events that a
    snapshot and the one before it hold already, the newest 10,000 are kept, so that the file stays short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL
        numbers = [event["seq"] for event in self._events()]
        self._forgotten = min(numbers, default=1) - 1
        self._sequence = max(numbers, default=0)
        self._sequence = max(self._sequence, *(snapshot_of(folder / name)[0] for name in SNAPSHOTS))

    @property
    def sequence(self) -> int:
        """Number of the last event; 0 before the first."""
        return self._sequence

    def append(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write an event and return it with its number.

        Raises
        ------
        ProjectError
            It cannot be written; nothing of it remains then.
        """
        numbered = {"seq": self._sequence + 1, **event}
        line = json.dumps(numbered, ensure_ascii=False).encode()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                data = (b"\n" if torn else b"") + line + b"\n"
                try:
                    if os.write(descriptor, data) != len(data):
                        raise OSError(28, "No space left on device")
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ProjectError(
                f"{self._path} must be writable; got '{error.strerror}'; free space on the disk or mend the rights."
            ) from error
        self._sequence += 1
        return numbered

    def replay(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the events numbered above ``after``."""
        return [event for event in self._events() if event["seq"] > after]

    def save_snapshot(self, state: Mapping[str, Any]) -> None:
        """Keep what follows from all events so far, and the snapshot before it; forget events that are older than both.

        Raises
        ------
        ProjectError
            It cannot be written; the journal still holds everything.
        """
        newest, previous = (self._folder / name for name in SNAPSHOTS)
        before, _ = snapshot_of(newest)
        text = json.dumps({"schema": SCHEMA, "seq": self._sequence, "state": state}, ensure_ascii=False)
        try:
            if before:
                _replace(previous, newest.read_bytes())
            _replace(newest, text.encode() + b"\n")
            first_kept = min(before, self._sequence - KEPT_EVENTS)
            if first_kept <= self._forgotten + KEPT_EVENTS // 2:
                return
            self._forgotten = first_kept
            kept = [event for event in self._events() if event["seq"] > first_kept]
            _replace(self._path, b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in kept))
        except OSError as error:
            raise ProjectError(
                f"{newest} must be writable; got '{error.strerror}'; free space on the disk or mend its permissions."
            ) from error

    def newest_snapshot(self) -> tuple[int, dict[str, Any]]:
        """Return number and state of the newest snapshot that is whole; 0 and nothing where there is none."""
        found = [snapshot_of(self._folder / name) for name in SNAPSHOTS]
        return max(found, key=lambda one: one[0])

    def _events(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = (_parsed(line) for line in lines if line.strip())
        return [event for event in found if event is not None]


def snapshot_of(path: Path) -> tuple[int, dict[str, Any]]:
    """Return number and state of a snapshot; 0 and nothing where it is missing, broken or of another schema."""
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] == SCHEMA and isinstance(content["state"], dict):
            return int(content["seq"]), content["state"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, {}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("seq"), int) else None


def _replace(path: Path, data: bytes) -> None:
    """Write a file by rename, on the disc with its folder's entry when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
