"""Particles of a species as jobs are given them: of M, of RELION, of tomograms; with the pixel sizes they count in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_series import TiltSeries
from halfmap.data.population import DataSource, SpeciesParticles
from halfmap.data.uids import uids_of_positions
from halfmap.errors import FormatError, InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.io import star
from halfmap.io.relion_columns import UID_LABEL
from halfmap.io.relion_tomo_particles import is_tomo_particles, read_tomo_particles
from halfmap.io.warp import is_species_table
from halfmap.io.warp_population import read_species_particles_of_m
from halfmap.jobs.population_members import OpenSource
from halfmap.multiparticle.linking import root_name

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_NAMES = ("rlnMicrographName", "rlnTomoName")
_AXES = "XYZ"
_OF_COORDINATES = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_OF_IMAGES = ("rlnImagePixelSize", "rlnPixelSize")
_NO_HALVES = (
    "The table has no half-sets (_rlnRandomSubset): particles go to both in turn, so that the given half-maps are not "
    "of these halves."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenParticles:
    """Particles from a file, not linked yet.

    Parameters
    ----------
    particles : names as the file has them; hashes where it has some.
    notes : sentences that say in which pixels the file counts, and how that is known.
    """

    particles: SpeciesParticles
    notes: tuple[str, ...]


def read_particles(
    path: Path,
    *,
    sources: Sequence[OpenSource],
    coordinate_pixel_size_angstrom: float | None = None,
    shift_pixel_size_angstrom: float | None = None,
) -> GivenParticles:
    """Read particles of M (``wrpCoordinateX1``), or of RELION with coordinates in micrographs or tomograms.

    Parameters
    ----------
    sources : in which the particles may be: for sizes of tomograms.
    coordinate_pixel_size_angstrom, shift_pixel_size_angstrom : in which positions and shifts are counted; None works
        them out.

    Raises
    ------
    FormatError
        A column is missing or broken.
    InputError
        There is no particle, or a pixel size cannot be worked out.
    """
    file = star.read(path)
    of_tilts = [one for one in sources if one.source.is_of_tilt_series]
    tomo = next((table for table in file if is_tomo_particles(table)), None)
    if any(is_species_table(table) for table in file):
        given = read_species_particles_of_m(path)
        found = GivenParticles(particles=given, notes=(f"{path.name}: particles of M, positions in Å.",))
    elif tomo is not None and of_tilts:
        found = _of_tomograms(file, tomo, path, of_tilts, coordinate_pixel_size_angstrom)
    else:
        known = [one.source for one in sources]
        found = _of_relion(file, path, known, coordinate_pixel_size_angstrom, shift_pixel_size_angstrom)
    if not len(found.particles):
        raise InputError(f"The table of particles must hold some; got none in {path}; name another.")
    return found


def _of_tomograms(
    file: star.StarFile, table: star.StarTable, path: Path, sources: Sequence[OpenSource], coordinate: float | None
) -> GivenParticles:
    """Return particles of a tomography project of RELION 4 or 5, or of an export of WarpTools."""
    names = {str(name).removesuffix(".tomostar") for name in table.text("rlnTomoName")}
    items = {root_name(item.name): (one, item) for one in sources for item in one.source.items}
    known = {name: items[root_name(name)] for name in names if root_name(name) in items}
    source, item = next(iter(known.values()), next(iter(items.values())))
    any_series = source.read_item(item)
    series = {name: known[name][0].read_item(known[name][1]) if name in known else any_series for name in names}
    tilts = {name: one for name, one in series.items() if isinstance(one, TiltSeries)}
    given = read_tomo_particles(path, tilts, coordinate_pixel_size_angstrom=coordinate)
    further = {label: values for label, values in given.further.items() if not label.startswith("rln")}
    if "rlnCenteredCoordinateXAngst" in table:
        how = "coordinates in Å from the centre of the tomogram"
    elif coordinate is not None:
        how = f"coordinates in pixels of {coordinate:g} Å, as given"
    elif str(table.text("rlnTomoName")[0]).endswith(".tomostar") and (of_images := _of_images(file, table)):
        how = f"coordinates in pixels of {_spelled(of_images[0])}, {of_images[1]}, as WarpTools counts"
    else:
        how = f"coordinates in pixels of the tilt series, {any_series.optics.pixel_size_angstrom:g} Å"
    notes = [f"{path.name}: {how}.", f"{path.name}: shifts in Å."]
    if "rlnRandomSubset" not in table:
        notes.append(_NO_HALVES)
    return GivenParticles(particles=replace(given, further=further), notes=tuple(notes))


def _of_images(file: star.StarFile, table: star.StarTable) -> tuple[NDArray[np.float64], str] | None:
    return _sizes(table, _optics(file, table), _OF_IMAGES)


def _optics(file: star.StarFile, table: star.StarTable) -> star.StarTable | None:
    return next((one for one in file if "rlnOpticsGroup" in one and one is not table), None)


def _of_relion(
    file: star.StarFile, path: Path, sources: Sequence[DataSource], coordinate: float | None, shift: float | None
) -> GivenParticles:
    table = _particle_table(file, path)
    optics = _optics(file, table)
    name = table.text(next(label for label in _NAMES if label in table))
    positions, how_positions = _positions(table, optics, name, sources, coordinate)
    shifts, how_shifts = _shifts(table, optics, shift)
    positions -= shifts
    rotation = array_from_euler(*(table.numbers(label) for label in _ANGLES))
    subset, how_halves = _subsets(table)
    further = {label: table.text(label) for label in table.labels if not label.startswith("rln")}
    for label in ("wrpSourceName", "wrpSourceHash"):
        further.pop(label, None)
    particles = SpeciesParticles(
        position_angstrom=positions[:, None],
        rotation=rotation[:, None],
        random_subset=subset,
        source_name=name,
        source_hash=np.full(len(table), "", dtype=object),
        uid=_uids(table, name, positions),
        further=further,
    )
    notes = (f"{path.name}: {how_positions}.", f"{path.name}: {how_shifts}.", *([how_halves] if how_halves else []))
    return GivenParticles(particles=particles, notes=notes)


def _particle_table(file: star.StarFile, path: Path) -> star.StarTable:
    for table in file:
        if (
            "rlnCoordinateX" in table
            and any(label in table for label in _NAMES)
            and all(label in table for label in _ANGLES)
        ):
            return table
    raise FormatError(
        path,
        expected="particles with coordinates (_rlnCoordinateX; of tilt series also _rlnCenteredCoordinateXAngst), "
        "angles (_rlnAngleRot, _rlnAngleTilt, _rlnAnglePsi) and _rlnMicrographName or _rlnTomoName, or columns of M",
        found=", ".join(f"data_{table.name} with {len(table.labels)} columns" for table in file) or "no table",
        remedy="give the run_data.star of a refinement, or the particles of a species",
    )


def _positions(
    table: star.StarTable,
    optics: star.StarTable | None,
    name: NDArray[np.object_],
    sources: Sequence[DataSource],
    given: float | None,
) -> tuple[NDArray[np.float64], str]:
    """Return positions in Å from the corner, (N, 3), and how they were counted."""
    pixel = np.stack(
        [
            table.numbers(f"rlnCoordinate{axis}") if f"rlnCoordinate{axis}" in table else np.zeros(len(table))
            for axis in _AXES
        ],
        axis=1,
    )
    if given is not None:
        return pixel * given, f"coordinates in pixels of {given:g} Å, as given"
    labels: tuple[str, ...] = _OF_COORDINATES
    if all(str(one).endswith(".tomostar") for one in name):  # Warp counts in pixels of the sub-tomograms it exported
        labels = (*_OF_IMAGES, *_OF_COORDINATES)
    found = _sizes(table, optics, labels)
    if found is None:
        found = _of_detector(table, optics)
    if found is None and len({source.pixel_size_angstrom for source in sources}) == 1:
        found = np.full(len(table), sources[0].pixel_size_angstrom), "that of the source, for want of another"
    if found is None:
        raise InputError(
            "The pixel size of the particles' coordinates must be known; got a table that does not say; give it with "
            "--coordinate-pixel-size."
        )
    sizes, how = found
    return pixel * sizes[:, None], f"coordinates in pixels of {_spelled(sizes)}, {how}"


def _shifts(
    table: star.StarTable, optics: star.StarTable | None, given: float | None
) -> tuple[NDArray[np.float64], str]:
    """Return shifts in Å, (N, 3), and how they were counted."""

    def stacked(labels: Sequence[str]) -> NDArray[np.float64]:
        return np.stack([table.numbers(label) if label in table else np.zeros(len(table)) for label in labels], axis=1)

    if "rlnOriginXAngst" in table:
        return stacked([f"rlnOrigin{axis}Angst" for axis in _AXES]), "shifts in Å"
    if "rlnOriginX" not in table:
        return np.zeros((len(table), 3)), "no shifts"
    shifts = stacked([f"rlnOrigin{axis}" for axis in _AXES])
    if given is not None:
        return shifts * given, f"shifts in pixels of {given:g} Å, as given"
    if not shifts.any():
        return shifts, "all shifts are 0"
    found = _sizes(table, optics, _OF_IMAGES) or _of_detector(table, optics)
    if found is None:
        raise InputError(
            "The pixel size of the particles' shifts must be known; got a table that does not say; give it with "
            "--shift-pixel-size."
        )
    sizes, how = found
    return shifts * sizes[:, None], f"shifts in pixels of {_spelled(sizes)}, {how}"


def _sizes(
    table: star.StarTable, optics: star.StarTable | None, labels: Sequence[str]
) -> tuple[NDArray[np.float64], str] | None:
    """Return the pixel size of each particle by the first of these columns that the file has."""
    for label in labels:
        if label in table:
            return table.numbers(label), f"by _{label}"
        if optics is not None and label in optics and "rlnOpticsGroup" in table:
            by_group = dict(zip(optics.text("rlnOpticsGroup"), optics.numbers(label), strict=True))
            groups = table.text("rlnOpticsGroup")
            missing = [row for row, group in enumerate(groups) if group not in by_group]
            if missing:
                raise table.error(
                    missing[0],
                    expected="an optics group of the table of optics",
                    found=str(groups[missing[0]]),
                    remedy="add the group",
                )
            return np.array([by_group[group] for group in groups]), f"by _{label}"
    return None


def _of_detector(table: star.StarTable, optics: star.StarTable | None) -> tuple[NDArray[np.float64], str] | None:
    """Return RELION 3.0's pixel size: of the detector, over the magnification."""
    detector = _sizes(table, optics, ("rlnDetectorPixelSize",))
    magnification = _sizes(table, optics, ("rlnMagnification",))
    if detector is None or magnification is None or not (magnification[0] > 0).all():
        return None
    return 1e4 * detector[0] / magnification[0], "by _rlnDetectorPixelSize and _rlnMagnification"


def _subsets(table: star.StarTable) -> tuple[NDArray[np.int64], str]:
    if "rlnRandomSubset" in table:
        subset = table.integers("rlnRandomSubset")
        if np.isin(subset, (1, 2)).all():
            return subset, ""
        raise table.error(
            int(np.flatnonzero(~np.isin(subset, (1, 2)))[0]),
            expected="1 or 2 in column _rlnRandomSubset",
            found=str(subset[~np.isin(subset, (1, 2))][0]),
            remedy="give particles of a refinement in two halves, or remove the column",
        )
    alternate = np.arange(len(table), dtype=np.int64) % 2 + 1
    return alternate, _NO_HALVES


def _uids(table: star.StarTable, name: NDArray[np.object_], positions: NDArray[np.float64]) -> NDArray[np.int64]:
    if UID_LABEL in table:
        return table.integers(UID_LABEL)
    return uids_of_positions(np.array([root_name(one) for one in name], dtype=object), positions)


def _spelled(sizes: NDArray[np.float64]) -> str:
    different = sorted({round(float(size), 5) for size in sizes})
    if len(different) == 1:
        return f"{different[0]:g} Å"
    return f"{different[0]:g} to {different[-1]:g} Å"
