"""STAR files: read without loss, checked line by line, written by rename.

A STAR file is an ordered row of blocks ``data_<name>``; each holds loops (tables) or lists (one value
per label). Values stay text until somebody asks for numbers, so reading and writing a file changes no
value, no order, no comment and no label.
"""

from collections.abc import Sequence
from pathlib import Path

from halfmap.errors import FormatError
from halfmap.io.atomic import replacing
from halfmap.io.star_parser import parse
from halfmap.io.star_tables import Comment, StarFile, StarTable, bare_label, compact_text, with_version
from halfmap.io.star_writer import to_text

__all__ = [
    "Comment",
    "StarFile",
    "StarTable",
    "bare_label",
    "compact_text",
    "parse",
    "read",
    "to_text",
    "with_version",
    "write",
]


def read(path: str | Path) -> StarFile:
    """Read a STAR file.

    Rows are lines: a row with too few or too many values is an error, never padded.

    Returns
    -------
    StarFile
        Everything the file says, as text.

    Raises
    ------
    FormatError
        The file is not STAR; names the line, what was expected, what was found and the remedy.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise FormatError(
            path, expected="a STAR file", found="a folder", remedy="name the file in it that is meant"
        ) from error
    except OSError as error:
        raise FormatError(
            path, expected="a readable STAR file", found=f"'{error.strerror}'", remedy="check the path"
        ) from error
    return parse(data, path)


def write(path: str | Path, star: StarFile | Sequence[StarTable]) -> None:
    """Write a STAR file; it appears under its name when it is complete."""
    text = to_text(star)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())
