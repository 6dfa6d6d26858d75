"""`OpticsGroups`: what all images of one session share, and tables whose rows belong to such groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.table import NUMBER, TEXT, WHOLE, ColumnKind, IdentifiedTable, Table, VerbatimTable
from halfmap.errors import InconsistentDataError


@dataclass(frozen=True, kw_only=True, eq=False)
class OpticsGroups(Table):
    """Optics groups, one a row, keyed by their number.

    Known columns
    -------------
    optics_group (whole, from 1), name, voltage_kv, spherical_aberration_mm, amplitude_contrast,
    pixel_size_angstrom (of particle images), micrograph_pixel_size_angstrom,
    original_pixel_size_angstrom (of the raw movie), image_size_pixel, image_dimensionality,
    ctf_premultiplied, beam_tilt_mrad (n, 2), odd_zernike (n, k), even_zernike (n, k; short rows end in
    zeros), magnification_matrix (n, 2, 2), mtf_file_name.
    """

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {
        "optics_group": WHOLE,
        "name": TEXT,
        "voltage_kv": NUMBER,
        "spherical_aberration_mm": NUMBER,
        "amplitude_contrast": NUMBER,
        "pixel_size_angstrom": NUMBER,
        "micrograph_pixel_size_angstrom": NUMBER,
        "original_pixel_size_angstrom": NUMBER,
        "image_size_pixel": WHOLE,
        "image_dimensionality": WHOLE,
        "ctf_premultiplied": ColumnKind(np.bool_),
        "beam_tilt_mrad": ColumnKind(np.float64, (2,)),
        "odd_zernike": ColumnKind(np.float64, (None,)),
        "even_zernike": ColumnKind(np.float64, (None,)),
        "magnification_matrix": ColumnKind(np.float64, (2, 2)),
        "mtf_file_name": TEXT,
    }
    NOUN: ClassVar[str] = "optics table"

    def _complete(self, columns: dict[str, NDArray]) -> None:
        if "optics_group" not in columns:
            n = len(next(iter(columns.values()))) if columns else 0
            columns["optics_group"] = np.arange(1, n + 1)
        if "name" not in columns:
            names = [f"opticsGroup{number}" for number in columns["optics_group"]]
            columns["name"] = np.array(names, dtype=object)
        numbers, counts = np.unique(columns["optics_group"], return_counts=True)
        if np.any(counts > 1):
            raise InconsistentDataError(
                f"Each optics group must have one row; got number {numbers[counts > 1][0]} more than once; "
                "remove or renumber one of them."
            )

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the groups, in the table's order."""
        return self.columns["optics_group"]

    def rows_of(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """Return the row of each group number.

        Raises
        ------
        InconsistentDataError
            A number is not in the table.
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        if not len(wanted):
            return np.zeros(0, dtype=np.int64)
        order = np.argsort(self.numbers)
        found = np.searchsorted(self.numbers[order], wanted).clip(max=max(len(self) - 1, 0))
        rows = order[found] if len(self) else np.zeros(wanted.shape, dtype=np.int64)
        missing = wanted if not len(self) else wanted[self.numbers[rows] != wanted]
        if len(missing):
            raise InconsistentDataError(
                f"Every particle's optics group must be in the optics table; got number {missing[0]} for "
                f"{np.sum(missing == missing[0])} rows, the table has {self.numbers.tolist()}; add the group."
            )
        return rows

    def values(self, name: str, numbers: ArrayLike) -> NDArray:
        """Return a column's value for each group number, shape (n, ...)."""
        return self[name][self.rows_of(numbers)]

    def only(self, numbers: ArrayLike) -> Self:
        """Return the table with these groups alone, in the table's order."""
        return self.take(np.isin(self.numbers, np.asarray(numbers)))

    @classmethod
    def merge(cls, tables: Sequence["OpticsGroups"]) -> "tuple[OpticsGroups, list[dict[int, int]]]":
        """Unite the optics groups of several tables.

        Equal groups become one. A group whose number is taken by another gets the next free number, one
        whose name is taken gets the name with ``_2``, ``_3``…, because RELION tells groups apart by name.

        Returns
        -------
        merged : all groups.
        renumbered : for each table, old number → new number.

        Raises
        ------
        InconsistentDataError
            A column is in only some of the tables.
        """
        names = [name for name in tables[0].columns if all(name in table for table in tables)]
        missing = sorted({name for table in tables for name in table.columns} - set(names))
        filled = any(len(table) for table in tables)
        if missing and filled:
            raise InconsistentDataError(
                f"Optics tables that are joined must have the same columns; got {', '.join(missing)} in only some; "
                "add the column to the others."
            )
        taken_numbers: set[int] = set()
        taken_names: set[str] = set()
        known: dict[tuple[object, ...], int] = {}
        kept: list[OpticsGroups] = []
        renumbered: list[dict[int, int]] = []
        for table in tables:
            mapping: dict[int, int] = {}
            rows: list[int] = []
            numbers: list[int] = []
            group_names: list[str] = []
            for row, old in enumerate(table.numbers.tolist()):
                key = tuple(_key(table[name][row]) for name in names if name != "optics_group")
                if key not in known:
                    known[key] = old if old not in taken_numbers else max(taken_numbers) + 1
                    taken_numbers.add(known[key])
                    group_names.append(_free_name(str(table["name"][row]), taken_names))
                    taken_names.add(group_names[-1])
                    rows.append(row)
                    numbers.append(known[key])
                mapping[old] = known[key]
            renumbered.append(mapping)
            part = table.take(rows)
            if numbers != part.numbers.tolist():
                part = part.with_columns(optics_group=np.array(numbers, dtype=np.int64))
            if group_names != part["name"].tolist():
                part = part.with_columns(name=np.array(group_names, dtype=object))
            kept.append(part)
        return cls.concatenate(_same_widths(kept)), renumbered


def _key(value: object) -> object:
    if isinstance(value, np.ndarray):
        flat = value.ravel().tolist()
        while flat and flat[-1] == 0:
            flat.pop()
        return tuple(flat)
    return value


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    count = 2
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"


def _same_widths(tables: Sequence[OpticsGroups]) -> list[OpticsGroups]:
    """Give Zernike columns of all tables the width of the widest."""
    padded = list(tables)
    for name in ("odd_zernike", "even_zernike"):
        if name not in tables[0]:
            continue
        width = max(table[name].shape[1] for table in tables)
        for number, table in enumerate(padded):
            short = width - table[name].shape[1]
            if short:
                wide = np.pad(table[name], ((0, 0), (0, short)))
                padded[number] = replace(table, columns={**table.columns, name: wide})
    return padded


@dataclass(frozen=True, kw_only=True, eq=False)
class TableWithOptics(IdentifiedTable):
    """Rows that belong to optics groups through the column ``optics_group``.

    Parameters
    ----------
    optics : the groups.
    other_tables : further tables of the file, handed on unchanged.
    """

    optics: OpticsGroups = field(default_factory=lambda: OpticsGroups(columns={}))
    other_tables: tuple[VerbatimTable, ...] = field(default=(), repr=False)

    def _complete(self, columns: dict[str, NDArray]) -> None:
        n = len(next(iter(columns.values()))) if columns else 0
        if "optics_group" not in columns:
            if len(self.optics) > 1:
                raise InconsistentDataError(
                    f"A {self.NOUN} with {len(self.optics)} optics groups must have the column optics_group; "
                    "got none; add it."
                )
            number = int(self.optics.numbers[0]) if len(self.optics) else 1
            columns["optics_group"] = np.full(n, number, dtype=np.int64)
        if len(self.optics):
            self.optics.rows_of(np.unique(columns["optics_group"]))

    def optics_values(self, name: str) -> NDArray:
        """Return for each row the value of a column of its optics group, shape (n, ...)."""
        return self.optics.values(name, self["optics_group"])

    def without_unused_optics(self) -> Self:
        """Return the table with only those optics groups that a row belongs to."""
        return replace(self, optics=self.optics.only(np.unique(self["optics_group"])))

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """Return the rows of several tables; equal optics groups are united, clashing numbers changed."""
        if not tables:
            return super().concatenate(tables)
        optics, renumbered = OpticsGroups.merge([table.optics for table in tables])
        parts = []
        for table, mapping in zip(tables, renumbered, strict=True):
            columns, remembered = dict(table.columns), dict(table.remembered)
            if any(old != new for old, new in mapping.items()):
                numbers = [mapping.get(number, number) for number in table["optics_group"].tolist()]
                columns["optics_group"] = np.array(numbers, dtype=np.int64)
                remembered.pop("optics_group", None)
            parts.append(replace(table, columns=columns, remembered=remembered, optics=optics))
        return super().concatenate(parts)
