"""`Audit`: who did what, as JSON lines."""

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Audit:
    """A file that is only appended to.

    Parameters
    ----------
    path : of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locked = threading.Lock()

    def note(self, who: str, what: str, **values: Any) -> None:
        """Append one line."""
        entry = {"time": datetime.now(tz=UTC).isoformat(timespec="milliseconds"), "who": who, "what": what, **values}
        with self._locked, open(self._path, "a", encoding="utf-8", opener=_private) as stream:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
