"""Leopard-EM's particle tables (CSV): where a template was found, how it lay, and how defocused."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError
from halfmap.geometry.euler import array_from_euler
from halfmap.io.atomic import write_text
from halfmap.io.leopard_aberrations import StoredAberrations, aberration_columns, aberrations_of

INDEX = ""
"""Heading of the first column of the files that Leopard-EM writes: the number of the row."""

MATCH_COLUMNS = (
    "particle_index", "mip", "scaled_mip", "correlation_mean", "correlation_variance", "total_correlations",
    "pos_x", "pos_y", "pos_x_img", "pos_y_img", "pos_x_img_angstrom", "pos_y_img_angstrom",
    "phi", "theta", "psi", "relative_defocus", "defocus_u", "defocus_v", "astigmatism_angle",
    "pixel_size", "refined_pixel_size", "voltage", "spherical_aberration", "amplitude_contrast_ratio",
    "phase_shift", "ctf_B_factor", "even_zernikes", "odd_zernikes", "mag_matrix",
    "micrograph_path", "template_path", "mip_path", "scaled_mip_path", "psi_path", "theta_path", "phi_path",
    "defocus_path", "correlation_average_path", "correlation_variance_path",
)  # fmt: skip
"""Columns of a table of ``match_template``, in order."""

_REFINED_AFTER = {
    "scaled_mip": ("refined_mip", "refined_scaled_mip"),
    "pos_y_img_angstrom": (
        "refined_pos_x", "refined_pos_y", "refined_pos_x_img", "refined_pos_y_img",
        "refined_pos_x_img_angstrom", "refined_pos_y_img_angstrom",
    ),
    "psi": ("refined_phi", "refined_theta", "refined_psi"),
    "relative_defocus": ("refined_relative_defocus",),
}  # fmt: skip

REFINED_COLUMNS = tuple(name for column in MATCH_COLUMNS for name in (column, *_REFINED_AFTER.get(column, ())))
"""Columns of a table of ``refine_template``, in order."""

_OFFSETS = ("original_offset_phi", "original_offset_theta", "original_offset_psi")
CONSTRAINED_COLUMNS = tuple(
    name for column in REFINED_COLUMNS for name in ((column, *_OFFSETS) if column == "refined_psi" else (column,))
)
"""Columns of a table of the constrained search, in order."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class LeopardTable:
    """What a table of Leopard-EM says.

    Parameters
    ----------
    particles : one a row, without images.
    micrographs : with the defocus of the search.
    """

    particles: ParticleSet
    micrographs: MicrographSet


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
    table = LeopardColumns.read(path)
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
        if name in table:
            columns[column] = table.numbers(name)
    if "scaled_mip" in table:
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
            **({"phase_shift_degrees": columns["phase_shift_degrees"][first]} if "phase_shift" in table else {}),
        },
        optics=optics,
    )
    return LeopardTable(particles=particles, micrographs=micrographs)


def _optics(table: "LeopardColumns") -> tuple[OpticsGroups, NDArray[np.int64]]:
    values = {column: table.numbers(name) for column, name in _OPTICS.items()}
    aberrations = table.aberrations()
    kinds = {one: place for place, one in enumerate(dict.fromkeys(aberrations))}
    kind = np.array([float(kinds[one]) for one in aberrations])
    keys, inverse = np.unique(np.stack([*values.values(), kind], axis=-1), axis=0, return_inverse=True)
    columns: dict[str, NDArray] = {"optics_group": np.arange(1, len(keys) + 1)}
    columns |= {column: keys[:, place] for place, column in enumerate(values)}
    known = list(kinds)
    columns |= aberration_columns([known[int(place)] for place in keys[:, -1]])
    return OpticsGroups(columns=columns), inverse.reshape(-1) + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class LeopardColumns:
    """The columns of a table of Leopard-EM as text, so that what nobody changes is written back unchanged.

    Parameters
    ----------
    path : the file that they come from.
    columns : heading → text of each row, in the order of the file.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, path: str | Path) -> "LeopardColumns":
        """Read a table.

        Raises
        ------
        FormatError
            It cannot be read, a column that every use needs is missing, or a line has another number of values.
        """
        path = Path(path)
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
        return cls(path=path, columns={label: [row[place] for row in rows[1:]] for place, label in enumerate(labels)})

    def __len__(self) -> int:
        return len(self.columns[NEEDED[0]])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def aberrations(self) -> list[StoredAberrations]:
        """Return the aberrations of each particle.

        Raises
        ------
        FormatError
            A cell is none; names the line and the column.
        """
        return aberrations_of(self.columns, len(self), self.path)

    def text(self, name: str) -> NDArray[np.object_]:
        """Return a column as text."""
        return np.array(self.columns[name], dtype=object)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where a cell is empty.

        Raises
        ------
        FormatError
            A cell holds something else; names the line.
        """
        values = np.empty(len(self))
        for row, text in enumerate(self.columns[name]):
            try:
                values[row] = float(text) if text.strip() else np.nan
            except ValueError:
                raise FormatError(
                    self.path, line=row + 2, expected=f"a number in column {name}", found=repr(text)
                ) from None
        return values

    def best(self, name: str, refined: str | None = None) -> NDArray[np.float64]:
        """Return the refined values if the table has all of them, else the first ones, which must be numbers.

        Parameters
        ----------
        name : heading of the first ones.
        refined : heading of the refined ones; None where there are none of that kind.

        Raises
        ------
        FormatError
            Neither is a number everywhere; names the line.
        """
        if refined is not None and refined in self.columns:
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

    def with_columns(self, **texts: Sequence[str]) -> "LeopardColumns":
        """Return the table with columns replaced or added: Leopard-EM's in their places, others last.

        Parameters
        ----------
        texts : heading → text of each row.
        """
        changed = {**self.columns, **texts}
        known = [name for name in CONSTRAINED_COLUMNS if name in changed]
        first = [INDEX] if INDEX in changed else []
        others = [name for name in changed if name not in CONSTRAINED_COLUMNS and name != INDEX]
        return LeopardColumns(path=self.path, columns={name: changed[name] for name in (*first, *known, *others)})

    def take(self, rows: NDArray[np.int64]) -> "LeopardColumns":
        """Return some of the rows, in their order in the table."""
        kept = sorted(rows.tolist())
        return LeopardColumns(
            path=self.path, columns={name: [texts[row] for row in kept] for name, texts in self.columns.items()}
        )

    def write(self, path: str | Path) -> None:
        """Write the table as Leopard-EM reads it; by rename when complete."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        write_text(path, stream.getvalue())
