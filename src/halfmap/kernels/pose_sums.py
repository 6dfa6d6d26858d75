"""Sums over the posterior: of images into the slices they belong to, and of slices into what each image is expected as.

Both are made in one pass over the poses, row by row, for a few hundred coefficients at a time: so that the images, what
is expected of them, and the factors of shifts stay in near caches, and each slice is read and written once.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.pose_scores import BLOCK, part_image, part_slice
from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]


def sum_poses(
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    data: Float32,
    total: Float32,
    mean: Float32,
    mean_square: Float32,
    *,
    n_threads: int = 1,
) -> None:
    """Sum images into rows, and rows into images, both shifted and weighted by the posterior.

    Parameters
    ----------
    runs : int64, shape (U + 1,): poses from runs[u] to runs[u + 1] share row and image; sorted by row.
    image, row, shift, weight : of the poses, shape (S,).
    weighted : s C X / σ², real and imaginary parts, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    references : float32, shape (rows, K, 2).
    cosine, sine : real and imaginary part of the factor that shifts an image, float32, shape (shifts, K).
    data : float32, shape (rows, K, 2), set to Σ weight · factor · weighted.
    total : float32, shape (rows, K), set to Σ weight · power.
    mean : float32, shape (n, K, 2); Σ weight · conj(factor) · reference is added.
    mean_square : float32, shape (n, K); Σ weight · |reference|² is added.
    n_threads : threads to share the coefficients among; the result is the same for any number.
    """
    K = power.shape[1]

    def task(part: int, n_parts: int) -> None:
        share = part_of(K, part, n_parts)
        _sum_poses(
            share.start,
            share.stop,
            runs,
            image,
            row,
            shift,
            weight,
            weighted,
            power,
            references,
            cosine,
            sine,
            data,
            total,
            mean,
            mean_square,
        )

    run_in_parts(task, max(1, min(n_threads, K)))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum_poses(
    start: int,
    stop: int,
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    data: Float32,
    total: Float32,
    mean: Float32,
    mean_square: Float32,
) -> None:
    n_images, n_runs = len(power), len(runs) - 1
    n_blocks = (stop - start + BLOCK - 1) // BLOCK
    images = np.empty((n_images, 3 * BLOCK), np.float32)
    means = np.empty((n_images, 3 * BLOCK), np.float32)
    mine = np.empty(6 * BLOCK, np.float32)
    factor = np.empty(2 * BLOCK, np.float32)
    for block in range(n_blocks):
        low, high = start + (stop - start) * block // n_blocks, start + (stop - start) * (block + 1) // n_blocks
        for n in range(n_images):
            part_image(weighted[n, low:high], power[n, low:high], images[n])
            part_image(mean[n, low:high], mean_square[n, low:high], means[n])
        u = 0
        for r in range(len(references)):
            if u == n_runs or row[runs[u]] != r:
                data[r, low:high] = 0
                total[r, low:high] = 0
                continue
            part_slice(references[r, low:high], mine)
            mine[3 * BLOCK :] = 0  # sums of the row lie after the slice
            while u < n_runs and row[runs[u]] == r:
                first = runs[u]
                mass = weight[first]
                _set_factor(mass, cosine[shift[first], low:high], sine[shift[first], low:high], factor)
                for i in range(first + 1, runs[u + 1]):
                    mass += weight[i]
                    _add_factor(weight[i], cosine[shift[i], low:high], sine[shift[i], low:high], factor)
                _add_run(mass, factor, images[image[first]], mine, means[image[first]], high - low)
                u += 1
            _join(mine[3 * BLOCK :], data[r, low:high], total[r, low:high])
        for n in range(n_images):
            _join(means[n], mean[n, low:high], mean_square[n, low:high])


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _join(parts: Float32, values: Float32, power: Float32) -> None:
    for k in range(len(power)):
        values[k, 0] = parts[k]
        values[k, 1] = parts[BLOCK + k]
        power[k] = parts[2 * BLOCK + k]


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _set_factor(weight: np.float32, cosine: Float32, sine: Float32, factor: Float32) -> None:
    for k in range(len(cosine)):
        factor[k] = weight * cosine[k]
        factor[BLOCK + k] = weight * sine[k]


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _add_factor(weight: np.float32, cosine: Float32, sine: Float32, factor: Float32) -> None:
    for k in range(len(cosine)):
        factor[k] += weight * cosine[k]
        factor[BLOCK + k] += weight * sine[k]


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _add_run(mass: np.float32, factor: Float32, image: Float32, mine: Float32, mean: Float32, count: int) -> None:
    """Add an image to the sums of a row, and the row to what is expected of the image."""
    for k in range(count):
        c, s = factor[k], factor[BLOCK + k]
        a, b = image[k], image[BLOCK + k]
        p, q = mine[k], mine[BLOCK + k]
        mine[3 * BLOCK + k] += a * c - b * s
        mine[4 * BLOCK + k] += a * s + b * c
        mine[5 * BLOCK + k] += mass * image[2 * BLOCK + k]
        mean[k] += c * p + s * q
        mean[BLOCK + k] += c * q - s * p
        mean[2 * BLOCK + k] += mass * mine[2 * BLOCK + k]


def shell_sums(
    mean: Float32,
    mean_square: Float32,
    weighted: Float32,
    power: Float32,
    shell_of: Int64,
    n_shells: int,
    *,
    n_threads: int = 1,
) -> tuple[Float64, Float64]:
    """Return Σ Re(weighted · conj(mean)) and Σ power · mean_square of each image and shell, shape (n, n_shells)."""
    cross = np.zeros((len(power), n_shells), dtype=np.float64)
    square = np.zeros_like(cross)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(power), part, n_parts)
        _shell_sums(
            mean[share], mean_square[share], weighted[share], power[share], shell_of, cross[share], square[share]
        )

    run_in_parts(task, max(1, min(n_threads, len(power))))
    return cross, square


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _shell_sums(
    mean: Float32,
    mean_square: Float32,
    weighted: Float32,
    power: Float32,
    shell_of: Int64,
    cross: Float64,
    square: Float64,
) -> None:
    for n in range(len(power)):
        for k in range(len(shell_of)):
            shell = shell_of[k]
            cross[n, shell] += weighted[n, k, 0] * mean[n, k, 0] + weighted[n, k, 1] * mean[n, k, 1]
            square[n, shell] += power[n, k] * mean_square[n, k]
