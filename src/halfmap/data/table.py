"""`Table`: named columns of equal length, joined by uid, that remember the text they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from halfmap.errors import InconsistentDataError, InputError, ShapeError

if TYPE_CHECKING:
    import pandas
    import torch

_AXES = ("x", "y", "z")


class ColumnKind(NamedTuple):
    """What a known column holds: its type, and the shape of one row's value (None: any length)."""

    dtype: DTypeLike
    shape: tuple[int | None, ...] = ()


NUMBER = ColumnKind(np.float64)
WHOLE = ColumnKind(np.int64)
TEXT = ColumnKind(np.object_)


@dataclass(frozen=True, kw_only=True, eq=False)
class VerbatimTable:
    """A table of the file that halfmap does not interpret and hands on unchanged.

    Parameters
    ----------
    name : of its block.
    columns : label → text, shape (n,).
    is_loop : whether it is a loop; else a list.
    """

    name: str
    columns: Mapping[str, NDArray]
    is_loop: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Named columns of equal length.

    Known columns (`KNOWN`) have our names and units; any other name is a column of the file, kept as
    text. Columns are read-only: change them by `with_columns`, which forgets their remembered text.

    Parameters
    ----------
    columns : name → array whose first axis is the row.
    remembered : known column → file label → text, shape (n,): what the file said, written back as long
        as the column is not replaced.
    label_order : labels of the file, in order, so that writing keeps it.
    """

    columns: Mapping[str, NDArray]
    remembered: Mapping[str, Mapping[str, NDArray]] = field(default_factory=dict, repr=False)
    label_order: tuple[str, ...] = field(default=(), repr=False)

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {}
    NOUN: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        columns = {name: self._checked(name, values) for name, values in self.columns.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"Columns of a {self.NOUN} must have one length; got {lengths}.")
        self._complete(columns)
        object.__setattr__(self, "columns", columns)

    def _complete(self, columns: dict[str, NDArray]) -> None:
        """Add the columns that every table of this kind has."""

    def _checked(self, name: str, values: ArrayLike) -> NDArray:
        kind = self.KNOWN.get(name)
        array = np.asarray(values)
        if kind is not None:
            array = array.astype(kind.dtype, copy=False)
            expected = (len(array) if array.ndim else -1, *kind.shape)
            fits = array.ndim == len(expected) and all(
                want is None or want == got for want, got in zip(expected, array.shape, strict=True)
            )
            if not fits:
                tail = "".join(f", {want if want is not None else 'k'}" for want in kind.shape)
                raise ShapeError(f"Column {name} must have shape (n{tail or ','}); got {array.shape}.")
        elif array.dtype.kind in "US":
            array = array.astype(str).astype(object)
        if array.ndim == 0:
            raise ShapeError(f"Column {name} must have one value for each row; got a single value.")
        array = array.view()
        array.flags.writeable = False
        return array

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> NDArray:
        try:
            return self.columns[name]
        except KeyError:
            raise InconsistentDataError(
                f"The {self.NOUN} must have the column {name}; got {', '.join(sorted(self.columns)) or 'none'}; "
                "use a table that has it."
            ) from None

    def get(self, name: str, default: ArrayLike) -> NDArray:
        """Return a column, or where the table has none, ``default``: a value for every row or one for each."""
        if name in self.columns:
            return self.columns[name]
        kind = self.KNOWN.get(name, TEXT)
        shape = tuple(1 if side is None else side for side in kind.shape)
        return np.full((len(self), *shape), default, dtype=kind.dtype)

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a copy of a numeric column as a tensor on the CPU."""
        import torch  # here, so that tables without tensors need not wait for it

        return torch.from_numpy(np.array(self[name]))

    def with_columns(self, **arrays: ArrayLike) -> Self:
        """Return the table with columns added or replaced; a single value is repeated for every row.

        Raises
        ------
        ShapeError
            An array has another number of rows.
        """
        columns: dict[str, Any] = dict(self.columns)
        for name, values in arrays.items():
            array = np.asarray(values)
            if array.ndim == 0:
                array = np.full(len(self), values, dtype=object if array.dtype.kind in "US" else None)
            if self.columns and len(array) != len(self):
                raise ShapeError(f"Column {name} must have {len(self)} rows; got {len(array)}.")
            columns[name] = array
        remembered = {name: texts for name, texts in self.remembered.items() if name not in arrays}
        return replace(self, columns=columns, remembered=remembered)

    def without_columns(self, *names: str) -> Self:
        """Return the table without these columns; names it does not have are passed over."""
        return replace(
            self,
            columns={name: values for name, values in self.columns.items() if name not in names},
            remembered={name: texts for name, texts in self.remembered.items() if name not in names},
        )

    def take(self, indices: ArrayLike) -> Self:
        """Return the rows with these indices, or those where a boolean mask is true, in that order.

        Raises
        ------
        ShapeError
            A mask has another number of rows.
        """
        rows = np.asarray(indices)
        if rows.dtype == bool and rows.shape != (len(self),):
            raise ShapeError(f"A mask of rows must have shape ({len(self)},); got {rows.shape}.")
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        return replace(
            self,
            columns={name: values[rows] for name, values in self.columns.items()},
            remembered={
                name: {label: text[rows] for label, text in texts.items()} for name, texts in self.remembered.items()
            },
        )

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """Return the rows of several tables, one after the other.

        Raises
        ------
        InconsistentDataError
            The tables have different columns.
        """
        if not tables:
            raise InputError(f"There must be at least one {cls.NOUN} to join; got none; give one.")
        first = tables[0]
        for number, table in enumerate(tables[1:], start=2):
            different = set(first.columns) ^ set(table.columns)
            if different:
                raise InconsistentDataError(
                    f"Tables that are joined must have the same columns; got {', '.join(sorted(different))} in only "
                    f"one of the first and number {number}; remove or add the columns first."
                )
        columns = {name: _joined([table.columns[name] for table in tables]) for name in first.columns}
        remembered = {}
        for name, texts in first.remembered.items():
            others = [table.remembered.get(name, {}) for table in tables]
            if all(set(other) == set(texts) for other in others):
                remembered[name] = {label: _joined([other[label] for other in others]) for label in texts}
        return replace(first, columns=columns, remembered=remembered)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the columns as a pandas table; vectors become ``_x``, ``_y``, matrices ``_11``, ``_12``…"""
        import pandas  # heavy, and needed only here

        flat: dict[str, NDArray] = {}
        for name, values in self.columns.items():
            if values.ndim == 1:
                flat[name] = values
            elif values.ndim == 2 and values.shape[1] <= len(_AXES):
                flat.update({f"{name}_{axis}": values[:, k] for k, axis in enumerate(_AXES[: values.shape[1]])})
            else:
                for index in np.ndindex(values.shape[1:]):
                    flat[f"{name}_{''.join(str(k + 1) for k in index)}"] = values[(slice(None), *index)]
        return pandas.DataFrame(flat)


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentifiedTable(Table):
    """A table whose rows have a uid; selections and joins go by it, never by row."""

    @property
    def uid(self) -> NDArray[np.int64]:
        """Identity of each row, shape (n,); the tilt images of one particle share it."""
        return self.columns["uid"]

    def rows_of_uids(self, uids: ArrayLike) -> NDArray[np.int64]:
        """Return the rows with these uids, in their order; all rows of a uid that several share.

        Raises
        ------
        InconsistentDataError
            A uid is not in the table.
        """
        wanted = np.asarray(uids, dtype=np.int64)
        order = np.argsort(self.uid, kind="stable")
        ordered = self.uid[order]
        first = np.searchsorted(ordered, wanted, side="left")
        counts = np.searchsorted(ordered, wanted, side="right") - first
        if np.any(counts == 0):
            missing = wanted[counts == 0]
            raise InconsistentDataError(
                f"Every uid must be in the {self.NOUN} of {len(self)}; got {len(missing)} that are not, the first "
                f"{missing[0]}; use a selection made from the same particles."
            )
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return order[np.repeat(first, counts) + offsets]

    def select_uids(self, uids: ArrayLike) -> Self:
        """Return the rows with these uids, in their order."""
        return self.take(self.rows_of_uids(uids))

    def join(self, other: "IdentifiedTable", *names: str) -> Self:
        """Return the table with columns of another, matched by uid.

        Raises
        ------
        InconsistentDataError
            A row has no partner, or several.
        """
        if len(np.unique(other.uid)) != len(other):
            raise InconsistentDataError(
                f"A {other.NOUN} to join from must hold each uid once; got repetitions; remove them."
            )
        rows = other.rows_of_uids(self.uid)
        return self.with_columns(**{name: other[name][rows] for name in names})


def _joined(arrays: Sequence[NDArray]) -> NDArray:
    if len({array.dtype.kind for array in arrays}) > 1 and any(array.dtype.kind in "SUO" for array in arrays):
        arrays = [array.astype(str).astype(object) if array.dtype.kind in "SU" else array for array in arrays]
    return np.concatenate(arrays)
