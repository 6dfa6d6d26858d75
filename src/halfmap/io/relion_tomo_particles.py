"""Particles of tilt series in RELION's files, and in those that WarpTools exports for it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_series import TiltSeries
from halfmap.data.population import SpeciesParticles
from halfmap.data.uids import uids_of_positions
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.io import star
from halfmap.io.relion_columns import UID_LABEL

_NAME = "rlnTomoName"
_SUFFIX = ".tomostar"
_CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
_CORNER = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
_ORIGIN = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
_ANGLES = tuple(f"rlnAngle{angle}" for angle in ("Rot", "Tilt", "Psi"))
_SUBTOMOGRAM = tuple(f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi"))
_SUBSET, _GROUP = "rlnRandomSubset", "rlnOpticsGroup"
_TILT_PIXEL_SIZE = "rlnTomoTiltSeriesPixelSize"
_VISIBLE = "rlnTomoVisibleFrames"
_PARTICLES, _TOMOGRAMS = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"


def is_tomo_particles(table: star.StarTable) -> bool:
    """Tell whether a STAR table holds particles of tilt series."""
    return _NAME in table and any(all(label in table for label in labels) for labels in (_CENTRED, _CORNER))


def read_tomo_particles(
    path: str | Path,
    tomograms: Mapping[str, TiltSeries],
    *,
    coordinate_pixel_size_angstrom: float | None = None,
) -> SpeciesParticles:
    """Read the particles of a RELION 4 or 5 tomography project, or of an export of WarpTools.

    Parameters
    ----------
    path : ``particles.star`` or ``run_data.star``.
    tomograms : tilt series by name, for the sizes of their volumes.
    coordinate_pixel_size_angstrom : of ``_rlnCoordinateX``; by default that of the tilt series, and in files of
        WarpTools that of the particle images.

    Returns
    -------
    SpeciesParticles
        One temporal sample; positions from the corner of the tomogram, offsets applied, so that half of its size is its
        middle; rotations from the reference to the tomogram, both of RELION's turned into one. Without random subsets
        they alternate. ``source_name`` ends in ``.tomostar``, as M's does, ``source_hash`` is empty.

    Raises
    ------
    FormatError
        A column is missing, or a tomogram is not known.

    Notes
    -----
    RELION: position = centre + coordinate − S origin and rotation = S A, with S of ``rlnTomoSubtomogramRot`` … and A of
    ``rlnAngleRot`` …
    """
    file = star.read(path)
    table = next((table for table in file if is_tomo_particles(table)), None)
    if table is None:
        raise FormatError(
            path,
            expected=f"a table with _{_NAME} and _{_CENTRED[0]} or _{_CORNER[0]}",
            found=", ".join(f"data_{name}" for name in file.names) or "no block",
            remedy="choose the particles of a tomography project",
        )
    names = table.text(_NAME)
    roots = np.array([str(name).removesuffix(_SUFFIX) for name in names], dtype=object)
    for row, root in enumerate(roots):
        if root not in tomograms:
            raise table.error(
                row, expected="the name of a known tomogram", found=repr(root), remedy="give the tomograms.star with it"
            )
    subtomogram = _rotation(table, _SUBTOMOGRAM)
    offset = np.einsum("nij,nj->ni", subtomogram, _triples(table, _ORIGIN))
    pixel_size = coordinate_pixel_size_angstrom or _coordinate_pixel_size(file, table)
    centred = _centred(table, [tomograms[root] for root in roots], pixel_size)
    half = np.array([tomograms[root].volume_size_angstrom for root in roots]) / 2
    position = centred + half - offset
    used = {_NAME, *_CENTRED, *_CORNER, *_ORIGIN, *_ANGLES, *_SUBTOMOGRAM, _SUBSET, UID_LABEL}
    alternating = 1 + np.arange(len(table)) % 2
    return SpeciesParticles(
        position_angstrom=position[:, None],
        rotation=(subtomogram @ _rotation(table, _ANGLES))[:, None],
        random_subset=table.integers(_SUBSET) if _SUBSET in table else alternating,
        source_name=np.array([f"{root}{_SUFFIX}" for root in roots], dtype=object),
        source_hash=np.array([""] * len(table), dtype=object),
        uid=table.integers(UID_LABEL) if UID_LABEL in table else uids_of_positions(roots, position),
        further={label: table.text(label) for label in table.labels if label not in used},
    )


def write_tomo_particles(
    path: str | Path,
    particles: SpeciesParticles,
    tomograms: Mapping[str, TiltSeries],
    *,
    image_pixel_size_angstrom: float | None = None,
    box_pixel: int | None = None,
    image_dimensionality: int = 2,
    is_ctf_premultiplied: bool = True,
) -> None:
    """Write particles as RELION 5 reads them; of several temporal samples the first.

    Parameters
    ----------
    path : ``particles.star``.
    particles : in the tomograms; of ``further`` RELION's columns are written.
    tomograms : by name without ``.tomostar``.
    image_pixel_size_angstrom, box_pixel : of images that ``_rlnImageName`` names, if there are any.
    image_dimensionality : 2 for a stack of tilts, 3 for a sub-tomogram.
    is_ctf_premultiplied : whether the images are multiplied by their CTF.

    Raises
    ------
    InconsistentDataError
        A particle is in no known tomogram.
    """
    roots = [str(name).removesuffix(_SUFFIX) for name in particles.source_name]
    missing = sorted(set(roots) - set(tomograms))
    if missing:
        raise InconsistentDataError(
            f"Particles to be written must be in known tomograms; got {', '.join(missing)}; leave these particles out."
        )
    half = np.array([tomograms[root].volume_size_angstrom for root in roots]).reshape(-1, 3) / 2
    centred = particles.position_angstrom[:, 0] - half
    angles = euler_from_array(particles.rotation[:, 0])
    optics, groups = _optics(dict.fromkeys(roots), tomograms)
    if image_pixel_size_angstrom is not None and box_pixel is not None:
        unbinned = optics.numbers(_TILT_PIXEL_SIZE)
        of_images = {
            "rlnImageDimensionality": str(image_dimensionality),
            "rlnImagePixelSize": f"{image_pixel_size_angstrom:.6f}",
            "rlnImageSize": str(box_pixel),
            "rlnCtfDataAreCtfPremultiplied": str(int(is_ctf_premultiplied)),
        }
        columns_of_images: dict[str, NDArray] = {
            label: np.full(len(optics), text, dtype=object) for label, text in of_images.items()
        }
        columns_of_images["rlnTomoSubtomogramBinning"] = _texts(image_pixel_size_angstrom / unbinned)
        optics = replace(optics, columns={**optics.columns, **columns_of_images})
    columns: dict[str, NDArray] = {
        _NAME: np.array(roots, dtype=object),
        "rlnTomoParticleName": np.array([f"{root}/{i + 1}" for i, root in enumerate(roots)], dtype=object),
        **{label: _texts(values) for label, values in zip(_CENTRED, centred.T, strict=True)},
        **{label: _texts(np.zeros(len(roots))) for label in (*_ORIGIN, *_SUBTOMOGRAM)},
        **{label: _texts(values) for label, values in zip(_ANGLES, angles.T, strict=True)},
        _SUBSET: np.array(particles.random_subset, dtype=str).astype(object),
        UID_LABEL: np.array(particles.uid, dtype=str).astype(object),
    }
    columns |= {label: values for label, values in particles.further.items() if label.startswith("rln")}
    columns[_GROUP] = np.array([str(groups[root]) for root in roots], dtype=object)
    are_stacks = str(int(image_dimensionality == 2))
    general = star.StarTable(
        name="general", columns={"rlnTomoSubTomosAre2DStacks": np.array([are_stacks])}, is_loop=False
    )
    rows = star.StarTable(name="particles", columns=columns)
    star.write(path, [star.with_version(table, 50001) for table in (general, optics, rows)])


def visible_tilts(particles: SpeciesParticles) -> NDArray[np.bool_]:
    """Return which tilts of each particle there are images of, (N, T); particles must have equally many tilts.

    Raises
    ------
    InconsistentDataError
        The particles do not say it, or have unlike numbers of tilts.
    """
    texts = particles.further.get(_VISIBLE)
    rows = [] if texts is None else [str(text).strip("[]").split(",") for text in texts]
    numbers = sorted({len(row) for row in rows})
    if len(numbers) != 1:
        raise InconsistentDataError(
            f"Particles must have _{_VISIBLE} of equally many tilts; got {numbers or 'none'}; "
            "take the particles of one tilt series at a time."
        )
    return np.array([[value.strip() == "1" for value in row] for row in rows])


def read_optimisation_set(path: str | Path) -> tuple[str, str]:
    """Return the names of the files of particles and of tomograms in an ``optimisation_set.star``.

    Raises
    ------
    FormatError
        One of them is missing.
    """
    table = star.read(path).tables[0]
    return table.value(_PARTICLES), table.value(_TOMOGRAMS)


def write_optimisation_set(path: str | Path, particles: str, tomograms: str) -> None:
    """Write the file that joins particles and tomograms, with their paths from the project folder."""
    columns = {_PARTICLES: np.array([particles]), _TOMOGRAMS: np.array([tomograms])}
    table = star.StarTable(name="", columns=columns, is_loop=False)
    star.write(path, [star.with_version(table, 50001)])


def is_optimisation_set(table: star.StarTable) -> bool:
    """Tell whether a STAR table is an optimisation set."""
    return _PARTICLES in table


def _centred(table: star.StarTable, series: list[TiltSeries], pixel_size: float | None) -> NDArray[np.float64]:
    """Return coordinates in Å from the central voxels of the tomograms, (N, 3)."""
    if all(label in table for label in _CENTRED):
        return _triples(table, _CENTRED)
    spacing = np.array([pixel_size or one.optics.pixel_size_angstrom for one in series])[:, None]
    unbinned = np.array([one.optics.pixel_size_angstrom for one in series])[:, None]
    sides = np.rint(np.array([one.volume_size_angstrom for one in series]) / unbinned)
    centred: NDArray[np.float64] = _triples(table, _CORNER) * spacing - sides // 2 * unbinned
    return centred


def _coordinate_pixel_size(file: star.StarFile, table: star.StarTable) -> float | None:
    """Return the pixel size of WarpTools' coordinates, that of its images; None in RELION's own files."""
    is_of_warp = any(str(name).endswith(_SUFFIX) for name in table.text(_NAME)[:1])
    if not is_of_warp or "optics" not in file or "rlnImagePixelSize" not in file["optics"]:
        return None
    return float(file["optics"].numbers("rlnImagePixelSize")[0])


def _rotation(table: star.StarTable, labels: tuple[str, ...]) -> NDArray[np.float64]:
    angles = _triples(table, labels)
    return array_from_euler(angles[:, 0], angles[:, 1], angles[:, 2])


def _triples(table: star.StarTable, labels: tuple[str, ...]) -> NDArray[np.float64]:
    columns = [table.numbers(label) if label in table else np.zeros(len(table)) for label in labels]
    return np.stack(columns, axis=-1)


def _optics(names: Mapping[str, None], tomograms: Mapping[str, TiltSeries]) -> tuple[star.StarTable, dict[str, int]]:
    """Return the table of optics groups, one for each microscope setting, and the group of each tomogram."""
    groups: dict[tuple[str, ...], int] = {}
    of_name: dict[str, int] = {}
    for name in names:
        optics = tomograms[name].optics
        values = (
            optics.voltage_kv,
            optics.spherical_aberration_mm,
            optics.amplitude_contrast,
            optics.pixel_size_angstrom,
        )
        of_name[name] = groups.setdefault(tuple(f"{value:.6f}" for value in values), len(groups) + 1)
    labels = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", _TILT_PIXEL_SIZE)
    columns = {label: [values[i] for values in groups] for i, label in enumerate(labels)}
    columns[_GROUP] = [str(number) for number in groups.values()]
    columns["rlnOpticsGroupName"] = [f"optics{number}" for number in groups.values()]
    table = star.StarTable(name="optics", columns={label: np.array(values) for label, values in columns.items()})
    return table, of_name


def _texts(values: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.array([f"{value:.6f}" for value in values], dtype=object)
