"""Where the pages of a TIFF file lie: its chain of directories walked to the end, so that a cut one is noticed."""

import struct
from pathlib import Path
from typing import IO

from halfmap.errors import FormatError, InputError

_CLASSIC, _BIG = 42, 43
_MOST_PAGES = 1_000_000


def page_offsets(path: str | Path) -> list[int]:
    """Return where each page's directory lies.

    Raises
    ------
    InputError
        There is no such file.
    FormatError
        The file is no TIFF, or is cut off: a directory lies beyond its end.

    Notes
    -----
    Movies are written page by page as they are taken, so one that is cut off looks like a whole one with fewer
    frames to readers that stop where the chain does.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            return _walk(path, stream, path.stat().st_size)
    except FileNotFoundError as error:
        raise InputError(f"{path} must be a TIFF or EER file; got no such file; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} must be readable; got '{error.strerror}'; check path and permissions.") from error


def truncated(path: Path, page: int, n_bytes: int) -> FormatError:
    """Return the error of a file that ends before a page does; pages count from 0."""
    return FormatError(
        path,
        expected=f"frame {page + 1} as its directory promises",
        found=f"the end of the file after {n_bytes} bytes",
        remedy="the movie is truncated: copy or write it again",
    )


def _walk(path: Path, stream: IO[bytes], n_bytes: int) -> list[int]:
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) == 16 else 0
    if version not in (_CLASSIC, _BIG):
        raise FormatError(path, expected="a TIFF file", found="other bytes", remedy="check that this is a TIFF or EER")
    count, entry, pointer = ("Q", 20, "Q") if version == _BIG else ("H", 12, "I")
    next_page = struct.unpack(f"{order}{pointer}", head[8:16] if version == _BIG else head[4:8])[0]
    offsets: list[int] = []
    while next_page and len(offsets) < _MOST_PAGES:
        stream.seek(next_page)
        raw = stream.read(struct.calcsize(count))
        if len(raw) < struct.calcsize(count):
            raise truncated(path, len(offsets), n_bytes)
        stream.seek(struct.unpack(f"{order}{count}", raw)[0] * entry, 1)
        raw = stream.read(struct.calcsize(pointer))
        if len(raw) < struct.calcsize(pointer):
            raise truncated(path, len(offsets), n_bytes)
        offsets.append(next_page)
        next_page = struct.unpack(f"{order}{pointer}", raw)[0]
    return offsets
