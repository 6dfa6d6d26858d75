"""How often a running job draws its page anew."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PAGE_SHARE = 0.1
"""Share of a running job's time that drawing its page may take."""


class PagePace:
    """When the page of a running job is to be drawn.

    Parameters
    ----------
    first_seconds : that drawing it takes, as long as none has been drawn.
    """

    def __init__(self, first_seconds: float) -> None:
        self._drawn_at = time.monotonic()
        self._seconds = first_seconds

    def is_due(self) -> bool:
        """Return whether the last page is so old that another one keeps to its share of the time."""
        return PAGE_SHARE * (time.monotonic() - self._drawn_at) >= self._seconds

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Measure what drawing a page takes."""
        began = time.monotonic()
        yield
        self._drawn_at = time.monotonic()
        self._seconds = self._drawn_at - began
