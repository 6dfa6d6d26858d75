"""Tilt series in RELION's files: ``tomograms.star`` of RELION 5, of RELION 4, and as WarpTools exports it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.image_series import SeriesOptics, SeriesWeights, TiltSeries
from halfmap.errors import FormatError, HalfmapError
from halfmap.io import images, star
from halfmap.io.relion_paths import resolve_paths
from halfmap.io.relion_tilt_geometry import Angles, angles_of_rotation, fields_of_angles
from halfmap.splines.grids import SplineGrid

_NAME, _FILE = "rlnTomoName", "rlnTomoTiltSeriesStarFile"
_SIZES = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")
_PIXEL_SIZE = "rlnTomoTiltSeriesPixelSize"
_ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
_SHIFTS = ("rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
_MATRIX = tuple(f"rlnTomoProj{row}" for row in "XYZ")
_IMAGE, _METADATA = "rlnMicrographName", "rlnMicrographMetadata"
_DEFORMATION = "rlnTomoDeformationCoefficients"
_SCALE_TOLERANCE = 2e-3
"How far scales may be from the cosine of the tilt, which is the default; some files have three decimals."

_GLOBAL_READ = {
    _NAME,
    _FILE,
    *_SIZES,
    _PIXEL_SIZE,
    "rlnTomoHand",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
}
_TILT_READ = {
    *_ANGLES,
    *_SHIFTS,
    *_MATRIX,
    "rlnTomoProjW",
    _IMAGE,
    "rlnMicrographPreExposure",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfScalefactor",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tomograms:
    """Tilt series of a RELION project.

    Parameters
    ----------
    series : in the file's order.
    rejected : reasons of those that could not be read, by name.
    """

    series: tuple[TiltSeries, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> TiltSeries:
        """Return a tilt series by its name."""
        return next(one for one in self.series if one.name == name)


def is_tomograms(file: star.StarFile) -> bool:
    """Tell whether a STAR file holds tilt series of RELION."""
    return any(_NAME in table and (_PIXEL_SIZE in table or _FILE in table) and table.name == "global" for table in file)


def is_tilt_series(table: star.StarTable) -> bool:
    """Tell whether a STAR table lists the tilts of one series of RELION."""
    return _IMAGE in table and (_ANGLES[1] in table or "rlnTomoNominalStageTiltAngle" in table)


def read_tomograms(
    path: str | Path,
    *,
    project_root: str | Path | None = None,
    image_size_pixel: tuple[int, int] | None = None,
    tomo_dimensions_pixel: tuple[int, int, int] | None = None,
) -> Tomograms:
    """Read the tilt series of a RELION project.

    Parameters
    ----------
    path : ``tomograms.star``, or the ``aligned_tilt_series.star`` of an alignment, with dimensions.
    project_root : where paths in the files count from; by default the file's own folder and those above are tried.
    image_size_pixel : (x, y) of the tilt images, where these are not there to be looked at.
    tomo_dimensions_pixel : (x, y, z) of the tomograms, where the file does not say it.

    Returns
    -------
    Tomograms
        ``movie_names`` are those of the images, ``further`` has the other columns: text of the whole series, tuples
        of texts of its tilts. A tilt of scale 0 is not used; scales other than the cosine of the tilt become
        weights. Positions of particles count as M's, from the corner, so that the middle of the tomogram is at half
        of its size.

    Raises
    ------
    FormatError
        The file is something else, or no series in it can be read.

    Notes
    -----
    The geometry is RELION 5's: with c and i the central voxel and pixel (n // 2), a point p of the tomogram lies at
    Rz(rotation) Ry(y tilt) Rx(x tilt) (p − c) + i + shift. Defocus grows with the third component times
    ``rlnTomoHand``: a hand of −1 is M's inverted angles. WarpTools writes matrices without translation, so such a
    series has views but no shifts, and always a hand of −1.
    """
    path = Path(path)
    file = star.read(path)
    if not is_tomograms(file):
        raise FormatError(
            path,
            expected=f"a block data_global with _{_NAME} and _{_PIXEL_SIZE}",
            found=", ".join(f"data_{name}" for name in file.names) or "no block",
            remedy="choose the tomograms.star of a RELION project",
        )
    table = file["global"]
    names = table.text(_NAME).tolist()
    root = _root(path, project_root, table)
    found: list[TiltSeries] = []
    rejected: dict[str, str] = {}
    for row, name in enumerate(names):
        try:
            tilts = _tilts(file, table, row, name, root)
            size = _volume_size(table, row, tomo_dimensions_pixel)
            image = np.array(image_size_pixel or _image_size(tilts, root, size))
            found.append(_series(table, row, tilts, size, image))
        except HalfmapError as error:
            rejected[name] = str(error)
    if not found:
        first = next(iter(rejected.values()), "none in the file")
        raise FormatError(
            path, expected=f"a tilt series that can be read, of {len(names)}", found=f"the first: {first}"
        )
    return Tomograms(series=tuple(found), rejected=rejected)


def _root(path: Path, project_root: str | Path | None, table: star.StarTable) -> Path:
    root = Path(project_root) if project_root is not None else path.parent
    return resolve_paths(path, root, table.text(_FILE).tolist()) if _FILE in table else root


def _tilts(file: star.StarFile, table: star.StarTable, row: int, name: str, root: Path) -> star.StarTable:
    """Return the table of a series' tilts: of its own file, or the block of its name."""
    if _FILE not in table:
        return file[name]
    own = star.read(root / str(table.text(_FILE)[row]))
    return own[name] if name in own else own.tables[0]


