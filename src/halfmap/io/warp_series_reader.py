"""From the XML of one tilt series or frame series to the noun, in our units."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_series import FrameSeries, SeriesOptics, SeriesWeights, TiltSeries
from halfmap.io import warp_xml
from halfmap.io.warp_grids import read_linear_grid, read_spline_grid
from halfmap.io.warp_series_fields import (
    FRAME_GRIDS,
    FRAMES,
    GRIDS,
    OPTICS,
    OTHER_NAMES,
    PYRAMIDS,
    TILTS,
    WARPS,
    WEIGHT_GRIDS,
    ZERNIKE,
)
from halfmap.io.warp_series_sizes import SeriesSizes, dose_of_frame, image_size, n_frames, params_of, volume_size
from halfmap.io.warp_xml import XmlDocument
from halfmap.splines.grids import LinearGrid, SplineGrid

_OF_CTF = {
    "defocus_angstrom": ("Defocus", 2.0),
    "astigmatism_angstrom": ("DefocusDelta", 0.0),
    "astigmatism_angle_degrees": ("DefocusAngle", 0.0),
    "phase_shift_degrees": ("PhaseShift", 0.0),
}
"Where a file without the grid has its value: in CTF, with M's default."

_READ_ATTRIBUTES = {
    "AreAnglesInverted",
    "Bfactor",
    "ImageDimensionsAngstrom",
    "LevelAngleX",
    "LevelAngleY",
    "MagnificationCorrection",
    "UnselectFilter",
    "UnselectManual",
    "VolumeDimensionsAngstrom",
    "Weight",
}


def read_series(path: str | Path, sizes: SeriesSizes | None = None) -> TiltSeries | FrameSeries:
    """Read the metadata of one series, ``<item>.xml`` of Warp, WarpTools or M of any version.

    Parameters
    ----------
    path : the file; the series takes its name.
    sizes : what to take where the file does not say it, as files of older versions do not.

    Raises
    ------
    FormatError
        The file is not of a series, says too little, or contradicts itself: lists or grids that do not fit the
        number of tilts are named.

    Notes
    -----
    Defocus in µm and phase shift in π become Å and degrees. A missing grid of the CTF is the value in ``CTF``.
    ``further`` holds the root's attributes that are none of a series' fields.
    """
    return series_of_document(warp_xml.read(path), sizes or SeriesSizes())


def series_of_document(document: XmlDocument, sizes: SeriesSizes) -> TiltSeries | FrameSeries:
    """Return the series of a document; see `read_series`."""
    if document.root.name == TILTS:
        return _tilt_series(document, sizes)
    if document.root.name == FRAMES:
        return _frame_series(document, sizes)
    raise document.error(
        f"metadata of a tilt series or of a movie (<{TILTS}> or <{FRAMES}>)",
        f"<{document.root.name}>",
        "choose an item's XML file of Warp or M",
    )


def _tilt_series(document: XmlDocument, sizes: SeriesSizes) -> TiltSeries:
    angles = _list(document, "Angles", None, 0)
    n = len(angles)
    if not n:
        raise document.error("the angles of at least one tilt in <Angles>", "none", "import the tilt series again")
    root = document.root.attributes
    offset = np.stack([_list(document, f"AxisOffset{axis}", n, 0.0) for axis in "XY"], axis=-1)
    common = _common(document, sizes, n)
    _check_depths(document, common, n)
    common |= {field: _linear_grid(document, name) for field, name in WARPS.items()}
    return TiltSeries(
        **common,
        dose_e_per_angstrom2=_list(document, "Dose", n, None),
        is_used=_flags(document, "UseTilt", n),
        volume_size_angstrom=volume_size(document, sizes),
        tilt_angle_degrees=angles,
        axis_angle_degrees=_list(document, "AxisAngle", n, 0.0),
        axis_offset_angstrom=offset,
        level_angle_x_degrees=warp_xml.number(root.get("LevelAngleX", "0"), "LevelAngleX", document),
        level_angle_y_degrees=warp_xml.number(root.get("LevelAngleY", "0"), "LevelAngleY", document),
        are_angles_inverted=warp_xml.flag(root.get("AreAnglesInverted", "")),
        movie_names=tuple(_texts(document, "MoviePath", n)),
    )


def _frame_series(document: XmlDocument, sizes: SeriesSizes) -> FrameSeries:
    n = n_frames(document, sizes)
    fields = _common(document, sizes, n)
    fields |= {field: _grid(document, name, factor) or _zero() for field, (name, factor) in FRAME_GRIDS.items()}
    for field, name in PYRAMIDS.items():
        fields[field] = tuple(read_spline_grid(element, document, 1.0) for element in document.root.all(name))
    return FrameSeries(
        **fields,
        dose_e_per_angstrom2=np.arange(n, dtype=np.float64) * dose_of_frame(document, sizes, n),
        is_used=np.ones(n, dtype=bool),
        n_frames_of_movie=n,
    )


def _common(document: XmlDocument, sizes: SeriesSizes, n: int) -> dict[str, Any]:
    """Return the fields that both kinds of series have."""
    root = document.root.attributes
    ctf = params_of(document, "CTF")
    fields: dict[str, Any] = {
        "name": document.path.stem,
        "image_size_angstrom": image_size(document, sizes),
        "optics": _optics(document, ctf),
        "weights": SeriesWeights(
            series_scale=warp_xml.number(root.get("Weight", "1"), "Weight", document),
            series_b_factor_angstrom2=warp_xml.number(root.get("Bfactor", "0"), "Bfactor", document),
            **{
                field: _grid(document, name, 1.0) or SplineGrid.constant(1.0 if "scale" in field else 0.0)
                for field, name in WEIGHT_GRIDS.items()
            },
        ),
        "is_selected": _is_selected(root),
        "further": {name: value for name, value in root.items() if name not in _READ_ATTRIBUTES},
    }
    for field, (name, factor) in GRIDS.items():
        grid = _grid(document, name, factor)
        if grid is None and field in _OF_CTF:
            param, default = _OF_CTF[field]
            value = warp_xml.number(ctf[param], f"{param} of CTF", document) if param in ctf else default
            grid = SplineGrid.constant(value * factor)
        fields[field] = grid or _zero()
    return fields


def _optics(document: XmlDocument, ctf: Mapping[str, str]) -> SeriesOptics:
    values: dict[str, Any] = {
        field: warp_xml.number(ctf[name], f"{name} of CTF", document) for field, name in OPTICS.items() if name in ctf
    }
    if not values.get("pixel_size_angstrom"):
        raise document.error("a PixelSize in <CTF>", "none", "estimate the CTF of this series first")
    for field, (name, n, factor) in ZERNIKE.items():
        found = warp_xml.numbers(ctf.get(name, ""), f"{name} of CTF", document)
        if len(found) > n:
            raise document.error(f"at most {n} numbers as {name}", f"{len(found)}", "mend the value")
        values[field] = factor * np.array(found + [0.0] * (n - len(found))) + 0.0  # no minus zero
    values["magnification"] = _magnification(document)
    return SeriesOptics(**values)


def _magnification(document: XmlDocument) -> NDArray[np.float64]:
    """Return the 2 × 2 matrix; the file has it column by column, and old ones have 1, 1, 0 for none."""
    text = document.root.attributes.get("MagnificationCorrection", "")
    values = warp_xml.numbers(text, "MagnificationCorrection", document)
    if len(values) == 4:
        return np.array(values).reshape(2, 2).T
    if values in ([], [1.0, 1.0, 0.0]):
        return np.eye(2)
    raise document.error(
        "four numbers as MagnificationCorrection", repr(text), "open and save the series with Warp 1.1 or later"
    )


def _is_selected(root: Mapping[str, str]) -> bool:
    """Tell whether a series is used; what was said by hand counts before the filter."""
    by_hand = root.get("UnselectManual", "").strip().lower()
    unselected = by_hand if by_hand in ("true", "false") else root.get("UnselectFilter", "")
    return not warp_xml.flag(unselected)


def _grid(document: XmlDocument, name: str, factor: float) -> SplineGrid | None:
    element = document.root.first(name, *OTHER_NAMES.get(name, ()))
    return None if element is None else read_spline_grid(element, document, factor)


def _linear_grid(document: XmlDocument, name: str) -> LinearGrid:
    element = document.root.first(name)
    return LinearGrid.constant(0.0) if element is None else read_linear_grid(element, document)


def _zero() -> SplineGrid:
    return SplineGrid.constant(0.0)


def _check_depths(document: XmlDocument, fields: Mapping[str, Any], n: int) -> None:
    """Refuse grids over tilts that have another number of them."""
    grids = {name: fields[field] for field, (name, _) in GRIDS.items()}
    grids |= {name: getattr(fields["weights"], field) for field, name in WEIGHT_GRIDS.items() if "Dose" in name}
    for name, grid in grids.items():
        if grid.shape[0] not in (1, n):
            raise document.error(
                f"1 or {n} nodes over tilts in {name}, as there are {n} tilts",
                f"Depth={grid.shape[0]}",
                "estimate this quantity anew for the series, or restore the tilts that were removed from the list",
            )


def _list(document: XmlDocument, name: str, n: int | None, default: float | None) -> NDArray[np.float64]:
    values = warp_xml.lines(document.root.first(name))
    if not values and n is not None and default is not None:
        return np.full(n, default)
    _check_length(document, name, values, n)
    return np.array([warp_xml.number(value, name, document) for value in values])


def _flags(document: XmlDocument, name: str, n: int) -> NDArray[np.bool_]:
    values = warp_xml.lines(document.root.first(name)) or ["True"] * n
    _check_length(document, name, values, n)
    return np.array([warp_xml.flag(value) for value in values])


def _texts(document: XmlDocument, name: str, n: int) -> list[str]:
    values = warp_xml.lines(document.root.first(name))
    if values:
        _check_length(document, name, values, n)
    return values


def _check_length(document: XmlDocument, name: str, values: list[str], n: int | None) -> None:
    if n is not None and len(values) != n:
        raise document.error(
            f"{n} values in <{name}>, one for each tilt in <Angles>", f"{len(values)}", "import the tilt series again"
        )
