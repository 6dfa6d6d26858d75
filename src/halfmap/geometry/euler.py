"""Euler angles of arrays: what files hold and need no tensor for.

The formulas are written once, for numpy and torch alike; `halfmap.geometry.rotations` gives them tensors.
"""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_POLE = 1e-9


def matrix_of_angles(library: ModuleType, rot: Any, tilt: Any, psi: Any) -> Any:
    """Return A = Z(psi) Y(tilt) Z(rot), shape (..., 3, 3).

    Parameters
    ----------
    library : numpy or torch.
    rot, tilt, psi : radians, all of one shape; arrays of that library.
    """
    (cf, sf), (ct, st), (cp, sp) = ((library.cos(angle), library.sin(angle)) for angle in (rot, tilt, psi))
    rows = [
        library.stack([cp * ct * cf - sp * sf, cp * ct * sf + sp * cf, -cp * st], axis=-1),
        library.stack([-sp * ct * cf - cp * sf, -sp * ct * sf + cp * cf, sp * st], axis=-1),
        library.stack([st * cf, st * sf, ct], axis=-1),
    ]
    return library.stack(rows, axis=-2)


def angles_of_matrix(library: ModuleType, matrix: Any) -> Any:
    """Return (rot, tilt, psi) in degrees, shape (..., 3); at the poles rot is 0.

    Parameters
    ----------
    library : numpy or torch.
    matrix : shape (..., 3, 3), of that library.
    """
    sine = library.hypot(matrix[..., 2, 0], matrix[..., 2, 1])
    tilt = library.arctan2(sine, matrix[..., 2, 2])
    at_pole = sine < _POLE
    rot = library.where(at_pole, library.zeros_like(sine), library.arctan2(matrix[..., 2, 1], matrix[..., 2, 0]))
    psi = library.where(
        at_pole,
        library.arctan2(matrix[..., 0, 1], matrix[..., 0, 0] * library.sign(matrix[..., 2, 2])),
        library.arctan2(matrix[..., 1, 2], -matrix[..., 0, 2]),
    )
    return library.rad2deg(library.stack([rot, tilt, psi], axis=-1))


def array_from_euler(rot_degrees: ArrayLike, tilt_degrees: ArrayLike, psi_degrees: ArrayLike) -> NDArray[np.float64]:
    """Return rotations, float64, shape (..., 3, 3): `halfmap.geometry.rotations.matrix_from_euler` of arrays.

    Parameters
    ----------
    rot_degrees, tilt_degrees, psi_degrees : any shapes that broadcast together.
    """
    angles = (np.deg2rad(np.asarray(angle, dtype=np.float64)) for angle in (rot_degrees, tilt_degrees, psi_degrees))
    matrix: NDArray[np.float64] = matrix_of_angles(np, *np.broadcast_arrays(*angles))
    return matrix


def euler_from_array(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (rot, tilt, psi) in degrees, shape (..., 3): `halfmap.geometry.rotations.euler_from_matrix` of arrays.

    Parameters
    ----------
    rotation : shape (..., 3, 3).
    """
    angles: NDArray[np.float64] = angles_of_matrix(np, np.asarray(rotation, dtype=np.float64))
    return angles


def in_plane_degrees(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle psi of rotations in the plane of the image, shape (...), from −180 to 180."""
    return np.degrees(np.arctan2(rotations[..., 0, 1], rotations[..., 0, 0]))
