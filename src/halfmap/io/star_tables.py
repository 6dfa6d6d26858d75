"""The tables of a STAR file, as text, until somebody asks for numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError, InputError


@dataclass(frozen=True, kw_only=True)
class Comment:
    """A comment and its place in a table.

    Parameters
    ----------
    text : with its leading ``#``.
    place : before or beside the block's ``data_`` line, the ``loop_`` line, a label or a row.
    index : number of the label or row, from 0.
    inline : whether it stands at the end of that line; else on a line of its own before it.
    """

    text: str
    place: Literal["block", "loop", "label", "row"]
    index: int = 0
    inline: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StarTable:
    """One loop or list of a STAR file, as text.

    Parameters
    ----------
    name : the block's name without ``data_``; may be empty.
    columns : label without its leading underscore → values, shape (n,), in the file's order. Any array
        or sequence of text is taken; ASCII is kept as bytes, which needs a fraction of the memory.
    is_loop : whether it is written as a loop; a list has exactly one value for each label.
    numbered : whether labels are written with their number (``#3``).
    comments : in the order in which they stand.
    opens_block : False for a further loop or list in the block of the table before it.
    path, lines : the file and the 1-based line of each row, for messages.
    """

    name: str
    columns: Mapping[str, NDArray]
    is_loop: bool = True
    numbered: bool = True
    comments: tuple[Comment, ...] = ()
    opens_block: bool = True
    path: Path | None = None
    lines: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        columns = {bare_label(label): compact_text(values) for label, values in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise InputError(f"The columns of table {self.name!r} must have one length; got {sorted(lengths)}.")
        if not self.is_loop and columns and lengths != {1}:
            raise InputError(f"List {self.name!r} must have one value for each label; got {lengths.pop()}.")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str) and bare_label(label) in self.columns

    def __getitem__(self, label: str) -> NDArray[np.object_]:
        return self.text(label)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels without their leading underscore, in order."""
        return tuple(self.columns)

    def raw(self, label: str) -> NDArray:
        """Return a column as it is kept: bytes (ASCII) or Python strings, shape (n,).

        Raises
        ------
        FormatError
            The table has no such column.
        """
        try:
            return self.columns[bare_label(label)]
        except KeyError:
            raise FormatError(
                self.path or "STAR table",
                expected=f"the column _{bare_label(label)} in table data_{self.name}",
                found=f"{', '.join('_' + known for known in self.columns) or 'no column'}",
                remedy="add the column or choose the file that has it",
            ) from None

    def text(self, label: str) -> NDArray[np.object_]:
        """Return a column as Python strings, shape (n,)."""
        return as_strings(self.raw(label))

    def numbers(self, label: str) -> NDArray[np.float64]:
        """Return a column as numbers, shape (n,).

        Raises
        ------
        FormatError
            A value is not a number; the message names its line.
        """
        values = self.raw(label)
        try:
            return values.astype(np.float64)
        except (ValueError, TypeError):
            pass
        numbers = np.empty(len(values))
        for row, text in enumerate(as_strings(values)):
            try:
                numbers[row] = float(text)
            except ValueError:
                raise self.error(
                    row, expected=f"a number in column _{bare_label(label)}", found=repr(text), remedy="mend the value"
                ) from None
        return numbers

    def integers(self, label: str) -> NDArray[np.int64]:
        """Return a column as whole numbers, shape (n,); ``1.000000`` counts as whole.

        Raises
        ------
        FormatError
            A value is not a whole number; the message names its line.
        """
        values = self.raw(label)
        try:
            return values.astype(np.int64)
        except (ValueError, TypeError, OverflowError):
            numbers = self.numbers(label)
        wrong = np.flatnonzero(~(np.abs(numbers) < 2**53) | (numbers != np.rint(numbers)))
        if len(wrong):
            row = int(wrong[0])
            raise self.error(
                row,
                expected=f"a whole number in column _{bare_label(label)}",
                found=repr(as_strings(values[row : row + 1])[0]),
                remedy="mend the value",
            )
        return numbers.astype(np.int64)

    def value(self, label: str) -> str:
        """Return the one value of a label of a list (or of a loop with one row).

        Raises
        ------
        InputError
            The table has another number of rows than one.
        """
        values = self.text(label)
        if len(values) != 1:
            raise InputError(f"Table {self.name!r} must have one row; got {len(values)}; use text() for several.")
        return str(values[0])

    def error(self, row: int, *, expected: str, found: str, remedy: str = "") -> FormatError:
        """Return the error about one row, naming file and line."""
        line = int(self.lines[row]) if self.lines is not None and row < len(self.lines) else None
        if line is None:
            expected = f"{expected}, row {row + 1}"
        return FormatError(self.path or "STAR table", expected=expected, found=found, line=line, remedy=remedy)


@dataclass(frozen=True, kw_only=True, eq=False)
class StarFile:
    """The tables of a STAR file, in order.

    Parameters
    ----------
    tables : in the file's order.
    path : where it was read from.
    closing_comments : comment lines after the last row.
    """

    tables: tuple[StarTable, ...]
    path: Path | None = None
    closing_comments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tables)

    def __iter__(self) -> Iterator[StarTable]:
        return iter(self.tables)

    def __contains__(self, name: object) -> bool:
        return any(table.name == name for table in self.tables)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(table.name for table in self.tables)

    def __getitem__(self, name: str) -> StarTable:
        for table in self.tables:
            if table.name == name:
                return table
        raise FormatError(
            self.path or "STAR file",
            expected=f"a block data_{name}",
            found=", ".join(f"data_{known}" for known in self.names) or "no block",
            remedy="choose the file that has it",
        )


def bare_label(label: str) -> str:
    """Return a label without its leading underscore."""
    return label[1:] if label.startswith("_") else label


def compact_text(values: "NDArray | Sequence[str]") -> NDArray:
    """Return text as an array of bytes where it is ASCII, else of Python strings.

    Raises
    ------
    InputError
        The values have more than one dimension.
    """
    array = values if isinstance(values, np.ndarray) else np.array(list(values), dtype=object)
    if array.ndim != 1:
        raise InputError(f"A column of a STAR table must have one dimension; got shape {array.shape}.")
    if array.dtype.kind == "S":
        return array
    try:
        return array.astype("S") if len(array) else array.astype("S1")
    except UnicodeEncodeError:
        return array.astype(str).astype(object)


def as_strings(values: NDArray) -> NDArray[np.object_]:
    """Return bytes or any text as an array of Python strings; equal neighbours share one object."""
    if values.dtype.kind == "S":
        values = values.astype(str)
    return values.astype(object)


def with_version(table: StarTable, version: int = 30001) -> StarTable:
    """Return a table with the comment by which RELION tells its layouts apart."""
    if any(comment.place == "block" and comment.text.startswith("# version") for comment in table.comments):
        return table
    return replace(table, comments=(Comment(text=f"# version {version}", place="block"), *table.comments))
