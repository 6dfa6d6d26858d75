"""From a tilt series or frame series to its XML: what did not change stays byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.io import warp_xml
from halfmap.io.warp_grids import change_grid, text_of_grid
from halfmap.io.warp_params import put
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
from halfmap.io.warp_series_reader import series_of_document
from halfmap.io.warp_series_sizes import SeriesSizes
from halfmap.io.warp_xml import XmlDocument
from halfmap.splines.grids import LinearGrid, SplineGrid

_LISTS: dict[str, Callable[[TiltSeries], list[str]]] = {
    "Angles": lambda series: _texts(series.tilt_angle_degrees),
    "Dose": lambda series: _texts(series.dose_e_per_angstrom2),
    "UseTilt": lambda series: [warp_xml.text_of_flag(bool(used)) for used in series.is_used],
    "AxisAngle": lambda series: _texts(series.axis_angle_degrees),
    "AxisOffsetX": lambda series: _texts(series.axis_offset_angstrom[:, 0]),
    "AxisOffsetY": lambda series: _texts(series.axis_offset_angstrom[:, 1]),
    "MoviePath": lambda series: list(series.movie_names),
}
_NUMBER = warp_xml.text_of_number
_PROCESSED = "OptionsMovement"
_ATTRIBUTES: dict[str, Callable[[ImageSeries], str]] = {
    "Bfactor": lambda series: _NUMBER(series.weights.series_b_factor_angstrom2),
    "Weight": lambda series: _NUMBER(series.weights.series_scale),
    "MagnificationCorrection": lambda series: warp_xml.text_of_numbers(series.optics.magnification.T.ravel().tolist()),
    "UnselectManual": lambda series: warp_xml.text_of_flag(not series.is_selected),
}
_TILT_ATTRIBUTES: dict[str, Callable[[TiltSeries], str]] = {
    "AreAnglesInverted": lambda series: warp_xml.text_of_flag(series.are_angles_inverted),
    "LevelAngleX": lambda series: _NUMBER(series.level_angle_x_degrees),
    "LevelAngleY": lambda series: _NUMBER(series.level_angle_y_degrees),
}


def write_series(path: str | Path, series: TiltSeries | FrameSeries, *, base: str | Path | None = None) -> None:
    """Write the metadata of one series, ``<item>.xml``.

    Parameters
    ----------
    path : the file.
    series : what it is to say.
    base : the file whose text is kept where it says the same; the file itself, if there is one, by default. Without,
        a new file is made.

    Raises
    ------
    FormatError
        The base is not of a series.
    ProjectError
        The folder cannot be written to.

    Notes
    -----
    Numbers that changed are written with 12 significant digits; of a grid that keeps its shape only the nodes that
    changed, of a list only the lines.
    """
    base = path if base is None and Path(path).exists() else base
    before: TiltSeries | FrameSeries | None = None
    if base is None:
        document = XmlDocument.new(TILTS if isinstance(series, TiltSeries) else FRAMES, path)
        if isinstance(series, FrameSeries):
            put(document, _PROCESSED, warp_xml.text_of_params(_PROCESSED, _as_processed(series)))
    else:
        document = warp_xml.read(base)
        before = series_of_document(document, _sizes(series))
        if type(before) is not type(series):
            raise document.error(f"the metadata of a {type(series).__name__}", f"of a {type(before).__name__}")
    _set_attributes(document, before, series)
    if isinstance(series, TiltSeries):
        _set_lists(document, before if isinstance(before, TiltSeries) else None, series)
    _set_optics(document, before, series)
    _set_grids(document, before, series)
    document.write(path)


def _sizes(series: TiltSeries | FrameSeries) -> SeriesSizes:
    dose = series.dose_e_per_angstrom2
    return SeriesSizes(
        image_size_angstrom=series.image_size_angstrom,
        volume_size_angstrom=series.volume_size_angstrom if isinstance(series, TiltSeries) else None,
        n_frames=len(series),
        dose_per_frame_e_per_angstrom2=float(dose[1] - dose[0]) if len(dose) > 1 else 0.0,
    )


def _as_processed(series: FrameSeries) -> dict[str, str]:
    """Return the options of Warp from which the number of frames and their dose are read again."""
    sizes = _sizes(series)
    return {
        "Dimensions": warp_xml.text_of_numbers([*series.image_size_angstrom, len(series)]),
        "DosePerAngstromFrame": _NUMBER(sizes.dose_per_frame_e_per_angstrom2 or 0.0),
    }


def _set_attributes(document: XmlDocument, before: ImageSeries | None, series: ImageSeries) -> None:
    wanted: dict[str, tuple[str | None, str]] = {
        name: (None if before is None else text(before), text(series)) for name, text in _ATTRIBUTES.items()
    }
    if isinstance(series, TiltSeries):
        old = before if isinstance(before, TiltSeries) else None
        wanted |= {name: (None if old is None else text(old), text(series)) for name, text in _TILT_ATTRIBUTES.items()}
        wanted["VolumeDimensionsAngstrom"] = (
            None if old is None else warp_xml.text_of_numbers(old.volume_size_angstrom),
            warp_xml.text_of_numbers(series.volume_size_angstrom),
        )
    wanted["ImageDimensionsAngstrom"] = (
        None if before is None else warp_xml.text_of_numbers(before.image_size_angstrom),
        warp_xml.text_of_numbers(series.image_size_angstrom),
    )
    for name, value in series.further.items():
        wanted[name] = (None if before is None else before.further.get(name), str(value))
    for name, (old_text, text) in wanted.items():
        if text != old_text:
            document.set_attribute(document.root, name, text)


def _set_lists(document: XmlDocument, before: TiltSeries | None, series: TiltSeries) -> None:
    for name, texts in _LISTS.items():
        values = texts(series)
        old = [] if before is None else texts(before)
        if values == old:
            continue
        kept = warp_xml.lines(document.root.first(name))
        if len(kept) == len(old) == len(values):
            values = [line if was == now else now for line, was, now in zip(kept, old, values, strict=True)]
        put(document, name, warp_xml.text_of_lines(name, values))


def _set_optics(document: XmlDocument, before: ImageSeries | None, series: ImageSeries) -> None:
    params = {
        name: _NUMBER(getattr(series.optics, field))
        for field, name in OPTICS.items()
        if before is None or getattr(before.optics, field) != getattr(series.optics, field)
    }
    for field, (name, _, factor) in ZERNIKE.items():
        values = getattr(series.optics, field)
        if before is None or not np.array_equal(values, getattr(before.optics, field)):
            params[name] = ";".join(map(_NUMBER, factor * values + 0.0))
    element = document.root.first("CTF")
    if element is None or not element.children:
        if params:
            put(document, "CTF", warp_xml.text_of_params("CTF", params))
        return
    for name, value in params.items():
        document.set_param(element, name, value)


def _set_grids(document: XmlDocument, before: ImageSeries | None, series: ImageSeries) -> None:
    table = dict(GRIDS)
    if isinstance(series, FrameSeries):
        table |= FRAME_GRIDS
    else:
        table |= {field: (name, 1.0) for field, name in WARPS.items()}
    for field, (name, factor) in table.items():
        old = None if before is None else getattr(before, field)
        _set_grid(document, name, old, getattr(series, field), factor)
    for field, name in WEIGHT_GRIDS.items():
        old = None if before is None else getattr(before.weights, field)
        _set_grid(document, name, old, getattr(series.weights, field), 1.0)
    if isinstance(series, FrameSeries):
        for field, name in PYRAMIDS.items():
            _set_pyramid(document, name, () if before is None else getattr(before, field), getattr(series, field))


def _set_grid(
    document: XmlDocument,
    name: str,
    before: SplineGrid | LinearGrid | None,
    after: SplineGrid | LinearGrid,
    factor: float,
) -> None:
    if before is not None and _is_same(before, after):
        return
    element = document.root.first(name, *OTHER_NAMES.get(name, ()))
    if element is None or before is None:
        document.append(document.root, text_of_grid(name, after, factor))
    else:
        change_grid(document, element, before, after, factor)


def _set_pyramid(
    document: XmlDocument, name: str, before: tuple[SplineGrid, ...], after: tuple[SplineGrid, ...]
) -> None:
    elements = document.root.all(name)
    for index, grid in enumerate(after):
        if index >= len(elements):
            document.append(document.root, text_of_grid(name, grid, 1.0))
        elif not _is_same(before[index], grid):
            change_grid(document, elements[index], before[index], grid, 1.0)
    for element in elements[len(after) :]:
        document.replace(element, "")


def _is_same(first: SplineGrid | LinearGrid, second: SplineGrid | LinearGrid) -> bool:
    same_values = first.values.shape == second.values.shape and bool((first.values == second.values).all())
    margins = [grid.margin for grid in (first, second) if isinstance(grid, SplineGrid)]
    return same_values and (not margins or margins[0] == margins[1])


def _texts(values: np.ndarray) -> list[str]:
    return [_NUMBER(float(value)) for value in values]
