"""Bilinear slices of centred half planes of images, and their transpose: images turned in their plane.

Arrays that both directions share:

values : float32, shape (C, 2R + 1, R + 1, 2)
    Real and imaginary parts of C images at wave numbers y from -R to R and x from 0 to R; what lies at
    negative x is the conjugate of the opposite coefficient.
planes : float64, shape (N, 2, 2)
    Point (kx, ky) of the slice lies at kx · row 0 + ky · row 1.
coordinates : float64, shape (K, 2)
    (kx, ky) of the points of a slice, in wave numbers of the images.
slices : float32, shape (C, N, K, 2)
    Of every image at every rotation.

Points at a radius of R or more count as zero. Values of all arguments must be finite. Cells and weights of a
rotation are the same in all images: they are found once for a block of points, in a loop that the compiler
vectorises, and then serve image after image.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int32: TypeAlias = npt.NDArray[np.int32]

BLOCK = 32768
"""Points whose cells are held at once: enough to read an image again while it lies in a near cache."""


def extract_slices(values: Float32, planes: Float64, coordinates: Float64, *, n_threads: int = 1) -> Float32:
    """Interpolate slices.

    Parameters
    ----------
    values, planes, coordinates : see the module; contiguous.
    n_threads : threads to share the slices among; the result is the same for any number.

    Returns
    -------
    float32, shape (C, N, K, 2).
    """
    slices = np.empty((len(values), len(planes), len(coordinates), 2), dtype=np.float32)
    n_points = len(planes) * len(coordinates)

    def task(part: int, n_parts: int) -> None:
        share = part_of(n_points, part, n_parts)
        _extract(values, planes, coordinates, slices, share.start, share.stop)

    run_in_parts(task, n_threads)
    return slices


def insert_slices(
    data: Float32,
    weight: Float32,
    planes: Float64,
    coordinates: Float64,
    slices: Float32,
    weights: Float32,
    *,
    n_threads: int = 1,
) -> None:
    """Add slices and their weights to images, in place.

    Parameters
    ----------
    data : float32, shape (C, 2R + 1, R + 1, 2), added to.
    weight : float32, shape (C, 2R + 1, R + 1), added to; or of size 0, and no weights are added.
    planes, coordinates, slices : see the module; contiguous.
    weights : float32, shape (C, N, K), or of size 0 with ``weight``.
    n_threads : threads to share the images among; the sums are the same for any number.

    Notes
    -----
    Each value goes to the four corners of its cell as stored, conjugated where the mate's cell is
    stored. Sharing between the two mates on kx = 0 is left to the caller.
    """
    weighted = weight.size > 0

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(data), part, n_parts)
        _insert(data[share], planes, coordinates, slices[share])
        if weighted:
            _insert_weights(weight[share], planes, coordinates, weights[share])

    run_in_parts(task, min(n_threads, len(data)))


@njit(fastmath=True, nogil=True, inline="always", error_model="numpy")
def _locate(
    planes: Float64, coordinates: Float64, first: int, last: int, radius: int, cell: Int32, corner: Float32
) -> None:
    """Find the cells of a block of points, counted through all slices in turn.

    ``cell`` gets the flat index of the corner with the smallest wave numbers, ``corner`` (5, BLOCK) the
    weights of the four corners, x fastest, all zero beyond the range, and -1 where the mate was taken, else 1.
    """
    row = radius + 1
    # a little less than R: the last cell begins at R - 1
    limit = (radius - 1e-6) * (radius - 1e-6)
    n_points = coordinates.shape[0]
    at = first
    while at < last:
        n = at // n_points
        shift = at - first
        start = at - n * n_points
        count = min(n_points - start, last - at)
        x0, x1 = planes[n, 0, 0], planes[n, 0, 1]
        y0, y1 = planes[n, 1, 0], planes[n, 1, 1]
        for i in range(count):
            kx = coordinates[start + i, 0]
            ky = coordinates[start + i, 1]
            ux = x0 * kx + y0 * ky
            uy = x1 * kx + y1 * ky
            side = 1.0 if ux >= 0.0 else -1.0
            present = 1.0 if ux * ux + uy * uy < limit else 0.0
            ux = ux * side * present
            uy = uy * side * present + radius
            jx = int(ux)
            jy = int(uy)
            fx = ux - jx
            fy = (uy - jy) * present
            gy = present - fy
            cell[shift + i] = jy * row + jx
            corner[0, shift + i] = (1.0 - fx) * gy
            corner[1, shift + i] = fx * gy
            corner[2, shift + i] = (1.0 - fx) * fy
            corner[3, shift + i] = fx * fy
            corner[4, shift + i] = side
        at += count


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _extract(values: Float32, planes: Float64, coordinates: Float64, slices: Float32, first: int, last: int) -> None:
    radius = values.shape[2] - 1
    row = 2 * (radius + 1)
    cell = np.empty(BLOCK, np.int32)
    corner = np.empty((5, BLOCK), np.float32)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        _locate(planes, coordinates, start, end, radius, cell, corner)
        for c in range(values.shape[0]):
            flat = values[c].reshape(-1)
            target = slices[c].reshape(-1)[2 * start : 2 * end]
            for i in range(end - start):
                a = 2 * cell[i]
                b = a + row
                w0, w1, w2, w3 = corner[0, i], corner[1, i], corner[2, i], corner[3, i]
                target[2 * i] = w0 * flat[a] + w1 * flat[a + 2] + w2 * flat[b] + w3 * flat[b + 2]
                imag = w0 * flat[a + 1] + w1 * flat[a + 3] + w2 * flat[b + 1] + w3 * flat[b + 3]
                target[2 * i + 1] = imag * corner[4, i]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _insert(data: Float32, planes: Float64, coordinates: Float64, slices: Float32) -> None:
    radius = data.shape[2] - 1
    row = 2 * (radius + 1)
    cell = np.empty(BLOCK, np.int32)
    corner = np.empty((5, BLOCK), np.float32)
    n_points = planes.shape[0] * coordinates.shape[0]
    for start in range(0, n_points, BLOCK):
        end = min(start + BLOCK, n_points)
        _locate(planes, coordinates, start, end, radius, cell, corner)
        for c in range(data.shape[0]):
            flat = data[c].reshape(-1)
            source = slices[c].reshape(-1)[2 * start : 2 * end]
            for i in range(end - start):
                a = 2 * cell[i]
                b = a + row
                real = source[2 * i]
                imag = source[2 * i + 1] * corner[4, i]
                w0, w1, w2, w3 = corner[0, i], corner[1, i], corner[2, i], corner[3, i]
                flat[a] += w0 * real
                flat[a + 1] += w0 * imag
                flat[a + 2] += w1 * real
                flat[a + 3] += w1 * imag
                flat[b] += w2 * real
                flat[b + 1] += w2 * imag
                flat[b + 2] += w3 * real
                flat[b + 3] += w3 * imag


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _insert_weights(weight: Float32, planes: Float64, coordinates: Float64, weights: Float32) -> None:
    radius = weight.shape[2] - 1
    row = radius + 1
    cell = np.empty(BLOCK, np.int32)
    corner = np.empty((5, BLOCK), np.float32)
    n_points = planes.shape[0] * coordinates.shape[0]
    for start in range(0, n_points, BLOCK):
        end = min(start + BLOCK, n_points)
        _locate(planes, coordinates, start, end, radius, cell, corner)
        for c in range(weight.shape[0]):
            flat = weight[c].reshape(-1)
            source = weights[c].reshape(-1)[start:end]
            for i in range(end - start):
                a = cell[i]
                b = a + row
                flat[a] += corner[0, i] * source[i]
                flat[a + 1] += corner[1, i] * source[i]
                flat[b] += corner[2, i] * source[i]
                flat[b + 1] += corner[3, i] * source[i]
