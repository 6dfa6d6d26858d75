"""Spectra over a band turned in their plane and added up.

A spectrum here is even, W(-k) = W(k), and known at the K coefficients of a band; others count as unknown and the
weights of the known neighbours of a point are scaled to a sum of one.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]


def sum_turned(values: Float32, turns: Float64, wave_numbers: Int64, table: Int32, *, n_threads: int = 1) -> Float32:
    """Turn spectra back and add them.

    Parameters
    ----------
    values : float32, shape (C, N, K); contiguous.
    turns : float64, shape (N, 2, 2)
        The result at q takes spectrum n at turns[n] · q, vectors (x, y).
    wave_numbers : int64, shape (K, 2), (kx, ky) of the band's coefficients.
    table : int32, shape (2M + 1, M + 1)
        Which coefficient lies at wave numbers y from -M to M and x from 0 to M, -1 for none; M is at least
        one more than the largest radius of the band, and mates are entered on kx = 0.
    n_threads : threads to share the spectra's leading axis among; the result is the same for any number.

    Returns
    -------
    float32, shape (C, K); zero where no neighbour is known.
    """
    sums = np.zeros((values.shape[0], values.shape[2]), np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(values), part, n_parts)
        _sum_turned(values[share], turns, wave_numbers, table.reshape(-1), table.shape[1] - 1, sums[share])

    run_in_parts(task, min(n_threads, len(values)))
    return sums


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum_turned(values: Float32, turns: Float64, wave_numbers: Int64, table: Int32, radius: int, sums: Float32) -> None:
    n_points = wave_numbers.shape[0]
    source = np.empty((4, n_points), np.int32)
    weight = np.empty((4, n_points), np.float32)
    for n in range(values.shape[1]):
        for k in range(n_points):
            x = turns[n, 0, 0] * wave_numbers[k, 0] + turns[n, 0, 1] * wave_numbers[k, 1]
            y = turns[n, 1, 0] * wave_numbers[k, 0] + turns[n, 1, 1] * wave_numbers[k, 1]
            if x < 0.0:
                x, y = -x, -y
            y += radius
            jx, jy = int(x), int(y)
            fx, fy = x - jx, y - jy
            at = jy * (radius + 1) + jx
            total = 0.0
            for corner in range(4):
                known = table[at + (corner >> 1) * (radius + 1) + (corner & 1)]
                share = (fx if corner & 1 else 1.0 - fx) * (fy if corner >> 1 else 1.0 - fy)
                share = share if known >= 0 else 0.0
                source[corner, k] = max(known, 0)
                weight[corner, k] = share
                total += share
            scale = np.float32(1.0 / total if total > 0.0 else 0.0)
            for corner in range(4):
                weight[corner, k] *= scale
        for c in range(values.shape[0]):
            spectrum = values[c, n]
            total_of = sums[c]
            for k in range(n_points):
                total_of[k] += (
                    weight[0, k] * spectrum[source[0, k]]
                    + weight[1, k] * spectrum[source[1, k]]
                    + weight[2, k] * spectrum[source[2, k]]
                    + weight[3, k] * spectrum[source[3, k]]
                )
