"""Centring, scaling and masking of particle images before their transform."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Int64: TypeAlias = npt.NDArray[np.int64]


def centre_and_mask(
    images: Float32, background: Float32, factor: Float32, shifts: Int64, mask: Float32, *, n_threads: int = 1
) -> Float32:
    """Return images shifted by whole pixels and scaled, without and with a mask, ready for a transform.

    Parameters
    ----------
    images : shape (n, side, side).
    background : grey value subtracted from each image, shape (n,).
    factor : by which it is multiplied then, shape (n,).
    shifts : (x, y) in whole pixels, shape (n, 2); what comes in from outside the image is 0.
    mask : shape (side, side).
    n_threads : threads to share the images among; the result is the same for any number.

    Returns
    -------
    float32, shape (2, n, side, side)
        The images, and the images times the mask; their centre, pixel side // 2, lies at index 0 and what was before
        it at the end of the axes.
    """
    result = np.empty((2, *images.shape), dtype=np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(images), part, n_parts)
        _centre_and_mask(
            images[share], background[share], factor[share], shifts[share], mask, result[0, share], result[1, share]
        )

    run_in_parts(task, min(n_threads, len(images)))
    return result


@njit(nogil=True, cache=True, error_model="numpy")
def _centre_and_mask(
    images: Float32,
    background: Float32,
    factor: Float32,
    shifts: Int64,
    mask: Float32,
    whole: Float32,
    masked: Float32,
) -> None:
    side = images.shape[1]
    half = side // 2
    whole[:] = 0
    masked[:] = 0
    for n in range(images.shape[0]):
        dx, dy = shifts[n, 0], shifts[n, 1]
        low, scale = background[n], factor[n]
        first, last = max(0, dx), min(side, side + dx)
        for y in range(max(0, dy), min(side, side + dy)):
            source = images[n, y - dy]
            to = y - half if y >= half else y - half + side
            # left of the centre, then from it on
            for start, stop, move in ((first, min(last, half), side - half), (max(first, half), last, -half)):
                for x in range(start, stop):
                    value = (source[x - dx] - low) * scale
                    whole[n, to, x + move] = value
                    masked[n, to, x + move] = value * mask[y, x]