def _series(table: star.StarTable, row: int, tilts: star.StarTable, size: NDArray, image: NDArray) -> TiltSeries:
    """Return one tilt series, of a volume of ``size`` and images of ``image`` pixels."""
    if _DEFORMATION in tilts and any(str(text).strip("[] ") for text in tilts.text(_DEFORMATION)):
        raise tilts.error(
            0,
            expected="tilts without fitted deformations",
            found=f"_{_DEFORMATION}",
            remedy="give the tomograms.star from before they were fitted; an image warp refines the same",
        )
    one = {label: str(table.text(label)[row]) for label in table.labels}
    name = one[_NAME].removesuffix(".tomostar")
    pixel_size = _number(table, row, _PIXEL_SIZE)
    volume = tuple((size * pixel_size).tolist())
    dose = tilts.numbers("rlnMicrographPreExposure")
    angles, shift = _geometry(tilts, pixel_size, size, image)
    hand = float(one.get("rlnTomoHand", "-1")) * float(one.get("rlnTomoDefocusSlope", "1"))
    if abs(abs(hand) - 1.0) > 1e-6:
        raise table.error(row, expected="a hand of 1 or −1 and a slope of the defocus of 1", found=str(hand))
    u, v = tilts.numbers("rlnDefocusU"), tilts.numbers("rlnDefocusV")
    return TiltSeries(
        name=name,
        image_size_angstrom=(float(image[0] * pixel_size), float(image[1] * pixel_size)),
        dose_e_per_angstrom2=dose,
        is_used=_column(tilts, "rlnCtfScalefactor", 1.0) > 0,
        optics=SeriesOptics(
            pixel_size_angstrom=pixel_size,
            voltage_kv=_number(table, row, "rlnVoltage"),
            spherical_aberration_mm=_number(table, row, "rlnSphericalAberration"),
            amplitude_contrast=_number(table, row, "rlnAmplitudeContrast"),
        ),
        weights=_weights(tilts, angles[1]),
        defocus_angstrom=_over_tilts((u + v) / 2),
        astigmatism_angstrom=_over_tilts(u - v),
        astigmatism_angle_degrees=_over_tilts(tilts.numbers("rlnDefocusAngle")),
        phase_shift_degrees=_over_tilts(_column(tilts, "rlnPhaseShift", 0.0)),
        volume_size_angstrom=(volume[0], volume[1], volume[2]),
        axis_offset_angstrom=shift + (image // 2 - image / 2) * pixel_size,
        are_angles_inverted=hand < 0,
        movie_names=tuple(tilts.text(_IMAGE).tolist()) if _IMAGE in tilts else (),
        further={label: value for label, value in one.items() if label not in _GLOBAL_READ}
        | {label: tuple(tilts.text(label).tolist()) for label in tilts.labels if label not in _TILT_READ},
        **fields_of_angles(angles, dose, (volume[0], volume[1], volume[2])),
    )


def _geometry(
    tilts: star.StarTable, pixel_size: float, size: NDArray, image: NDArray
) -> tuple[Angles, NDArray[np.float64]]:
    """Return RELION's angles, and shifts in Å from the images' central pixels; matrices count where there are some."""
    if all(label in tilts for label in _MATRIX):
        matrix = np.array([[_vector(tilts, label, row) for label in _MATRIX] for row in range(len(tilts))])
        rotation, translation = matrix[:, :, :3], matrix[:, :2, 3]
        if not matrix[:, :, 3].any():
            return angles_of_rotation(rotation), np.zeros((len(tilts), 2))
        centre = np.einsum("tij,j->ti", rotation, size // 2)[:, :2]
        return angles_of_rotation(rotation), (translation + centre - image // 2) * pixel_size
    x, y, z = (_column(tilts, label, 0.0) if label == _ANGLES[0] else tilts.numbers(label) for label in _ANGLES)
    return (x, y, z), np.stack([_column(tilts, label, 0.0) for label in _SHIFTS], axis=-1)


def _vector(tilts: star.StarTable, label: str, row: int) -> list[float]:
    text = str(tilts.text(label)[row])
    try:
        values = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise tilts.error(row, expected=f"four numbers in brackets as _{label}", found=repr(text))
    return values


def _weights(tilts: star.StarTable, tilt_degrees: NDArray) -> SeriesWeights:
    scale = _column(tilts, "rlnCtfScalefactor", np.nan)
    used = scale > 0
    if not used.any() or np.abs(scale - np.cos(np.radians(tilt_degrees)))[used].max() < _SCALE_TOLERANCE:
        return SeriesWeights()
    return SeriesWeights(scale=_over_tilts(scale))


def _volume_size(table: star.StarTable, row: int, given: tuple[int, int, int] | None) -> NDArray[np.float64]:
    if all(label in table for label in _SIZES):
        return np.array([_number(table, row, label) for label in _SIZES])
    if given is None:
        raise table.error(
            row,
            expected=f"the size of the tomogram (_{_SIZES[0]} …)",
            found="none",
            remedy="give --tomo-dimensions XxYxZ in unbinned pixels, or the tomograms.star of a reconstruction",
        )
    return np.array(given, dtype=np.float64)


def _image_size(tilts: star.StarTable, root: Path, size: NDArray) -> tuple[int, int]:
    """Return (x, y) in pixels: of an image, else of what motion correction noted, else of WarpTools' tomogram."""
    for name in tilts.text(_IMAGE).tolist() if _IMAGE in tilts else []:
        if (root / name).is_file():
            (height, width), _ = images.shape_and_pixel_size(root / name)
            return width, height
    for name in tilts.text(_METADATA).tolist() if _METADATA in tilts else []:
        if (root / name).is_file():
            general = star.read(root / name)["general"]
            binning = float(general.value("rlnMicrographBinning"))
            width, height = (round(int(general.value(f"rlnImageSize{axis}")) / binning) for axis in "XY")
            return width, height
    if _IMAGE not in tilts and all(label in tilts for label in _MATRIX):
        return round(float(size[0])), round(float(size[1]))
    raise tilts.error(
        0, expected="tilt images to take their size from", found="none", remedy="give --image-dimensions XxY in pixels"
    )


def _number(table: star.StarTable, row: int, label: str) -> float:
    return float(table.numbers(label)[row])


def _column(table: star.StarTable, label: str, default: float) -> NDArray[np.float64]:
    return table.numbers(label) if label in table else np.full(len(table), default)


def _over_tilts(values: NDArray[np.float64]) -> SplineGrid:
    return SplineGrid(values=torch.from_numpy(np.array(values, dtype=np.float64)).reshape(-1, 1, 1))
