"""Subtract the background's plane from images and scale them, each image while it lies in the cache."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, fastmath=True)
def normalise_backgrounds(
    images: NDArray[np.float32],
    weight: NDArray[np.float32],
    inverse_gram: NDArray[np.float64],
    sign: float,
    constant_below: float,
    deviation: NDArray[np.float64],
) -> None:
    """Bring the background of each image to mean 0 and standard deviation 1, in place.

    Parameters
    ----------
    images : float32, shape (n, side, side); overwritten.
    weight : float32, shape (side, side): 1 on the background, 0 elsewhere.
    inverse_gram : float64, shape (3, 3): inverse of the background's sums of products of (1, x, y), x and y counted
        from the centre voxel in sides; rows and columns of functions that are not to be fitted are 0.
    sign : 1 or -1, multiplies the result.
    constant_below : standard deviation under which an image is not scaled.
    deviation : float64, shape (n,); takes the background's standard deviation.
    """
    n, side, _ = images.shape
    x = np.empty(side, dtype=np.float32)
    for j in range(side):
        x[j] = (j - side // 2) / side
    count = 0.0
    for i in range(side):
        for j in range(side):
            count += weight[i, j]
    for k in range(n):
        image = images[k]
        # The pedestal goes first, so that float32 sums lose nothing to it.
        pedestal = image[0, 0]
        sum_1, sum_x, sum_y = 0.0, 0.0, 0.0
        for i in range(side):
            row_1 = np.float32(0)
            row_x = np.float32(0)
            for j in range(side):
                value = weight[i, j] * (image[i, j] - pedestal)
                row_1 += value
                row_x += value * x[j]
            sum_1 += float(row_1)
            sum_x += float(row_x)
            sum_y += float(row_1 * x[i])
        level = inverse_gram[0, 0] * sum_1 + inverse_gram[0, 1] * sum_x + inverse_gram[0, 2] * sum_y
        slope_x = inverse_gram[1, 0] * sum_1 + inverse_gram[1, 1] * sum_x + inverse_gram[1, 2] * sum_y
        slope_y = inverse_gram[2, 0] * sum_1 + inverse_gram[2, 1] * sum_x + inverse_gram[2, 2] * sum_y
        squares = 0.0
        for i in range(side):
            start = np.float32(level + slope_y * x[i])
            slope = np.float32(slope_x)
            row = np.float32(0)
            for j in range(side):
                value = (image[i, j] - pedestal) - (start + slope * x[j])
                image[i, j] = value
                row += weight[i, j] * value * value
            squares += float(row)
        deviation[k] = np.sqrt(squares / count)
        scale = np.float32(sign)
        if deviation[k] >= constant_below:
            scale = np.float32(sign / deviation[k])
        for i in range(side):
            for j in range(side):
                image[i, j] *= scale
