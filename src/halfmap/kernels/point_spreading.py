"""Adding points at fractional positions to a periodic grid, through a narrow smooth kernel."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

WIDTH = 8
"""Voxels that one point touches along each axis."""


@numba.njit(cache=True, nogil=True)
def spread(
    positions_voxel: NDArray[np.float64], weights: NDArray[np.float32], beta: float, out: NDArray[np.float32]
) -> None:
    """Add each point's weight to the voxels around it.

    Parameters
    ----------
    positions_voxel : float64, shape (n, 3)
        (x, y, z) in voxels from voxel 0; any value, the grid is periodic.
    weights : float32, shape (n,)
    beta : sharpness of the kernel exp(β (√(1 − (2 d / WIDTH)²) − 1)).
    out : float32, shape (z, y, x)
        Added to in place.
    """
    sides = out.shape
    values = np.empty((3, WIDTH))
    indices = np.empty((3, WIDTH), np.int64)
    for i in range(positions_voxel.shape[0]):
        for axis in range(3):
            position = positions_voxel[i, axis]
            side = sides[2 - axis]
            first = math.ceil(position - WIDTH / 2)
            for j in range(WIDTH):
                distance = (first + j - position) * (2.0 / WIDTH)
                values[axis, j] = math.exp(beta * (math.sqrt(max(1.0 - distance * distance, 0.0)) - 1.0))
                indices[axis, j] = (first + j) % side
        for jz in range(WIDTH):
            plane = out[indices[2, jz]]
            at_z = values[2, jz] * weights[i]
            for jy in range(WIDTH):
                row = plane[indices[1, jy]]
                at_y = np.float32(at_z * values[1, jy])
                for jx in range(WIDTH):
                    row[indices[0, jx]] += at_y * np.float32(values[0, jx])
