"""Leopard-EM's particle tables (CSV): where a template was found, how it lay, and how defocused."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError
from halfmap.geometry.euler import array_from_euler

NEEDED = (
    "micrograph_path", "pos_x_img", "pos_y_img", "phi", "theta", "psi", "relative_defocus",
    "defocus_u", "defocus_v", "astigmatism_angle", "pixel_size", "voltage", "spherical_aberration",
    "amplitude_contrast_ratio",
)  # fmt: skip
_OPTICS = {
    "voltage_kv": "voltage",
    "spherical_aberration_mm": "spherical_aberration",
    "amplitude_contrast": "amplitude_contrast_ratio",
    "micrograph_pixel_size_angstrom": "pixel_size",
}
_ABERRATIONS = ("even_zernikes", "odd_zernikes", "mag_matrix")


@dataclass(frozen=True, kw_only=True, eq=False)
class LeopardTable:
    """What a table of Leopard-EM says.

    Parameters
    ----------
    particles : one a row, without images.
    micrographs : with the defocus of the search.
    unconverted : columns with aberrations that were passed over.
    """

    particles: ParticleSet
    micrographs: MicrographSet
    unconverted: tuple[str, ...]


def is_header(line: str) -> bool:
    """Tell whether a line is the heading of a Leopard-EM table."""
    return {"micrograph_path", "pos_x_img", "relative_defocus"} <= {part.strip() for part in line.split(",")}


def read(path: str | Path) -> LeopardTable:
    """Read the CSV of ``match_template`` or ``refine_template``.

    Parameters
    ----------
    path : the table, of Leopard-EM 1.x.

    Returns
    -------
    LeopardTable
        Refined values where the table has them. Defocus is that of the micrograph plus the particle's; the
        figure of merit is the scaled MIP.

    Raises
    ------
    FormatError
        A column is missing or a value is no number; names the line.

    Notes
    -----
    ``pos_*_img`` is the centre of the particle in pixels of the micrograph, from 0. (phi, theta, psi) are
    RELION's (rot, tilt, psi).

    References
    ----------
    Giammar et al. 2026, Acta Cryst. D82; the columns of Leopard-EM 1.2.
    """
    table = _Table(Path(path))
    rotation = array_from_euler(*(table.best(name, f"refined_{name}") for name in ("phi", "theta", "psi")))
    offset = table.best("relative_defocus", "refined_relative_defocus")
    columns: dict[str, NDArray] = {
        "micrograph_name": table.text("micrograph_path"),
        "position_pixel": np.stack(
            [table.best(f"pos_{axis}_img", f"refined_pos_{axis}_img") for axis in "xy"], axis=-1
        ),
        "rotation": rotation,
        "origin_angstrom": np.zeros((len(table), 2)),
        "defocus_u_angstrom": table.numbers("defocus_u") + offset,
        "defocus_v_angstrom": table.numbers("defocus_v") + offset,
        "defocus_angle_degrees": table.numbers("astigmatism_angle"),
    }
    for column, name in (("phase_shift_degrees", "phase_shift"), ("ctf_b_factor_angstrom2", "ctf_B_factor")):
        if name in table.columns:
            columns[column] = table.numbers(name)
    if "scaled_mip" in table.columns:
        columns["figure_of_merit"] = table.best("scaled_mip", "refined_scaled_mip")
    optics, columns["optics_group"] = _optics(table)
    particles = ParticleSet(columns=columns, optics=optics)
    _, first = np.unique(columns["micrograph_name"].astype(str), return_index=True)
    first = np.sort(first)
    micrographs = MicrographSet(
        columns={
            "micrograph_name": columns["micrograph_name"][first],
            "optics_group": columns["optics_group"][first],
            "defocus_u_angstrom": table.numbers("defocus_u")[first],
            "defocus_v_angstrom": table.numbers("defocus_v")[first],
            "defocus_angle_degrees": table.numbers("astigmatism_angle")[first],
            **(
                {"phase_shift_degrees": columns["phase_shift_degrees"][first]} if "phase_shift" in table.columns else {}
            ),
        },
        optics=optics,
    )
    unconverted = tuple(
        name for name in _ABERRATIONS if name in table.columns and any(text.strip() for text in table.columns[name])
    )
    return LeopardTable(particles=particles, micrographs=micrographs, unconverted=unconverted)


def _optics(table: "_Table") -> tuple[OpticsGroups, NDArray[np.int64]]:
    values = {column: table.numbers(name) for column, name in _OPTICS.items()}
    keys, inverse = np.unique(np.stack(list(values.values()), axis=-1), axis=0, return_inverse=True)
    columns: dict[str, NDArray] = {"optics_group": np.arange(1, len(keys) + 1)}
    columns |= {column: keys[:, place] for place, column in enumerate(values)}
    return OpticsGroups(columns=columns), inverse.reshape(-1) + 1


class _Table:
    """The columns of a CSV file, as text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, encoding="utf-8", newline="") as stream:
                rows = [row for row in csv.reader(stream) if row]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise FormatError(path, expected="a readable CSV file", found=f"'{error}'") from error
        labels = [label.strip() for label in rows[0]] if rows else []
        missing = [name for name in NEEDED if name not in labels]
        if missing:
            raise FormatError(
                path,
                line=1,
                expected=f"the columns of Leopard-EM, {', '.join(missing)} among them",
                found=", ".join(labels) or "an empty file",
                remedy="choose the CSV that match_template or refine_template wrote",
            )
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(labels):
                raise FormatError(
                    path, line=number, expected=f"{len(labels)} values", found=str(len(row)), remedy="mend the line"
                )
        self._n = len(rows) - 1
        self.columns = {label: [row[place] for row in rows[1:]] for place, label in enumerate(labels)}

    def __len__(self) -> int:
        return self._n

    def text(self, name: str) -> NDArray[np.object_]:
        return np.array(self.columns[name], dtype=object)

    def numbers(self, name: str) -> NDArray[np.float64]:
        values = np.empty(self._n)
        for row, text in enumerate(self.columns[name]):
            try:
                values[row] = float(text) if text.strip() else np.nan
            except ValueError:
                raise FormatError(
                    self.path, line=row + 2, expected=f"a number in column {name}", found=repr(text)
                ) from None
        return values

    def best(self, name: str, refined: str) -> NDArray[np.float64]:
        """Return the refined values if the table has all of them, else the first ones, which must be numbers."""
        if refined in self.columns:
            values = self.numbers(refined)
            if np.isfinite(values).all():
                return values
        values = self.numbers(name)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise FormatError(
                self.path,
                line=int(wrong[0]) + 2,
                expected=f"a finite number in column {name}",
                found=repr(self.columns[name][int(wrong[0])]),
                remedy="mend the value or remove the row",
            )
        return values
