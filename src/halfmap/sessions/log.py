"""`SessionLog`: the lines of a session's ``log.txt``, read by offset."""

import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path

LAST_LINES = 1000
_MOST_BYTES = 1 << 20
_ROTATED_BYTES = 16 << 20


class SessionLog:
    """A log file that is appended to line by line, and begun anew when it has grown long.

    Parameters
    ----------
    path : the file; the one before it is kept with the ending ``.1``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Append a dated entry; a full disk is told of elsewhere."""
        text_of_lines = "\n    ".join(text.splitlines())
        with self._lock, suppress(OSError):
            if self.path.exists() and self.path.stat().st_size > _ROTATED_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            with open(self.path, "a", encoding="utf-8", errors="replace") as stream:
                stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text_of_lines}\n")

    def read(self, offset: int = -1) -> tuple[str, int]:
        """Return the text from an offset in bytes on, at most 1 MiB of whole lines, and the next offset.

        Parameters
        ----------
        offset : -1: the last 1,000 lines; beyond the end: from the beginning, since the file is a new one.
        """
        try:
            with open(self.path, "rb") as stream:
                size = stream.seek(0, 2)
                start = max(0, size - _MOST_BYTES) if offset < 0 else offset if offset <= size else 0
                stream.seek(start)
                data = stream.read(_MOST_BYTES)
        except OSError:
            return "", 0
        data = data[: data.rfind(b"\n") + 1]
        end = start + len(data)
        if offset < 0:
            data = b"".join(data.splitlines(keepends=True)[-LAST_LINES:])
        return data.decode("utf-8", errors="replace"), end
