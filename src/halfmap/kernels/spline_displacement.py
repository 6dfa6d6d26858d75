"""Images read at displaced places through cubic B-splines."""

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

    Notes
    -----
    Displacements change slowly, so runs of neighbours are read from neighbours: the processor takes several at once.
    """
    height, width = coefficients.shape
    fraction_y, fraction_x = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    first_y, first_x = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    for row in range(height):
        for column in range(width):
            at_y, at_x = np.float32(row) - (y[row, column] - whole_y), np.float32(column) - (x[row, column] - whole_x)
            floor_y, floor_x = np.floor(at_y), np.floor(at_x)
            fraction_y[column], fraction_x[column] = at_y - floor_y, at_x - floor_x
            first_y[column], first_x[column] = np.int32(floor_y) - 1, np.int32(floor_x) - 1 - column
        start = 0
        while start < width:
            step_y, step_x = first_y[start], first_x[start]
            end = start + 1
            while end < width and first_y[end] == step_y and first_x[end] == step_x:
                end += 1
            f0, f1, f2, f3 = (
                coefficients[_kept(step_y, height)],
                coefficients[_kept(step_y + 1, height)],
                coefficients[_kept(step_y + 2, height)],
                coefficients[_kept(step_y + 3, height)],
            )
            inner = min(max(start, -step_x), end)
            border = max(min(end, width - 3 - step_x), inner)
            for column in range(start, inner):
                out[row, column] = _at_border(f0, f1, f2, f3, column + step_x, fraction_y[column], fraction_x[column])
            if border > inner:
                _read_run(
                    f0, f1, f2, f3, inner + step_x, fraction_y[inner:border], fraction_x[inner:border],
                    out[row, inner:border],
                )  # fmt: skip
            for column in range(border, end):
                out[row, column] = _at_border(f0, f1, f2, f3, column + step_x, fraction_y[column], fraction_x[column])
            start = end


@numba.njit(inline="always")
def _read_run(f0, f1, f2, f3, first, fraction_y, fraction_x, out):  # type: ignore[no-untyped-def]
    """Write neighbouring pixels that are read from neighbouring places of four rows: a loop without jumps."""
    n = len(out)
    g0, g1 = f0[first : first + n + 3], f1[first : first + n + 3]
    g2, g3 = f2[first : first + n + 3], f3[first : first + n + 3]
    for i in range(n):
        a0, a1, a2, a3 = _weights(fraction_y[i])
        b0, b1, b2, b3 = _weights(fraction_x[i])
        out[i] = (
            a0 * (b0 * g0[i] + b1 * g0[i + 1] + b2 * g0[i + 2] + b3 * g0[i + 3])
            + a1 * (b0 * g1[i] + b1 * g1[i + 1] + b2 * g1[i + 2] + b3 * g1[i + 3])
            + a2 * (b0 * g2[i] + b1 * g2[i + 1] + b2 * g2[i + 2] + b3 * g2[i + 3])
            + a3 * (b0 * g3[i] + b1 * g3[i + 1] + b2 * g3[i + 2] + b3 * g3[i + 3])
        )


@numba.njit(inline="always")
def _at_border(f0, f1, f2, f3, first, fraction_y, fraction_x):  # type: ignore[no-untyped-def]
    """Return the value of one pixel that is read beyond the sides."""
    a0, a1, a2, a3 = _weights(fraction_y)
    total = np.float32(0)
    for step, weight in enumerate(_weights(fraction_x)):
        column = _kept(first + step, len(f0))
        total += weight * (a0 * f0[column] + a1 * f1[column] + a2 * f2[column] + a3 * f3[column])
    return total


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
