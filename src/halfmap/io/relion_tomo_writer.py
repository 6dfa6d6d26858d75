"""Tilt series as RELION 5 reads them: ``tomograms.star`` and a file for each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halfmap.data.image_series import TiltSeries
from halfmap.io import star
from halfmap.io.relion_tilt_geometry import angles_of_series


def write_tomograms(path: str | Path, series: Iterable[TiltSeries], *, project_root: str | Path) -> None:
    """Write tilt series as RELION 5 reads them: the file, and one in ``tilt_series/`` beside it for each.

    Parameters
    ----------
    path : ``tomograms.star``.
    series : movements, volume warps and stage angles may be none but turns and shifts of whole tilts.
    project_root : paths are written relative to it.

    Raises
    ------
    InconsistentDataError
        A series is deformed, which RELION's files cannot say.
    """
    path = Path(path)
    rows: list[dict[str, str]] = []
    tables: list[tuple[Path, star.StarTable]] = []
    for one in series:
        place = path.parent / "tilt_series" / f"{one.name}.star"
        tables.append((place, _tilt_table(one)))
        rows.append(_global_row(one, place.absolute().relative_to(Path(project_root).absolute())))
    labels = list(dict.fromkeys(label for row in rows for label in row))
    columns = {label: np.array([row.get(label, "None") for row in rows], dtype=object) for label in labels}
    for place, table in tables:
        star.write(place, [star.with_version(table, 50001)])
    star.write(path, [star.with_version(star.StarTable(name="global", columns=columns), 50001)])


def _tilt_table(series: TiltSeries) -> star.StarTable:
    (x, y, z), from_centre = angles_of_series(series)
    pixel_size = series.optics.pixel_size_angstrom
    image = np.rint(np.array(series.image_size_angstrom) / pixel_size)
    shift = from_centre - (image // 2 - image / 2) * pixel_size
    middle = torch.full((len(series), 2), 0.5, dtype=torch.float64)
    coordinates = torch.cat([middle, series.image_time[:, None]], dim=-1)
    defocus, difference = series.defocus_angstrom(coordinates).numpy(), series.astigmatism_angstrom(coordinates).numpy()
    scale = series.weights.scale
    scales = np.cos(np.radians(y)) if scale.shape == (1, 1, 1) else scale(coordinates).numpy()
    numbers = {
        "rlnMicrographPreExposure": series.dose_e_per_angstrom2,
        "rlnDefocusU": defocus + difference / 2,
        "rlnDefocusV": defocus - difference / 2,
        "rlnDefocusAngle": series.astigmatism_angle_degrees(coordinates).numpy(),
        "rlnPhaseShift": series.phase_shift_degrees(coordinates).numpy(),
        "rlnTomoXTilt": x,
        "rlnTomoYTilt": y,
        "rlnTomoZRot": z,
        "rlnTomoXShiftAngst": shift[:, 0],
        "rlnTomoYShiftAngst": shift[:, 1],
        "rlnCtfScalefactor": np.where(series.is_used, scales, 0.0),
    }
    columns: dict[str, Any] = {}
    if series.movie_names:
        columns["rlnMicrographName"] = np.array(series.movie_names, dtype=object)
    columns |= {label: np.array([f"{value:.6f}" for value in values]) for label, values in numbers.items()}
    columns |= {
        label: np.array(values, dtype=object) for label, values in series.further.items() if isinstance(values, tuple)
    }
    return star.StarTable(name=series.name, columns=columns)


def _global_row(series: TiltSeries, tilts: Path) -> dict[str, str]:
    optics = series.optics
    pixels = np.rint(np.array(series.volume_size_angstrom) / optics.pixel_size_angstrom).astype(int).tolist()
    row = {
        "rlnTomoName": series.name,
        "rlnVoltage": f"{optics.voltage_kv:.6f}",
        "rlnSphericalAberration": f"{optics.spherical_aberration_mm:.6f}",
        "rlnAmplitudeContrast": f"{optics.amplitude_contrast:.6f}",
        "rlnMicrographOriginalPixelSize": f"{optics.pixel_size_angstrom:.6f}",
        "rlnTomoHand": "-1.000000" if series.are_angles_inverted else "1.000000",
        "rlnOpticsGroupName": "optics1",
        "rlnTomoTiltSeriesPixelSize": f"{optics.pixel_size_angstrom:.6f}",
        "rlnTomoTiltSeriesStarFile": tilts.as_posix(),
        **{f"rlnTomoSize{axis}": str(side) for axis, side in zip("XYZ", pixels, strict=True)},
    }
    kept = {
        label: value for label, value in series.further.items() if isinstance(value, str) and label.startswith("rln")
    }
    return row | kept
