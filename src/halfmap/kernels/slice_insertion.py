"""The transpose of slice extraction: sums of slices spread into a centred half volume.

Arrays are those of `halfmap.kernels.slice_extraction`. Each thread owns some of the volume's sheets
and walks over all slices in their order, so every sum is formed in one order whatever the number of
threads, and no thread needs a volume of its own.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.slice_extraction import BLOCK, Float32, Float64, axes_of, locate
from halfmap.kernels.threads import run_in_parts

SHEETS_IN_TURN = 4
"""Neighbouring sheets that go to one thread before the next has its turn."""


def insert_slices(
    data: Float32,
    weight: Float32,
    planes: Float64,
    coordinates: Float64,
    values: Float32,
    weights: Float32,
    *,
    n_threads: int = 1,
) -> None:
    """Add slices and their weights to a volume, in place.

    Parameters
    ----------
    data : float32, shape (2R + 1, 2R + 1, R + 1, 2), added to.
    weight : float32, shape (2R + 1, 2R + 1, R + 1), added to; or of size 0, and no weights are added.
    planes, coordinates : see `halfmap.kernels.slice_extraction`, flat or curved; contiguous.
    values : float32, shape (N, K, 2).
    weights : float32, shape (N, K), or of size 0 with ``weight``.
    n_threads : threads to share the sheets among; the sums are the same for any number.

    Notes
    -----
    Each value goes to the eight corners of its cell as stored, conjugated where the mate's cell is
    stored. Sharing between the two mates on kx = 0 is left to the caller.
    """
    radius = data.shape[2] - 1
    sheets = np.arange(2 * radius + 1) // SHEETS_IN_TURN
    axes = axes_of(coordinates)

    def task(part: int, n_parts: int) -> None:
        _insert(
            data.reshape(-1),
            weight.reshape(-1),
            radius,
            planes,
            axes,
            values,
            weights.reshape(len(planes), -1),
            sheets % n_parts == part,
        )

    run_in_parts(task, n_threads)


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _insert(
    data: Float32,
    weight: Float32,
    radius: int,
    planes: Float64,
    axes: Float64,
    values: Float32,
    weights: Float32,
    owned: npt.NDArray[np.bool_],
) -> None:
    row = radius + 1
    sheet = row * (2 * radius + 1)
    cell = np.empty(BLOCK, np.int64)
    fraction = np.empty((3, BLOCK), np.float32)
    sign = np.empty(BLOCK, np.float32)
    one = np.float32(1)
    weighted = weight.size > 0
    alone = bool(owned.all())
    for n in range(planes.shape[0]):
        for start in range(0, axes.shape[1], BLOCK):
            count = min(BLOCK, axes.shape[1] - start)
            locate(planes[n], axes, start, count, radius, cell, fraction, sign)
            for i in range(count):
                fx, fy, fz = fraction[0, i], fraction[1, i], fraction[2, i]
                present = abs(sign[i])
                real = values[n, start + i, 0] * present
                imag = values[n, start + i, 1] * sign[i]
                for dz in range(2):
                    low = cell[i] + dz * sheet
                    if not (alone or owned[low // sheet]):
                        continue
                    wz = fz if dz else one - fz
                    for dy in range(2):
                        at = low + dy * row
                        wzy = wz * (fy if dy else one - fy)
                        first = wzy * (one - fx)
                        second = wzy * fx
                        data[2 * at] += first * real
                        data[2 * at + 1] += first * imag
                        data[2 * at + 2] += second * real
                        data[2 * at + 3] += second * imag
                        if weighted:
                            w = weights[n, start + i] * present
                            weight[at] += first * w
                            weight[at + 1] += second * w
