"""Frame series from RELION's motion correction: ``corrected_micrographs.star`` and a file of motion for each movie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.data.micrographs import MicrographSet
from halfmap.errors import FormatError, HalfmapError
from halfmap.io import relion, star
from halfmap.io.relion_paths import resolve_paths
from halfmap.splines.grids import SplineGrid

_NOT_OBSERVED = -9999.0
"What the table of shifts holds for frames that were not used."

BAD_FRAME = "halfmapIsBadFrame"
"""Column of frames that halfmap left out; their shift lies between those of their neighbours."""

_N_COEFFICIENTS = 18
"Of each direction of the local model."

_N_NODES = 9
"Of local motion along x and y."


_CTF = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees", "phase_shift_degrees")
_KEPT = ("rlnMicrographGainName", "rlnMicrographDefectFile", "rlnEERUpsampling", "rlnEERGrouping")


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedMovies:
    """Movies of a RELION project.

    Parameters
    ----------
    series : in the order of the micrographs.
    micrograph_names : of their sums, beside them.
    rejected : reasons of those that could not be read, by name of the micrograph.
    """

    series: tuple[FrameSeries, ...]
    micrograph_names: tuple[str, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)


def read_corrected_movies(path: str | Path, *, project_root: str | Path) -> CorrectedMovies:
    """Read the movies behind motion-corrected micrographs.

    Parameters
    ----------
    path : STAR file of micrographs with ``_rlnMicrographMetadata``, with or without CTF.
    project_root : where paths in the files count from.

    Raises
    ------
    FormatError
        The file is none of micrographs, or no movie in it can be read.

    Notes
    -----
    A particle at x of the micrograph lies at x − shift in a frame; a shift is that of the frame plus the local model's,
    a polynomial of third order in time and second in place that is 0 in the first frame used. The local model is kept
    on 9 × 9 nodes for each frame. Shifts of frames are in pixels of the movie, the local model's in those of the binned
    sum. Frames that were not used do not take part.
    """
    micrographs = relion.read_micrographs(path)
    if "metadata_name" not in micrographs:
        raise FormatError(
            path,
            expected="the column _rlnMicrographMetadata, which names the motion of each movie",
            found="none",
            remedy="choose the corrected_micrographs.star of RELION's own motion correction, or one made from it",
        )
    names = [str(name) for name in micrographs["metadata_name"]]
    root = resolve_paths(path, project_root, names)
    found: dict[str, FrameSeries] = {}
    rejected: dict[str, str] = {}
    for row, name in enumerate(map(str, micrographs["micrograph_name"])):
        try:
            found[name] = _series(micrographs, row, root / names[row])
        except HalfmapError as error:
            rejected[name] = str(error)
    if not found:
        raise FormatError(path, expected="a movie that can be read", found="; ".join(rejected.values()))
    return CorrectedMovies(series=tuple(found.values()), micrograph_names=tuple(found), rejected=rejected)


def _series(micrographs: MicrographSet, row: int, path: Path) -> FrameSeries:
    file = star.read(path)
    general = file["general"]
    if "rlnMicrographOriginalPixelSize" not in general:
        raise FormatError(
            path, expected="_rlnMicrographOriginalPixelSize", found="none", remedy="correct the movie again"
        )
    pixel_size = float(general.numbers("rlnMicrographOriginalPixelSize")[0])
    size = (float(general.integers("rlnImageSizeX")[0]), float(general.integers("rlnImageSizeY")[0]))
    n = int(general.integers("rlnImageSizeZ")[0])
    shift, is_used = _shifts(file, n)
    local_x, local_y = _local_motion(file, n, pixel_size)
    dose_per_frame = _optional(general, "rlnMicrographDoseRate", 0.0)
    dose = _optional(general, "rlnMicrographPreExposure", 0.0) + dose_per_frame * np.arange(n, dtype=np.float64)
    ctf = {name: float(micrographs[name][row]) if name in micrographs else 0.0 for name in _CTF}
    u, v = ctf["defocus_u_angstrom"], ctf["defocus_v_angstrom"]
    movie = str(general.value("rlnMicrographMovieName"))
    return FrameSeries(
        name=PurePosixPath(movie).stem,
        image_size_angstrom=(size[0] * pixel_size, size[1] * pixel_size),
        dose_e_per_angstrom2=dose,
        is_used=is_used,
        optics=_optics(micrographs, row, pixel_size),
        defocus_angstrom=SplineGrid.constant((u + v) / 2),
        astigmatism_angstrom=SplineGrid.constant(u - v),
        astigmatism_angle_degrees=SplineGrid.constant(ctf["defocus_angle_degrees"]),
        phase_shift_degrees=SplineGrid.constant(ctf["phase_shift_degrees"]),
        movement_x_angstrom=_over_frames(shift[:, 0] * pixel_size),
        movement_y_angstrom=_over_frames(shift[:, 1] * pixel_size),
        local_movement_x_angstrom=local_x,
        local_movement_y_angstrom=local_y,
        n_frames_of_movie=n,
        movie_name=movie,
        further={label: str(general.value(label)) for label in general.labels if label in _KEPT},
    )


def _optics(micrographs: MicrographSet, row: int, pixel_size: float) -> SeriesOptics:
    group = micrographs["optics_group"][row : row + 1]
    columns = micrographs.optics.columns
    names = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    known: dict[str, Any] = {
        name: float(micrographs.optics.values(name, group)[0]) for name in names if name in columns
    }
    return SeriesOptics(pixel_size_angstrom=pixel_size, **known)


def _shifts(file: star.StarFile, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the shift of each frame in pixels, and which were used; the others keep that of the frame before."""
    table = file["global_shift"]
    frame = table.integers("rlnMicrographFrameNumber") - 1
    if ((frame < 0) | (frame >= n)).any():
        row = int(np.flatnonzero((frame < 0) | (frame >= n))[0])
        raise table.error(row, expected=f"a frame from 1 to {n}", found=str(frame[row] + 1), remedy="mend the file")
    shift = np.full((n, 2), _NOT_OBSERVED)
    shift[frame] = np.stack([table.numbers(f"rlnMicrographShift{axis}") for axis in "XY"], axis=-1)
    is_known = (shift != _NOT_OBSERVED).all(axis=-1)
    is_used = is_known.copy()
    if BAD_FRAME in table:
        is_used[frame] &= table.integers(BAD_FRAME) == 0
    last = np.zeros(2)
    for one in range(n):
        last = shift[one] if is_known[one] else last
        shift[one] = last
    return shift, is_used


