"""Aberrations as Leopard-EM's files have them, turned into RELION's coefficients and back."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError

EVEN, ODD = "relion_even_zernike", "relion_odd_zernike"
"""Columns of our own: lists of RELION's coefficients, where there are any that Leopard-EM has no names for."""

_SIXTH = {12: 1 / 20, 6: 1 / 4, 2: 9 / 20, 0: 1 / 4}
_NAMED: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "even_zernikes": {
        "Z42c": {7: 1 / 4, 3: 3 / 4}, "Z42s": {5: 1 / 4, 1: 3 / 4}, "Z44c": {8: 1.0}, "Z44s": {4: 1.0}, "Z60": _SIXTH,
    },
    "odd_zernikes": {
        "Z31c": {4: 1 / 3, 1: 2 / 3}, "Z31s": {3: 1 / 3, 0: 2 / 3}, "Z33c": {5: 1.0}, "Z33s": {2: 1.0},
    },
}  # fmt: skip
"""What one radian of each of Leopard-EM's coefficients is in RELION's: powers of the frequency in 1/Å, r⁴ cos 4α, r⁶
and so on, where RELION has Zernike polynomials."""

_KIND = {"even_zernikes": EVEN, "odd_zernikes": ODD}


@dataclass(frozen=True, kw_only=True)
class StoredAberrations:
    """Aberrations of a particle, in RELION's terms.

    Parameters
    ----------
    even_zernike, odd_zernike : radians, in RELION's order.
    magnification : rows of the matrix, for frequencies (x, y).
    """

    even_zernike: tuple[float, ...] = ()
    odd_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)


def coefficients(named: Mapping[str, float], kind: str) -> tuple[float, ...]:
    """Return RELION's coefficients of Leopard-EM's.

    Parameters
    ----------
    named : name → radians.
    kind : ``even_zernikes`` or ``odd_zernikes``.

    Raises
    ------
    ValueError
        A name is unknown or a value no number; says which.

    References
    ----------
    ``apply_even_zernikes`` and ``apply_odd_zernikes`` of torch-ctf 0.6, which Leopard-EM uses.
    """
    known = _NAMED[kind]
    values: dict[int, float] = {}
    for name, radians in named.items():
        if name not in known:
            raise ValueError(f"{name}, where {', '.join(known)} are known")
        if isinstance(radians, bool) or not isinstance(radians, int | float) or not np.isfinite(radians):
            raise ValueError(f"{radians!r} for {name}, where a number is needed")
        for index, weight in known[name].items():
            values[index] = values.get(index, 0.0) + weight * radians
    return tuple(values.get(index, 0.0) for index in range(max(values, default=-1) + 1))


def magnification_of(matrix: Sequence[float]) -> tuple[float, float, float, float]:
    """Return RELION's matrix of frequencies (x, y) for Leopard-EM's, which moves places (y, x), and the other way.

    Raises
    ------
    ValueError
        It is no list of four numbers that can be inverted.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or abs(np.linalg.det(values.reshape(2, 2))) < 0.1:
        raise ValueError(f"{list(matrix)!r}, where four numbers of an invertible matrix are needed")
    a, b, c, d = np.linalg.inv(values.reshape(2, 2)).T[::-1, ::-1].ravel().tolist()
    return (a, b, c, d)


def aberrations_of(columns: Mapping[str, Sequence[str]], n_rows: int, path: Path) -> list[StoredAberrations]:
    """Return the aberrations of each particle of a table.

    Parameters
    ----------
    columns : heading → text of each row.
    n_rows, path : of the table.

    Raises
    ------
    FormatError
        A cell is none; names the line and the column.
    """
    names = [name for name in ("even_zernikes", "odd_zernikes", "mag_matrix", EVEN, ODD) if name in columns]
    found = []
    for row in range(n_rows):
        cells = tuple((name, columns[name][row].strip()) for name in names)
        try:
            found.append(_of_cells(cells))
        except ValueError as error:
            raise FormatError(
                path, line=row + 2, expected="aberrations as Leopard-EM writes them", found=str(error),
                remedy="mend the cell, or empty it",
            ) from None  # fmt: skip
    return found


@cache
def _of_cells(cells: tuple[tuple[str, str], ...]) -> StoredAberrations:
    values: dict[str, Any] = {}
    for name, text in cells:
        if text in ("", "None", "null", "{}"):
            continue
        try:
            # JSON, or as Python prints it
            content = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ValueError(f"{text!r} in column {name}, which is no JSON") from None
        try:
            if name == "mag_matrix":
                values["magnification"] = magnification_of(content)
            elif name in _KIND:
                values[name.removesuffix("s")] = coefficients(content, name)
            else:
                values[name.removeprefix("relion_")] = tuple(float(value) for value in content)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{error} in column {name}") from None
    return StoredAberrations(**values)


def aberration_cells(aberrations: StoredAberrations) -> dict[str, str]:
    """Return the cells of a table that hold aberrations; Leopard-EM reads the magnification alone."""
    cells = {"even_zernikes": "", "odd_zernikes": "", "mag_matrix": ""}
    if aberrations.magnification != (1.0, 0.0, 0.0, 1.0):
        cells["mag_matrix"] = json.dumps(magnification_of(aberrations.magnification))
    for name, values in ((EVEN, aberrations.even_zernike), (ODD, aberrations.odd_zernike)):
        if any(values):
            cells[name] = json.dumps(list(values))
    return cells


def aberration_columns(groups: Sequence[StoredAberrations]) -> dict[str, NDArray[np.float64]]:
    """Return the columns of an optics table whose groups have these aberrations; none where there are none."""
    columns: dict[str, NDArray[np.float64]] = {}
    for name in ("even_zernike", "odd_zernike"):
        lists = [getattr(one, name) for one in groups]
        if any(any(values) for values in lists):
            width = max(len(values) for values in lists)
            columns[name] = np.array([[*values, *[0.0] * (width - len(values))] for values in lists])
    if any(one.magnification != (1.0, 0.0, 0.0, 1.0) for one in groups):
        columns["magnification_matrix"] = np.array([one.magnification for one in groups]).reshape(-1, 2, 2)
    return columns
