"""How RELION turns a tomogram into a tilt, as fields of a tilt series, and back.

RELION turns by Rz(rotation) Ry(y tilt) Rx(x tilt), each of every tilt's own. A tilt series of M has one x tilt, that
of its level; what a tilt differs from it by becomes a volume warp, linear in y and z, and a stage angle, which together
are the same turn of places and of views.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.image_series import TiltSeries
from halfmap.errors import InconsistentDataError
from halfmap.splines.grids import LinearGrid, SplineGrid, values_over_images

_SAME_DEGREES = 1e-5
_TOLERANCE_ANGSTROM = 0.05
"How far places may be off when a series is written as RELION's."

Angles = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"About x, y and z, degrees, (T,) each."


def rotation_of_angles(x_degrees: NDArray, y_degrees: NDArray, z_degrees: NDArray) -> NDArray[np.float64]:
    """Return Rz Ry Rx, shape (T, 3, 3): right-handed turns about x, then y, then z."""
    return _about(2, z_degrees) @ _about(1, y_degrees) @ _about(0, x_degrees)


def angles_of_rotation(rotation: NDArray[np.float64]) -> Angles:
    """Return the angles of Rz Ry Rx in degrees, y from −90 to 90."""
    x = np.degrees(np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]))
    y = np.degrees(np.arctan2(-rotation[:, 2, 0], np.hypot(rotation[:, 2, 1], rotation[:, 2, 2])))
    z = np.degrees(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    return x, y, z


def fields_of_angles(
    angles: Angles, dose: NDArray[np.float64], volume_size_angstrom: tuple[float, float, float]
) -> dict[str, Any]:
    """Return the fields of a `TiltSeries` that turn as RELION's angles do.

    Parameters
    ----------
    angles : RELION's ``rlnTomoXTilt``, ``rlnTomoYTilt`` and ``rlnTomoZRot``.
    dose : (T,), before each tilt.
    volume_size_angstrom : (x, y, z).

    Raises
    ------
    InconsistentDataError
        Tilts of the same dose have unlike x tilts.

    Notes
    -----
    M's tilt angle is the negated y tilt, its axis angle the rotation.
    """
    x, y, z = angles
    level = float(x.mean())
    fields: dict[str, Any] = {
        "tilt_angle_degrees": -y,
        "axis_angle_degrees": np.array(z),
        "level_angle_x_degrees": level,
    }
    if np.ptp(x) < _SAME_DEGREES:
        return fields
    base = rotation_of_angles(np.full_like(x, level), y, z)
    turn = angles_of_rotation(rotation_of_angles(x, y, z) @ base.transpose(0, 2, 1))
    for axis, values in zip("xyz", turn, strict=True):
        fields[f"stage_angle_{axis}_degrees"] = SplineGrid(values=torch.from_numpy(values.copy()).reshape(-1, 1, 1))
    return fields | _warp_of_x_tilts(x - level, dose, volume_size_angstrom)


def angles_of_series(series: TiltSeries) -> tuple[Angles, NDArray[np.float64]]:
    """Return RELION's angles of a tilt series and its shifts in Å, (T, 2), from the images' centres.

    Raises
    ------
    InconsistentDataError
        Movement, volume warp or stage angles are more than turns and shifts of whole tilts.
    """
    base = _base_rotation(series)
    stage = [
        values_over_images(grid, torch.full((len(series), 2), 0.5, dtype=torch.float64), series.image_time).numpy()
        for grid in (series.stage_angle_x_degrees, series.stage_angle_y_degrees, series.stage_angle_z_degrees)
    ]
    rotation = rotation_of_angles(*stage) @ base
    half = np.array(series.volume_size_angstrom) / 2
    corners = np.array(np.meshgrid(*([-1.0, 0.0, 1.0],) * 3)).reshape(3, -1).T * half
    places = _places(series, base, corners)
    shift = places[len(corners) // 2]
    expected = np.einsum("tij,pj->pti", rotation, corners)[..., :2] + shift
    error = float(np.abs(places - expected).max())
    if error > _TOLERANCE_ANGSTROM:
        raise InconsistentDataError(
            f"Tilt series {series.name} must be without deformation to be written as RELION's; got places up to "
            f"{error:.2f} Å away from those of plain tilts; export its particles as images instead, or keep it in M's "
            "files."
        )
    return angles_of_rotation(rotation), shift


def _base_rotation(series: TiltSeries) -> NDArray[np.float64]:
    tilt = series.tilt_angle_degrees + series.level_angle_y_degrees
    return rotation_of_angles(np.full(len(series), series.level_angle_x_degrees), -tilt, series.axis_angle_degrees)


def _places(series: TiltSeries, rotation: NDArray, points: NDArray) -> NDArray[np.float64]:
    """Return where points, Å from the volume's centre, lie in the tilts, from the images' centres, (P, T, 2)."""
    where = torch.from_numpy(points / np.array(series.volume_size_angstrom) + 0.5)
    over_tilts = where[:, None].expand(-1, len(series), -1)
    warps = (series.volume_warp_x_angstrom, series.volume_warp_y_angstrom, series.volume_warp_z_angstrom)
    warp = torch.stack([values_over_images(grid, over_tilts, series.dose_time) for grid in warps], dim=-1).numpy()
    tilted = np.einsum("tij,ptj->pti", rotation, points[:, None] + warp)[..., :2] + series.axis_offset_angstrom
    in_image = torch.from_numpy(tilted / np.array(series.image_size_angstrom) + 0.5)
    movements = (series.movement_x_angstrom, series.movement_y_angstrom)
    moved = torch.stack([values_over_images(grid, in_image, series.image_time) for grid in movements], dim=-1)
    places: NDArray[np.float64] = tilted - moved.numpy()
    return places


def _warp_of_x_tilts(
    x_degrees: NDArray[np.float64], dose: NDArray[np.float64], volume_size_angstrom: tuple[float, float, float]
) -> dict[str, LinearGrid]:
    """Return the volume warp that turns each tilt about x: two nodes along y and z, and enough over dose.

    Nodes over dose are so dense that the two beside a tilt belong to it alone, so its turn is exact.
    """
    time = (dose - dose.min()) / max(float(np.ptp(dose)), 1e-12)
    gaps = np.diff(np.unique(time))
    n = int(np.ceil(2.0 / gaps.min())) + 2 if len(gaps) else 1
    nodes = np.linspace(0.0, 1.0, n)
    nearest = np.abs(nodes[:, None] - time).argmin(axis=1)
    used = x_degrees[nearest]
    at_tilt = used[np.abs(time[:, None] - nodes).argmin(axis=1)]
    if not np.allclose(at_tilt, x_degrees, atol=_SAME_DEGREES):
        raise InconsistentDataError(
            "Tilts of one dose must have one x tilt; got several; give each tilt its own _rlnMicrographPreExposure."
        )
    y, z = np.meshgrid(np.array([-0.5, 0.5]) * volume_size_angstrom[1], np.array([-0.5, 0.5]) * volume_size_angstrom[2])
    cosine, sine = (function(np.radians(used))[:, None, None] for function in (np.cos, np.sin))
    warp_y = (cosine - 1) * y - sine * z
    warp_z = sine * y + (cosine - 1) * z
    return {
        f"volume_warp_{axis}_angstrom": LinearGrid(values=torch.from_numpy(values[..., None].copy()))
        for axis, values in (("y", warp_y), ("z", warp_z))
    }


def _about(axis: int, degrees: NDArray) -> NDArray[np.float64]:
    angle = np.radians(np.asarray(degrees, dtype=np.float64))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first] = np.sin(angle)
    matrix[..., first, second] = -np.sin(angle)
    return matrix
