"""What a person sees while a job runs: one live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TextIO

_PLAIN_SECONDS = 5.0
_LIVE_SECONDS = 0.1


def complain(text: str) -> None:
    """Write one paragraph to the standard error stream."""
    print(f"halfmap: {' '.join(text.split())}", file=sys.stderr)


class LiveDisplay:
    """Progress on the standard error stream, so that the standard output holds results alone.

    Parameters
    ----------
    stream : where to write; the standard error stream where left out.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._label = ""
        self._began = 0.0
        self._shown = 0.0
        self._is_open = False

    def __enter__(self) -> "LiveDisplay":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_line()

    def update(self, label: str, done: int, total: int | None) -> None:
        """Show how far a stage is, unless that was shown a moment ago."""
        now = time.monotonic()
        if label != self._label:
            self._end_line()
            self._label, self._began, self._shown = label, now, 0.0
        finished = total is not None and done >= total
        if now - self._shown < (_LIVE_SECONDS if self._live else _PLAIN_SECONDS) and not finished:
            return
        self._shown = now
        text = line_of(label, done, total, now - self._began)
        if self._live:
            self._stream.write(f"\r\x1b[2K{text}")
            self._is_open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def message(self, text: str) -> None:
        """Show a line that stays."""
        self._end_line()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _end_line(self) -> None:
        if self._is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._is_open = False


def line_of(label: str, done: int, total: int | None, seconds: float) -> str:
    """Return one line of progress: label, bar, counts and the time that is left."""
    if total is None:
        return f"{label}: {done}, {_clock(seconds)}"
    if total == 0:
        return f"{label}: nothing to do"
    filled = 20 * min(done, total) // total
    bar = "█" * filled + "░" * (20 - filled)
    if done >= total:
        return f"{label} {bar} {done}/{total}, took {_clock(seconds)}"
    left = f", {_clock(seconds * (total - done) / done)} left" if done else ""
    return f"{label} {bar} {done}/{total}{left}"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
