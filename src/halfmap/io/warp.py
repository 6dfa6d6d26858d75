"""Tables of Warp and M that RELION's reader does not cover: the particles of a species."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.uids import uids_of_positions
from halfmap.errors import InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.io import star

_POSITION = tuple(f"wrpCoordinate{axis}1" for axis in "XYZ")
_ANGLES = ("wrpAngleRot1", "wrpAngleTilt1", "wrpAnglePsi1")


def is_species_table(table: star.StarTable) -> bool:
    """Tell whether a STAR table holds the particles of a species of M."""
    return all(label in table for label in (*_POSITION, "wrpSourceName"))


def read_species_particles(path: str | Path, pixel_size_angstrom: float | None) -> ParticleSet:
    """Read the particles of a species, ``<species>_particles.star``.

    Parameters
    ----------
    path : one loop of ``wrp`` columns.
    pixel_size_angstrom : pixels in which positions are to be counted; M's are in Å.

    Returns
    -------
    ParticleSet
        Position and pose of the first temporal sample, a z as ``rlnCoordinateZ``, the source as
        ``micrograph_name``, of tilt series as ``rlnTomoName`` too. Further samples and all other columns are
        kept under their names.

    Raises
    ------
    FormatError
        A column is missing or holds no numbers.
    InputError
        No pixel size is given.

    Notes
    -----
    Warp's Å start at the centre of the corner pixel, so Å over pixel size is a position from 0. Angles are
    RELION's, random subsets 1 and 2.
    """
    if pixel_size_angstrom is None:
        raise InputError(
            f"The pixel size for the positions of {path}, which are in Å, must be known; got none; give --pixel-size, "
            "that of the micrographs or tilt series."
        )
    file = star.read(path)
    table = next((table for table in file if is_species_table(table)), None)
    if table is None:
        table = file.tables[0]
        for label in (*_POSITION, "wrpSourceName"):
            table.raw(label)  # raises, naming file and label
    position = np.stack([table.numbers(label) for label in _POSITION], axis=-1) / pixel_size_angstrom
    source = table.text("wrpSourceName")
    columns: dict[str, NDArray] = {
        "micrograph_name": source,
        "position_pixel": position[:, :2],
        "rlnCoordinateZ": np.array([f"{z:.6f}" for z in position[:, 2]], dtype=object),
        "uid": uids_of_positions(source, position),
        "origin_angstrom": np.zeros((len(table), 2)),
    }
    used = {*_POSITION, "wrpSourceName"}
    if all(label in table for label in _ANGLES):
        columns["rotation"] = array_from_euler(*(table.numbers(label) for label in _ANGLES))
        used |= set(_ANGLES)
    if "wrpRandomSubset" in table:
        columns["random_subset"] = table.integers("wrpRandomSubset")
        used.add("wrpRandomSubset")
    if any(str(name).endswith(".tomostar") for name in source):
        columns["rlnTomoName"] = np.array([str(name).removesuffix(".tomostar") for name in source], dtype=object)
    columns |= {label: table.text(label) for label in table.labels if label not in used}
    optics = OpticsGroups(columns={"micrograph_pixel_size_angstrom": np.array([pixel_size_angstrom])})
    return ParticleSet(columns=columns, optics=optics)
