"""From the tables of a STAR file to its text, quoted where a value needs it."""

import re
from collections.abc import Sequence

from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.io.star_tables import StarFile, StarTable, as_strings

_NEEDS_QUOTES = re.compile(r"""(?m)^(?:$|[_#;"']|(?i:data_|loop_|save_|stop_|global_))|[ \t\v\f\r]""")


def to_text(star: StarFile | Sequence[StarTable]) -> str:
    """Return the text of a STAR file.

    Raises
    ------
    InputError
        A value holds a line break, or both kinds of quotes beside spaces.
    """
    tables = star.tables if isinstance(star, StarFile) else tuple(star)
    closing = star.closing_comments if isinstance(star, StarFile) else ()
    pieces: list[str] = []
    for table in tables:
        _write_table(table, pieces)
    pieces.extend(f"{text}\n" for text in closing)
    return "".join(pieces)


def _write_table(table: StarTable, pieces: list[str]) -> None:
    above: dict[tuple[str, int], list[str]] = {}
    beside: dict[tuple[str, int], str] = {}
    for comment in table.comments:
        if comment.inline:
            beside[comment.place, comment.index] = " " + comment.text
        else:
            above.setdefault((comment.place, comment.index), []).append(comment.text + "\n")

    def lead(place: str, index: int = 0) -> None:
        pieces.extend(above.get((place, index), ()))

    pieces.append("\n")
    if table.opens_block:
        lead("block")
        pieces.append(f"data_{table.name}{beside.get(('block', 0), '')}\n\n")
    if table.is_loop and table.columns:
        lead("loop")
        pieces.append(f"loop_{beside.get(('loop', 0), '')}\n")
    values = [_quoted(label, column) for label, column in table.columns.items()]
    width = max((len(label) for label in table.columns), default=0) + 2
    for number, label in enumerate(table.columns):
        lead("label", number)
        mark = beside.get(("label", number), f" #{number + 1}" if table.numbered else "")
        if table.is_loop:
            pieces.append(f"_{label}{mark}\n")
        else:
            mark = beside.get(("label", number), "")
            pieces.append(f"_{label:<{width}} {values[number][0]}{mark}\n")
    if table.is_loop:
        if any(place == "row" for place, _ in (*above, *beside)):
            for row, line in enumerate(zip(*values, strict=True)):
                lead("row", row)
                pieces.append(" ".join(line) + beside.get(("row", row), "") + "\n")
        elif len(table):
            pieces.append("\n".join(map(" ".join, zip(*values, strict=True))) + "\n")
    pieces.append("\n")


def _quoted(label: str, column: NDArray) -> list[str]:
    values: list[str] = as_strings(column).tolist()
    joined = "\n".join(values)
    if joined.count("\n") != max(len(values) - 1, 0):
        wrong = next(value for value in values if "\n" in value)
        raise InputError(f"A value of _{label} must be a text without line breaks; got {wrong!r}; remove them.")
    if values and _NEEDS_QUOTES.search(joined):
        return [_quote(label, value) if _NEEDS_QUOTES.search(value) else value for value in values]
    return values


def _quote(label: str, value: str) -> str:
    for mark in ('"', "'"):
        if not re.search(mark + r"(?=\s|$)", value, re.ASCII):
            return mark + value + mark
    raise InputError(
        f"A value of _{label} must not hold both kinds of quotes beside spaces; got {value!r}; drop one kind."
    )
