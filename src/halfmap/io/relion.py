"""RELION's particle and micrograph files, in the dialects of 3.0, 3.1, 4 and 5.

Known labels become our columns (`halfmap.io.relion_columns`), everything else is carried as text, and
columns that nobody changed are written back as they stood. Files are written in the layout of 3.1,
which later versions read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups, TableWithOptics
from halfmap.data.particles import ParticleSet
from halfmap.data.table import VerbatimTable
from halfmap.data.uids import uids_of_keys, uids_of_positions
from halfmap.errors import FormatError
from halfmap.io import star
from halfmap.io.relion_columns import (
    MICROGRAPH_FIELDS,
    OPTICS_FIELDS,
    PARTICLE_FIELDS,
    Decoded,
    Field,
    decode,
    encode,
    values_of,
)
from halfmap.io.relion_optics import optics_of_rows, read_optics
from halfmap.io.relion_paths import resolve_paths
from halfmap.io.relion_picks import (
    read_autopick,
    read_coordinates,
    read_picks,
    write_autopick,
    write_coordinates,
)

__all__ = [
    "read_autopick",
    "read_coordinates",
    "read_micrographs",
    "read_particles",
    "read_picks",
    "resolve_paths",
    "values_of",
    "write_autopick",
    "write_coordinates",
    "write_micrographs",
    "write_particles",
]

_PIXEL_ORIGINS = ("rlnOriginX", "rlnOriginY")


def read_particles(path: str | Path) -> ParticleSet:
    """Read a particle table.

    Parameters
    ----------
    path : a STAR file of RELION 3.0 to 5, of Warp or M, or any file with one table of particles.

    Returns
    -------
    ParticleSet
        Offsets in Å, Euler angles as rotations. The uid is the column ``_halfmapUid`` where present, else
        the hash of the image name, of micrograph and position, or of the tomogram and its particle.

    Raises
    ------
    FormatError
        The file is not STAR, has no particles, lacks what identifies or places them, or names optics
        groups it does not describe.
    """
    file = star.read(path)
    rows = _main_table(file, ("particles", "images"))
    decoded, optics, others = _decoded(file, rows, PARTICLE_FIELDS, "pixel_size_angstrom")
    columns = dict(decoded.columns)
    order = decoded.label_order
    if "origin_angstrom" not in columns and all(label in columns for label in _PIXEL_ORIGINS):
        columns["origin_angstrom"] = _origins_from_pixels(rows, optics, columns["optics_group"])
        for label in _PIXEL_ORIGINS:
            del columns[label]
        order = tuple(f"{label}Angst" if label in _PIXEL_ORIGINS else label for label in order)
    if "uid" not in columns:
        columns["uid"] = _uids(rows, columns)
    elif np.any(columns["uid"] < 1):
        row = int(np.flatnonzero(columns["uid"] < 1)[0])
        raise rows.error(row, expected="a positive _halfmapUid", found=str(columns["uid"][row]))
    return ParticleSet(
        columns=columns, remembered=decoded.remembered, label_order=order, optics=optics, other_tables=others
    )


def write_particles(path: str | Path, particles: ParticleSet) -> None:
    """Write a particle table in the layout of RELION 3.1 and later.

    Raises
    ------
    InputError
        A number is not finite.
    ProjectError
        The file cannot be written.
    """
    stale = () if "origin_angstrom" in particles.remembered else _PIXEL_ORIGINS
    star.write(path, _tables(particles, "particles", PARTICLE_FIELDS, skip=stale))


def read_micrographs(path: str | Path) -> MicrographSet:
    """Read a micrograph table, for example ``micrographs_ctf.star``.

    Raises
    ------
    FormatError
        The file is not STAR, has no micrographs, names one twice, or names optics groups it does not
        describe.
    """
    file = star.read(path)
    rows = _main_table(file, ("micrographs",))
    decoded, optics, others = _decoded(file, rows, MICROGRAPH_FIELDS, "micrograph_pixel_size_angstrom")
    if "micrograph_name" not in decoded.columns:
        rows.raw("rlnMicrographName")  # raises, naming file and label
    seen: dict[str, int] = {}
    for row, name in enumerate(decoded.columns["micrograph_name"].tolist()):
        if name in seen:
            raise rows.error(
                row, expected="each micrograph once", found=f"{name} again", remedy="remove one of the rows"
            )
        seen[name] = row
    return MicrographSet(
        columns=decoded.columns,
        remembered=decoded.remembered,
        label_order=decoded.label_order,
        optics=optics,
        other_tables=others,
    )


def write_micrographs(path: str | Path, micrographs: MicrographSet) -> None:
    """Write a micrograph table in the layout of RELION 3.1 and later.

    Raises
    ------
    InputError
        A number is not finite.
    ProjectError
        The file cannot be written.
    """
    star.write(path, _tables(micrographs, "micrographs", MICROGRAPH_FIELDS, skip=("uid",)))


def _main_table(file: star.StarFile, names: Sequence[str]) -> star.StarTable:
    for name in names:
        if name in file:
            return file[name]
    loops = [table for table in file if table.is_loop and table.name != "optics"]
    if len(loops) == 1:
        return loops[0]
    raise FormatError(
        file.path or "STAR file",
        expected=f"a block {' or '.join(f'data_{name}' for name in names)}, or a single table",
        found=", ".join(f"data_{name}" for name in file.names),
        remedy="choose the file that has it",
    )


def _decoded(
    file: star.StarFile, rows: star.StarTable, fields: Sequence[Field], pixel_size_column: str
) -> tuple[Decoded, OpticsGroups, tuple[VerbatimTable, ...]]:
    decoded = decode(rows, fields)
    optics = read_optics(file, rows)
    if optics is None:
        optics, decoded = optics_of_rows(rows, decoded, pixel_size_column)
    others = tuple(
        VerbatimTable(name=table.name, columns=table.columns, is_loop=table.is_loop)
        for table in file
        if table is not rows and table.name != "optics"
    )
    return decoded, optics, others


def _tables(table: TableWithOptics, name: str, fields: Sequence[Field], *, skip: Sequence[str]) -> list[star.StarTable]:
    optics = table.optics
    if not len(optics):
        optics = OpticsGroups(columns={"optics_group": np.unique(table["optics_group"])})
    tables = [
        star.StarTable(name=other.name, columns=other.columns, is_loop=other.is_loop) for other in table.other_tables
    ]
    tables.append(star.StarTable(name="optics", columns=encode(optics, OPTICS_FIELDS)))
    tables.append(star.StarTable(name=name, columns=encode(table, fields, skip=skip)))
    return [star.with_version(part) for part in tables]


def _origins_from_pixels(rows: star.StarTable, optics: OpticsGroups, groups: NDArray) -> NDArray[np.float64]:
    pixels = np.stack([rows.numbers(label) for label in _PIXEL_ORIGINS], axis=-1)
    if "pixel_size_angstrom" not in optics:
        raise FormatError(
            rows.path or "STAR file",
            expected="a pixel size for the offsets _rlnOriginX and _rlnOriginY, which are in pixels",
            found="neither _rlnDetectorPixelSize and _rlnMagnification nor _rlnImagePixelSize",
            remedy="add these columns, or give the offsets in Å as _rlnOriginXAngst and _rlnOriginYAngst",
        )
    spacing: NDArray[np.float64] = optics.values("pixel_size_angstrom", groups)
    return pixels * spacing[:, None]


def _uids(rows: star.StarTable, columns: dict[str, NDArray]) -> NDArray[np.int64]:
    """Return uids of particles that have none: RELION's tomography tables may have no image of their own."""
    if "image_name" in columns:
        return ParticleSet(columns={"image_name": columns["image_name"]}).uid
    if "micrograph_name" in columns and "position_pixel" in columns:
        return uids_of_positions(columns["micrograph_name"], columns["position_pixel"])
    if "rlnTomoParticleName" in columns:
        return uids_of_keys(columns["rlnTomoParticleName"].tolist())
    for prefix, suffix in (("rlnCoordinate", ""), ("rlnCenteredCoordinate", "Angst")):
        labels = [f"{prefix}{axis}{suffix}" for axis in "XYZ"]
        if "rlnTomoName" in columns and all(label in rows for label in labels):
            position = np.stack([rows.numbers(label) for label in labels], axis=-1)
            return uids_of_positions(columns["rlnTomoName"], position)
    raise FormatError(
        rows.path or "STAR file",
        expected="the column _rlnImageName, or _rlnMicrographName with _rlnCoordinateX and _rlnCoordinateY, "
        "or _rlnTomoName with three coordinates",
        found=", ".join(f"_{label}" for label in rows.labels) or "no column",
        remedy="choose a table of particles, or add the column",
    )
