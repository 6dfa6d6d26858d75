"""`Picks`: positions found in micrographs, the one result that all pickers share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.table import NUMBER, TEXT, WHOLE, ColumnKind, IdentifiedTable
from halfmap.data.uids import uids_of_positions
from halfmap.errors import InconsistentDataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Picks(IdentifiedTable):
    """Picked positions, one a row.

    Known columns
    -------------
    uid, micrograph_name, position_pixel (n, 2) in pixels of the micrograph, figure_of_merit (higher is
    better; the scale is the picker's), class_number, psi_degrees. Any other column is kept.

    Parameters
    ----------
    source : which picker, and version or model where that matters.
    micrographs : every micrograph that was searched, also those in which nothing was found.
    """

    source: str = ""
    micrographs: tuple[str, ...] = ()

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {
        "uid": WHOLE,
        "micrograph_name": TEXT,
        "position_pixel": ColumnKind(np.float64, (2,)),
        "figure_of_merit": NUMBER,
        "class_number": WHOLE,
        "psi_degrees": NUMBER,
    }
    NOUN: ClassVar[str] = "set of picks"

    def _complete(self, columns: dict[str, NDArray]) -> None:
        if "micrograph_name" not in columns or "position_pixel" not in columns:
            raise InconsistentDataError(
                "Picks must have the columns micrograph_name and position_pixel; got "
                f"{', '.join(sorted(columns)) or 'none'}; add them."
            )
        n = len(columns["micrograph_name"])
        wrong = np.flatnonzero(~np.isfinite(columns["position_pixel"]).all(axis=-1))
        if len(wrong):
            x, y = columns["position_pixel"][wrong[0]]
            raise InconsistentDataError(
                f"Picks must have finite positions; got ({x:g}, {y:g}) in row {wrong[0] + 1} of "
                f"{self.source or 'the picks'}, micrograph {columns['micrograph_name'][wrong[0]]}; remove the row."
            )
        columns.setdefault("figure_of_merit", np.zeros(n))
        columns.setdefault("class_number", np.zeros(n, dtype=np.int64))
        columns.setdefault("psi_degrees", np.zeros(n))
        if "uid" not in columns:
            columns["uid"] = uids_of_positions(columns["micrograph_name"], columns["position_pixel"])
        searched = dict.fromkeys((*self.micrographs, *columns["micrograph_name"].tolist()))
        object.__setattr__(self, "micrographs", tuple(searched))

    @classmethod
    def of_micrograph(
        cls, micrograph_name: str, position_pixel: ArrayLike, *, source: str, **columns: ArrayLike
    ) -> Self:
        """Return the picks of one micrograph; there may be none.

        Parameters
        ----------
        micrograph_name : as in the micrograph table.
        position_pixel : shape (n, 2), (x, y).
        source : the picker.
        columns : further columns, shape (n, ...).
        """
        positions = np.asarray(position_pixel, dtype=np.float64).reshape(-1, 2)
        names = np.full(len(positions), micrograph_name, dtype=object)
        return cls(
            columns={"micrograph_name": names, "position_pixel": positions, **columns},  # type: ignore[dict-item]
            source=source,
            micrographs=(micrograph_name,),
        )

    @property
    def micrograph_name(self) -> NDArray[np.object_]:
        """Micrograph of each pick, shape (n,)."""
        return self.columns["micrograph_name"]

    @property
    def position_pixel(self) -> NDArray[np.float64]:
        """Position (x, y) of each pick in pixels of its micrograph, shape (n, 2)."""
        return self.columns["position_pixel"]

    @property
    def figure_of_merit(self) -> NDArray[np.float64]:
        """Figure of merit of each pick, shape (n,)."""
        return self.columns["figure_of_merit"]

    def in_micrograph(self, micrograph_name: str) -> Self:
        """Return the picks of one micrograph."""
        part = self.take(self.micrograph_name == micrograph_name)
        return replace(part, micrographs=(micrograph_name,))

    def by_micrograph(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each micrograph searched, in the order of the search."""
        rows: dict[str, list[int]] = {name: [] for name in self.micrographs}
        for row, name in enumerate(self.micrograph_name):
            rows[name].append(row)
        return {name: np.array(found, dtype=np.int64) for name, found in rows.items()}

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """Return the picks of several sets; all micrographs searched are kept, sources are listed."""
        joined = super().concatenate(tables)
        searched = tuple(dict.fromkeys(name for table in tables for name in table.micrographs))
        sources = ", ".join(dict.fromkeys(table.source for table in tables if table.source))
        return replace(joined, micrographs=searched, source=sources)
