"""Particles in the layout of RELION 3.0: one table, optics in every row, offsets in pixels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.io import star
from halfmap.io.relion_columns import OPTICS_FIELDS, PARTICLE_FIELDS, encode, number_texts

_MAGNIFICATION = 10000.0
_SHARED = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "beam_tilt_mrad", "mtf_file_name")


def write_particles(path: str | Path, particles: ParticleSet) -> tuple[str, ...]:
    """Write a particle table that RELION 3.0 and programs of its time read.

    Parameters
    ----------
    path : the STAR file.
    particles : with the pixel size of their images in the optics table.

    Returns
    -------
    Columns of the optics table for which 3.0 has no place.

    Raises
    ------
    InconsistentDataError
        The pixel size is missing.

    Notes
    -----
    The pixel size is written as ``rlnDetectorPixelSize`` in µm at a magnification of 10 000, so both numbers
    are the same.
    """
    optics = particles.optics
    if "pixel_size_angstrom" not in optics:
        raise InconsistentDataError(
            "The optics table must have the pixel size of the images to be written for RELION 3.0; got none; add it."
        )
    columns = encode(particles, PARTICLE_FIELDS, skip=("optics_group", "origin_angstrom", "rlnOriginX", "rlnOriginY"))
    columns = {label: text for label, text in columns.items() if label not in ("rlnOpticsGroup",)}
    if "origin_angstrom" in particles:
        pixels = particles["origin_angstrom"] / particles.optics_values("pixel_size_angstrom")[:, None]
        for axis, values in zip("XY", pixels.T, strict=True):
            columns[f"rlnOrigin{axis}"] = star.compact_text(number_texts("origin_angstrom", values))
    rows = optics.rows_of(particles["optics_group"])
    shared = optics.without_columns(*(name for name in optics.columns if name not in _SHARED))
    for label, text in encode(shared, OPTICS_FIELDS, skip=("optics_group", "name")).items():
        columns[label] = text[rows]
    spacing: NDArray[np.float64] = particles.optics_values("pixel_size_angstrom")
    columns["rlnMagnification"] = star.compact_text(number_texts("magnification", np.full(len(rows), _MAGNIFICATION)))
    columns["rlnDetectorPixelSize"] = star.compact_text(number_texts("pixel_size_angstrom", spacing))
    star.write(path, [star.StarTable(name="images", columns=columns)])
    kept = {*_SHARED, "optics_group", "name", "pixel_size_angstrom", "image_size_pixel", "image_dimensionality"}
    return tuple(
        name for name in optics.columns if name not in kept and np.any(optics[name] != _neutral(name, optics[name]))
    )


def _neutral(name: str, values: NDArray) -> NDArray:
    """Return what a column says when nothing is special."""
    return np.eye(2) if name == "magnification_matrix" else np.zeros((), dtype=values.dtype)
