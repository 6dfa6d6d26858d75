"""The particles of a species of M, with all temporal samples of their poses: ``<species>_particles.star``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.population import SpeciesParticles
from halfmap.data.uids import uids_of_positions
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.io import star
from halfmap.io.relion_columns import UID_LABEL

_POSITION = tuple(f"wrpCoordinate{axis}" for axis in "XYZ")
_ANGLES = tuple(f"wrpAngle{angle}" for angle in ("Rot", "Tilt", "Psi"))
_SUBSET, _NAME, _HASH = "wrpRandomSubset", "wrpSourceName", "wrpSourceHash"
_NOTHING = "null"
"What M writes where a column has no value."


def read_species_particles_of_m(path: str | Path) -> SpeciesParticles:
    """Read the particles of a species.

    Returns
    -------
    SpeciesParticles
        As many temporal samples as there are numbered columns; where only positions or only angles have several,
        the other's one sample is repeated. Identity from ``_halfmapUid``, else from source and position. Hashes may be
        missing: such particles have only the name of their source.

    Raises
    ------
    FormatError
        A column is missing or holds no numbers, or positions and angles have unlike numbers of samples.
    InconsistentDataError
        A random subset is neither 1 nor 2.
    """
    table = star.read(path).tables[0]
    position = _samples(table, _POSITION)
    angles = _samples(table, _ANGLES)
    n = max(position.shape[1], angles.shape[1])
    if {position.shape[1], angles.shape[1]} - {1, n}:
        raise table.error(
            0,
            expected="as many temporal samples of angles as of positions, or one",
            found=f"{angles.shape[1]} of angles and {position.shape[1]} of positions",
            remedy="resample the trajectories",
        )
    position, angles = (np.repeat(values, n // values.shape[1], axis=1) for values in (position, angles))
    source = table.text(_NAME)
    used = {f"{label}{i}" for label in (*_POSITION, *_ANGLES) for i in range(1, n + 1)}
    used |= {_SUBSET, _NAME, _HASH, UID_LABEL}
    return SpeciesParticles(
        position_angstrom=position,
        rotation=array_from_euler(angles[..., 0], angles[..., 1], angles[..., 2]),
        random_subset=table.integers(_SUBSET),
        source_name=source,
        source_hash=table.text(_HASH) if _HASH in table else np.full(len(source), "", dtype=object),
        uid=table.integers(UID_LABEL) if UID_LABEL in table else uids_of_positions(source, position[:, 0]),
        further={label: table.text(label) for label in table.labels if label not in used},
    )


def write_species_particles_of_m(path: str | Path, particles: SpeciesParticles) -> None:
    """Write the particles of a species, as M reads them: Å and degrees with 6 decimals, nothing as ``null``."""
    angles = euler_from_array(particles.rotation)
    columns: dict[str, NDArray] = {}
    for i in range(particles.n_samples):
        for labels, values in ((_POSITION, particles.position_angstrom), (_ANGLES, angles)):
            columns |= {f"{label}{i + 1}": _texts(values[:, i, axis]) for axis, label in enumerate(labels)}
    columns[_SUBSET] = _texts(particles.random_subset, str)
    columns[_NAME] = particles.source_name
    columns[_HASH] = particles.source_hash
    columns[UID_LABEL] = _texts(particles.uid, str)
    for label, texts in particles.further.items():
        columns[label] = np.array([str(text) or _NOTHING for text in texts], dtype=object)
    star.write(path, [star.StarTable(name="", columns=columns)])


def as_written(particles: SpeciesParticles) -> SpeciesParticles:
    """Return the particles at the poses that will be read when they have been written: rounded to 6 decimals."""
    angles = _texts(euler_from_array(particles.rotation)).astype(np.float64)
    position: NDArray[np.float64] = _texts(particles.position_angstrom).astype(np.float64)
    return particles.with_poses(position, array_from_euler(angles[..., 0], angles[..., 1], angles[..., 2]))


def _samples(table: star.StarTable, labels: tuple[str, ...]) -> NDArray[np.float64]:
    """Return all temporal samples of a quantity, shape (N, n, 3)."""
    n = 1
    while all(f"{label}{n + 1}" in table for label in labels):
        n += 1
    samples = [np.stack([table.numbers(f"{label}{i}") for label in labels], axis=-1) for i in range(1, n + 1)]
    return np.stack(samples, axis=1)


def _texts(values: NDArray, text: Callable[[float], str] = "{:.6f}".format) -> NDArray[np.object_]:
    return np.array([text(value) for value in values.ravel().tolist()], dtype=object).reshape(values.shape)
