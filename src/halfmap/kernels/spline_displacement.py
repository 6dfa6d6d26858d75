"""Images read at displaced places through cubic B-splines."""

import math

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True, fastmath=True)
def read_displaced(
    coefficients: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    whole_x: np.float32,
    whole_y: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Write at each pixel the value of a spline at the pixel's place less a displacement.

    Parameters
    ----------
    coefficients : float32, shape (height, width), of the B-splines, one at each pixel; those of the border go on
        beyond it.
    x, y : float32, shape (height, width), displacements in pixels.
    whole_x, whole_y : what is taken off them.
    out : float32, shape (height, width)
        Overwritten.
    """
    height, width = coefficients.shape
    for row in range(height):
        for column in range(width):
            at_y, at_x = np.float32(row) - (y[row, column] - whole_y), np.float32(column) - (x[row, column] - whole_x)
            floor_y, floor_x = math.floor(at_y), math.floor(at_x)
            a0, a1, a2, a3 = _weights(at_y - np.float32(floor_y))
            b0, b1, b2, b3 = _weights(at_x - np.float32(floor_x))
            if 1 <= floor_y < height - 2 and 1 <= floor_x < width - 2:
                r0, r1, r2, r3 = floor_y - 1, floor_y, floor_y + 1, floor_y + 2
                c0, c1, c2, c3 = floor_x - 1, floor_x, floor_x + 1, floor_x + 2
            else:
                r0, r1, r2, r3 = (
                    _kept(floor_y - 1, height),
                    _kept(floor_y, height),
                    _kept(floor_y + 1, height),
                    _kept(floor_y + 2, height),
                )
                c0, c1, c2, c3 = (
                    _kept(floor_x - 1, width),
                    _kept(floor_x, width),
                    _kept(floor_x + 1, width),
                    _kept(floor_x + 2, width),
                )
            f = coefficients
            out[row, column] = (
                a0 * (b0 * f[r0, c0] + b1 * f[r0, c1] + b2 * f[r0, c2] + b3 * f[r0, c3])
                + a1 * (b0 * f[r1, c0] + b1 * f[r1, c1] + b2 * f[r1, c2] + b3 * f[r1, c3])
                + a2 * (b0 * f[r2, c0] + b1 * f[r2, c1] + b2 * f[r2, c2] + b3 * f[r2, c3])
                + a3 * (b0 * f[r3, c0] + b1 * f[r3, c1] + b2 * f[r3, c2] + b3 * f[r3, c3])
            )


@numba.njit(inline="always")
def _weights(t):  # type: ignore[no-untyped-def]
    """Return the four cubic B-splines at a fraction of a pixel."""
    sixth, u = np.float32(1.0 / 6.0), np.float32(1.0) - t
    two_thirds, half = np.float32(2.0 / 3.0), np.float32(0.5)
    return (
        u * u * u * sixth,
        two_thirds - half * t * t * (np.float32(2.0) - t),
        two_thirds - half * u * u * (np.float32(2.0) - u),
        t * t * t * sixth,
    )


@numba.njit(inline="always")
def _kept(index, side):  # type: ignore[no-untyped-def]
    return min(max(index, 0), side - 1)
