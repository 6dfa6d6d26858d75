"""Trilinear central slices of a centred half volume, and their derivative in the rotation.

Arrays that the kernels of this package share:

values : float32, shape (2R + 1, 2R + 1, R + 1, 2)
    Real and imaginary parts at wave numbers z and y from -R to R and x from 0 to R; what lies at
    negative x is the conjugate of the opposite coefficient.
planes : float64, shape (N, 2, 3)
    The first two rows of each rotation: point (kx, ky) of the slice lies at kx · row 0 + ky · row 1.
coordinates : float64, shape (K, 2)
    (kx, ky) of the points of a slice, in wave numbers of the volume. Of curved slices (kx, ky, kz), with all three
    rows of each rotation as ``planes``; gradients are of flat ones alone.

Points at a radius of R or more count as zero. Values of all arguments must be finite. Work goes in
blocks: a first loop, which the compiler vectorises, finds cells and fractions, a second one gathers.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

BLOCK = 256


def extract_slices(
    values: Float32, planes: Float64, coordinates: Float64, *, cubic: bool = False, n_threads: int = 1
) -> Float32:
    """Interpolate slices.

    Parameters
    ----------
    values, planes, coordinates : see the module; contiguous.
    cubic : count points of the whole cube, from -R to R - 1 along y and z of the half with x from 0 to R, not of the
        ball in it alone.
    n_threads : threads to share the slices among; the result is the same for any number.

    Returns
    -------
    float32, shape (N, K, 2).
    """
    slices = np.empty((len(planes), len(coordinates), 2), dtype=np.float32)
    axes = axes_of(coordinates)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(planes), part, n_parts)
        _extract(values.reshape(-1), values.shape[2] - 1, planes[share], axes, slices[share], cubic)

    run_in_parts(task, min(n_threads, len(planes)))
    return slices


def plane_gradient(
    values: Float32, planes: Float64, coordinates: Float64, gradients: Float32, *, n_threads: int = 1
) -> Float64:
    """Differentiate a function of the slices by their planes.

    Parameters
    ----------
    values, planes, coordinates : see the module; contiguous.
    gradients : float32, shape (N, K, 2): derivatives of the function by the real and imaginary part of
        each slice value.
    n_threads : threads to share the slices among.

    Returns
    -------
    float64, shape (N, 2, 3). On faces of the cells, where interpolation has a kink, one side's.
    """
    result = np.zeros((len(planes), 2, 3), dtype=np.float64)
    axes = axes_of(coordinates)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(planes), part, n_parts)
        _differentiate(values.reshape(-1), values.shape[2] - 1, planes[share], axes, gradients[share], result[share])

    run_in_parts(task, min(n_threads, len(planes)))
    return result


def extract_sloping_slices(values: Float32, rotations: Float64, coordinates: Float64, *, n_threads: int = 1) -> Float32:
    """Interpolate slices, and how the volume changes around each of their points.

    Parameters
    ----------
    values, coordinates : see the module; contiguous.
    rotations : float64, shape (N, 3, 3); contiguous.
    n_threads : threads to share the slices among.

    Returns
    -------
    float32, shape (4, N, K, 2): the slices, and the slopes of the volume at their points along the image's x axis, its
    y axis and the viewing direction (the rows of the rotation), per wave number. On faces of the cells, where
    interpolation has a kink, one side's.
    """
    slices = np.empty((4, len(rotations), len(coordinates), 2), dtype=np.float32)
    axes = axes_of(coordinates)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(rotations), part, n_parts)
        _extract_sloping(values.reshape(-1), values.shape[2] - 1, rotations[share], axes, slices[:, share])

    run_in_parts(task, min(n_threads, len(rotations)))
    return slices


def axes_of(coordinates: Float64) -> Float64:
    """Return coordinates axis by axis, shape (2 or 3, K): loops over them that alternate take twice as long."""
    return np.ascontiguousarray(coordinates.T)


@njit(fastmath=True, nogil=True, inline="always", error_model="numpy")
def locate(
    plane: Float64,
    axes: Float64,
    start: int,
    count: int,
    radius: int,
    cell: Int64,
    fraction: Float32,
    sign: Float32,
    cubic: bool = False,
) -> None:
    """Find the cells of a block of points.

    ``cell`` gets the flat index of the corner with the smallest wave numbers, ``fraction`` (3, BLOCK)
    the position within the cell, ``sign`` +1, -1 where the mate was taken, 0 beyond the range.
    """
    row = radius + 1
    sheet = row * (2 * radius + 1)
    # a little less than R: the last cell begins at R - 1
    limit = (radius - 1e-6) * (radius - 1e-6)
    x0, x1, x2 = plane[0, 0], plane[0, 1], plane[0, 2]
    y0, y1, y2 = plane[1, 0], plane[1, 1], plane[1, 2]
    curved = axes.shape[0] == 3
    for i in range(count):
        kx = axes[0, start + i]
        ky = axes[1, start + i]
        ux = x0 * kx + y0 * ky
        uy = x1 * kx + y1 * ky
        uz = x2 * kx + y2 * ky
        if curved:
            kz = axes[2, start + i]
            ux += plane[2, 0] * kz
            uy += plane[2, 1] * kz
            uz += plane[2, 2] * kz
        side = 1.0 if ux >= 0.0 else -1.0
        if cubic:
            furthest = max(side * uy, side * uz) + 1.0, -min(side * uy, side * uz), side * ux
            inside = max(furthest) <= radius + 1e-9
        else:
            inside = ux * ux + uy * uy + uz * uz < limit
        side = side if inside else 0.0
        ux = ux * side
        uy = uy * side + radius
        uz = uz * side + radius
        jx = min(int(ux), radius - 1)
        jy = max(int(uy), 0)
        jz = max(int(uz), 0)
        fraction[0, i] = ux - jx
        fraction[1, i] = uy - jy
        fraction[2, i] = uz - jz
        cell[i] = jz * sheet + jy * row + jx
        sign[i] = side


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _extract(values: Float32, radius: int, planes: Float64, axes: Float64, slices: Float32, cubic: bool) -> None:
    row = 2 * (radius + 1)
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    for n in range(planes.shape[0]):
        for start in range(0, axes.shape[1], BLOCK):
            count = min(BLOCK, axes.shape[1] - start)
            locate(planes[n], axes, start, count, radius, cell, fraction, sign, cubic)
            for i in range(count):
                fx, fy, fz = fraction[0, i], fraction[1, i], fraction[2, i]
                gx, gy, gz = one - fx, one - fy, one - fz
                w00, w01, w10, w11 = gz * gy, gz * fy, fz * gy, fz * fy
                a = 2 * cell[i]
                b = a + row
                c = a + sheet
                d = c + row
                real_low = w00 * values[a] + w01 * values[b] + w10 * values[c] + w11 * values[d]
                imag_low = w00 * values[a + 1] + w01 * values[b + 1] + w10 * values[c + 1] + w11 * values[d + 1]
                real_high = w00 * values[a + 2] + w01 * values[b + 2] + w10 * values[c + 2] + w11 * values[d + 2]
                imag_high = w00 * values[a + 3] + w01 * values[b + 3] + w10 * values[c + 3] + w11 * values[d + 3]
                slices[n, start + i, 0] = (gx * real_low + fx * real_high) * abs(sign[i])
                slices[n, start + i, 1] = (gx * imag_low + fx * imag_high) * sign[i]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _differentiate(
    values: Float32, radius: int, planes: Float64, axes: Float64, gradients: Float32, result: Float64
) -> None:
    row = 2 * (radius + 1)
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    for n in range(planes.shape[0]):
        xx = xy = xz = yx = yy = yz = 0.0
        for start in range(0, axes.shape[1], BLOCK):
            count = min(BLOCK, axes.shape[1] - start)
            locate(planes[n], axes, start, count, radius, cell, fraction, sign)
            for i in range(count):
                fx, fy, fz = fraction[0, i], fraction[1, i], fraction[2, i]
                gx, gy, gz = one - fx, one - fy, one - fz
                # the function changes by h = Re conj(gradient) V; the mate's imaginary part turns
                p = gradients[n, start + i, 0] * sign[i]
                q = gradients[n, start + i, 1] * sign[i] * sign[i]
                a = 2 * cell[i]
                b = a + row
                c = a + sheet
                d = c + row
                h000, h001 = p * values[a] + q * values[a + 1], p * values[a + 2] + q * values[a + 3]
                h010, h011 = p * values[b] + q * values[b + 1], p * values[b + 2] + q * values[b + 3]
                h100, h101 = p * values[c] + q * values[c + 1], p * values[c + 2] + q * values[c + 3]
                h110, h111 = p * values[d] + q * values[d + 1], p * values[d + 2] + q * values[d + 3]
                dx = gz * (gy * (h001 - h000) + fy * (h011 - h010)) + fz * (gy * (h101 - h100) + fy * (h111 - h110))
                dy = gz * (gx * (h010 - h000) + fx * (h011 - h001)) + fz * (gx * (h110 - h100) + fx * (h111 - h101))
                dz = gy * (gx * (h100 - h000) + fx * (h101 - h001)) + fy * (gx * (h110 - h010) + fx * (h111 - h011))
                kx, ky = axes[0, start + i], axes[1, start + i]
                xx += kx * dx
                xy += kx * dy
                xz += kx * dz
                yx += ky * dx
                yy += ky * dy
                yz += ky * dz
        result[n, 0, 0], result[n, 0, 1], result[n, 0, 2] = xx, xy, xz
        result[n, 1, 0], result[n, 1, 1], result[n, 1, 2] = yx, yy, yz


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _extract_sloping(values: Float32, radius: int, rotations: Float64, axes: Float64, slices: Float32) -> None:
    row = 2 * (radius + 1)
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    for n in range(rotations.shape[0]):
        a0, a1, a2 = np.float32(rotations[n, 0, 0]), np.float32(rotations[n, 0, 1]), np.float32(rotations[n, 0, 2])
        b0, b1, b2 = np.float32(rotations[n, 1, 0]), np.float32(rotations[n, 1, 1]), np.float32(rotations[n, 1, 2])
        c0, c1, c2 = np.float32(rotations[n, 2, 0]), np.float32(rotations[n, 2, 1]), np.float32(rotations[n, 2, 2])
        for start in range(0, axes.shape[1], BLOCK):
            count = min(BLOCK, axes.shape[1] - start)
            locate(rotations[n], axes, start, count, radius, cell, fraction, sign)
            for i in range(count):
                fx, fy, fz = fraction[0, i], fraction[1, i], fraction[2, i]
                gx, gy, gz = one - fx, one - fy, one - fz
                a = 2 * cell[i]
                b = a + row
                c = a + sheet
                d = c + row
                real, real_x, real_y, real_z = _cell(
                    values[a], values[a + 2], values[b], values[b + 2], values[c], values[c + 2], values[d],
                    values[d + 2], fx, fy, fz, gx, gy, gz,
                )  # fmt: skip
                imag, imag_x, imag_y, imag_z = _cell(
                    values[a + 1], values[a + 3], values[b + 1], values[b + 3], values[c + 1], values[c + 3],
                    values[d + 1], values[d + 3], fx, fy, fz, gx, gy, gz,
                )  # fmt: skip
                # a mate is conjugated, and lies at the opposite point: its slopes turn their sign
                side, inside = sign[i], abs(sign[i])
                slices[0, n, start + i, 0] = inside * real
                slices[0, n, start + i, 1] = side * imag
                slices[1, n, start + i, 0] = side * (a0 * real_x + a1 * real_y + a2 * real_z)
                slices[1, n, start + i, 1] = inside * (a0 * imag_x + a1 * imag_y + a2 * imag_z)
                slices[2, n, start + i, 0] = side * (b0 * real_x + b1 * real_y + b2 * real_z)
                slices[2, n, start + i, 1] = inside * (b0 * imag_x + b1 * imag_y + b2 * imag_z)
                slices[3, n, start + i, 0] = side * (c0 * real_x + c1 * real_y + c2 * real_z)
                slices[3, n, start + i, 1] = inside * (c0 * imag_x + c1 * imag_y + c2 * imag_z)


@njit(fastmath=True, nogil=True, inline="always", error_model="numpy")
def _cell(
    v000: float, v001: float, v010: float, v011: float, v100: float, v101: float, v110: float, v111: float,
    fx: float, fy: float, fz: float, gx: float, gy: float, gz: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Return value and slopes along x, y, z inside a cell, whose corners are numbered z, y, x."""
    v00, v01 = gx * v000 + fx * v001, gx * v010 + fx * v011
    v10, v11 = gx * v100 + fx * v101, gx * v110 + fx * v111
    low, high = gy * v00 + fy * v01, gy * v10 + fy * v11
    dx = gz * (gy * (v001 - v000) + fy * (v011 - v010)) + fz * (gy * (v101 - v100) + fy * (v111 - v110))
    return gz * low + fz * high, dx, gz * (v01 - v00) + fz * (v11 - v10), high - low