def _local_motion(file: star.StarFile, n: int, pixel_size: float) -> tuple[SplineGrid, SplineGrid]:
    """Return the local model as grids over (x, y, frame) in Å."""
    if "local_motion_model" not in file:
        return SplineGrid.constant(0.0), SplineGrid.constant(0.0)
    general, table = file["general"], file["local_motion_model"]
    index = table.integers("rlnMotionModelCoeffsIdx")
    if sorted(index.tolist()) != list(range(2 * _N_COEFFICIENTS)):
        raise table.error(0, expected=f"coefficients 0 to {2 * _N_COEFFICIENTS - 1}", found=f"{len(index)} of them")
    coefficients = np.empty(2 * _N_COEFFICIENTS)
    coefficients[index] = table.numbers("rlnMotionModelCoeff")
    binning = _optional(general, "rlnMicrographBinning", 1.0)
    time = np.arange(n) + 1 - _optional(general, "rlnMicrographStartFrame", 1.0)
    place = np.linspace(-0.5, 0.5, _N_NODES)
    y, x = np.meshgrid(place, place, indexing="ij")
    terms = np.stack([np.ones_like(x), x, x**2, y, y**2, x * y])
    powers = np.stack([time, time**2, time**3])
    grids = [
        np.einsum("kp,pt,kyx->tyx", part.reshape(6, 3), powers, terms) * (pixel_size * binning)
        for part in (coefficients[:_N_COEFFICIENTS], coefficients[_N_COEFFICIENTS:])
    ]
    return SplineGrid(values=torch.from_numpy(grids[0])), SplineGrid(values=torch.from_numpy(grids[1]))


def _optional(table: star.StarTable, label: str, default: float) -> float:
    return float(table.numbers(label)[0]) if label in table else default


def _over_frames(values: NDArray[np.float64]) -> SplineGrid:
    return SplineGrid(values=torch.from_numpy(values.copy()).reshape(-1, 1, 1))
