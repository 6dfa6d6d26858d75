"""The motion of a movie as RELION's motion correction writes it, one STAR file for each movie."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.image_series import FrameSeries
from halfmap.io import star
from halfmap.io.relion_motion import BAD_FRAME
from halfmap.splines.grids import SplineGrid

_N_PLACES = 9
_MODEL = "1"


def write_motion(path: str | Path, series: FrameSeries, *, general: Mapping[str, str], binning: float = 1.0) -> float:
    """Write ``general``, ``global_shift`` and ``local_motion_model`` of a movie.

    Parameters
    ----------
    path : the file.
    series : with motion and doses.
    general : labels and values besides size, pixel size and doses, such as the gain.
    binning : of the sums.

    Returns
    -------
    float
        How far the polynomial lies from the local motion, root mean square of each axis in pixels of the movie, without
        what is constant at a place.

    Notes
    -----
    Local motion becomes what RELION 3.1 and later know: a polynomial of third order in time, 0 in the first frame,
    times one of second order in place; its mean over the field at each time goes into the global shift. As of RELION's
    own program, shifts of frames are in pixels of the movie, the model's in those of the binned sum. The inverse of
    `halfmap.io.relion_motion`.
    """
    size = series.optics.pixel_size_angstrom
    n = len(series)
    whole = [grid.values.flatten().numpy() / size for grid in (series.movement_x_angstrom, series.movement_y_angstrom)]
    local = [_sampled(grid, n) / size for grid in (series.local_movement_x_angstrom, series.local_movement_y_angstrom)]
    means = [part.mean(axis=(1, 2)) for part in local]
    shift = np.stack([one + mean for one, mean in zip(whole, means, strict=True)], axis=-1)
    shift -= shift[0]
    # what is constant at a place over all frames nothing can tell, and the model need not meet it
    terms = _without_mean_over_time(_terms(n), n)
    differing = [
        _without_mean_over_time((part - mean[:, None, None]).reshape(-1, 1), n)[:, 0]
        for part, mean in zip(local, means, strict=True)
    ]
    fitted = [np.linalg.lstsq(terms, part, rcond=None)[0] for part in differing]
    left = np.stack([part - terms @ one for part, one in zip(differing, fitted, strict=True)])
    tables = [
        star.with_version(_general(series, general, binning)),
        star.with_version(_global_shift(shift, series.is_used)),
    ]
    if any(np.abs(part).max() > 0 for part in differing):
        tables.append(star.with_version(_model(np.concatenate(fitted) / binning)))
    star.write(path, tables)
    return float(np.sqrt((left**2).mean()))


def _without_mean_over_time(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return values (frames × places, m) without their mean over the n frames at each place."""
    parted = values.reshape(n, -1, values.shape[-1])
    return (parted - parted.mean(axis=0)).reshape(values.shape)


def _sampled(grid: SplineGrid, n: int) -> NDArray[np.float64]:
    """Return a grid's values, (frames, y, x), at 9 × 9 places."""
    place = torch.linspace(0, 1, _N_PLACES, dtype=torch.float64)
    time = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    return grid(torch.stack(torch.meshgrid(time, place, place, indexing="ij")[::-1], dim=-1)).numpy()


def _terms(n: int) -> NDArray[np.float64]:
    """Return the polynomial's terms at frames and places, (frames × y × x, 18)."""
    time = np.arange(n, dtype=np.float64)
    place = np.linspace(-0.5, 0.5, _N_PLACES)
    y, x = np.meshgrid(place, place, indexing="ij")
    of_place = np.stack([np.ones_like(x), x, x**2, y, y**2, x * y])
    of_time = np.stack([time, time**2, time**3])
    return np.einsum("kyx,pt->tyxkp", of_place, of_time).reshape(-1, 18)


def _general(series: FrameSeries, general: Mapping[str, str], binning: float) -> star.StarTable:
    size = series.optics.pixel_size_angstrom
    x, y = (round(side / size) for side in series.image_size_angstrom)
    values = {
        "rlnImageSizeX": str(x),
        "rlnImageSizeY": str(y),
        "rlnImageSizeZ": str(len(series)),
        "rlnMicrographMovieName": series.movie_name,
        **general,
        "rlnMicrographBinning": f"{binning:.6f}",
        "rlnMicrographOriginalPixelSize": f"{size:.6f}",
        "rlnMicrographDoseRate": f"{series.dose_per_image_e_per_angstrom2:.6f}",
        "rlnMicrographPreExposure": f"{float(series.dose_e_per_angstrom2[0]):.6f}",
        "rlnVoltage": f"{series.optics.voltage_kv:.6f}",
        "rlnMicrographStartFrame": "1",
        "rlnMotionModelVersion": _MODEL,
    }
    columns = {label: np.array([value], dtype=object) for label, value in values.items()}
    return star.StarTable(name="general", columns=columns, is_loop=False)


def _global_shift(shift: NDArray[np.float64], is_used: NDArray[np.bool_]) -> star.StarTable:
    columns = {
        "rlnMicrographFrameNumber": _text(str(frame + 1) for frame in range(len(shift))),
        "rlnMicrographShiftX": _text(f"{x:.6f}" for x in shift[:, 0]),
        "rlnMicrographShiftY": _text(f"{y:.6f}" for y in shift[:, 1]),
    }
    if not is_used.all():
        columns[BAD_FRAME] = _text(str(int(not used)) for used in is_used)
    return star.StarTable(name="global_shift", columns=columns)


def _model(coefficients: NDArray[np.float64]) -> star.StarTable:
    columns = {
        "rlnMotionModelCoeffsIdx": _text(str(index) for index in range(len(coefficients))),
        "rlnMotionModelCoeff": _text(f"{value:.9e}" for value in coefficients),
    }
    return star.StarTable(name="local_motion_model", columns=columns)


def _text(words: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(words), dtype=object)
