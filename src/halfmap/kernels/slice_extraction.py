"""Trilinear central slices of a centred half volume, and their derivative in the rotation.

Arrays that the kernels of this package share:

values : float32, shape (2R + 1, 2R + 1, R + 1, 2)
    Real and imaginary parts at wave numbers z and y from -R to R and x from 0 to R; what lies at
    negative x is the conjugate of the opposite coefficient.
planes : float64, shape (N, 2, 3)
    The first two rows of each rotation: point (kx, ky) of the slice lies at kx · row 0 + ky · row 1.
coordinates : float64, shape (K, 2)
    (kx, ky) of the points of a slice, in wave numbers of the volume.

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


def extract_slices(values: Float32, planes: Float64, coordinates: Float64, *, n_threads: int = 1) -> Float32:
    """Interpolate slices.

    Parameters
    ----------
    values, planes, coordinates : see the module; contiguous.
    n_threads : threads to share the slices among; the result is the same for any number.

    Returns
    -------
    float32, shape (N, K, 2).
    """
    slices = np.empty((len(planes), len(coordinates), 2), dtype=np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(planes), part, n_parts)
        _extract(values.reshape(-1), values.shape[2] - 1, planes[share], coordinates, slices[share])

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

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(planes), part, n_parts)
        _differentiate(
            values.reshape(-1), values.shape[2] - 1, planes[share], coordinates, gradients[share], result[share]
        )

    run_in_parts(task, min(n_threads, len(planes)))
    return result


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def locate(
    plane: Float64,
    coordinates: Float64,
    start: int,
    count: int,
    radius: int,
    cell: Int64,
    fraction: Float32,
    sign: Float32,
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
    for i in range(count):
        kx = coordinates[start + i, 0]
        ky = coordinates[start + i, 1]
        ux = x0 * kx + y0 * ky
        uy = x1 * kx + y1 * ky
        uz = x2 * kx + y2 * ky
        side = 1.0 if ux >= 0.0 else -1.0
        side = side if ux * ux + uy * uy + uz * uz < limit else 0.0
        ux = ux * side
        uy = uy * side + radius
        uz = uz * side + radius
        jx = int(ux)
        jy = int(uy)
        jz = int(uz)
        fraction[0, i] = ux - jx
        fraction[1, i] = uy - jy
        fraction[2, i] = uz - jz
        cell[i] = jz * sheet + jy * row + jx
        sign[i] = side


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _extract(values: Float32, radius: int, planes: Float64, coordinates: Float64, slices: Float32) -> None:
    row = 2 * (radius + 1)
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    for n in range(planes.shape[0]):
        for start in range(0, coordinates.shape[0], BLOCK):
            count = min(BLOCK, coordinates.shape[0] - start)
            locate(planes[n], coordinates, start, count, radius, cell, fraction, sign)
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
    values: Float32, radius: int, planes: Float64, coordinates: Float64, gradients: Float32, result: Float64
) -> None:
    row = 2 * (radius + 1)
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    for n in range(planes.shape[0]):
        xx = xy = xz = yx = yy = yz = 0.0
        for start in range(0, coordinates.shape[0], BLOCK):
            count = min(BLOCK, coordinates.shape[0] - start)
            locate(planes[n], coordinates, start, count, radius, cell, fraction, sign)
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
                kx, ky = coordinates[start + i, 0], coordinates[start + i, 1]
                xx += kx * dx
                xy += kx * dy
                xz += kx * dz
                yx += ky * dx
                yy += ky * dy
                yz += ky * dz
        result[n, 0, 0], result[n, 0, 1], result[n, 0, 2] = xx, xy, xz
        result[n, 1, 0], result[n, 1, 1], result[n, 1, 2] = yx, yy, yz
