"""The picture of all class averages of a cycle."""

import math

import numpy as np
from numpy.typing import NDArray

from halfmap.report.montage import lay_out
from halfmap.report.pictures import shrink

TILE_PIXEL = 128
_PERCENTILES = (0.5, 99.8)


def grey_tiles(averages: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return class averages as grey values, their contrast taken from percentiles within the mask.

    Parameters
    ----------
    averages : shape (C, side, side).
    mask : shape (side, side).

    Returns
    -------
    Shape (C, tile, tile), a tile no larger than 128 px; an empty average is mid-grey.
    """
    tiles = []
    for image in averages:
        low, high = np.percentile(image[mask], _PERCENTILES)
        span = high - low
        scaled = np.full(image.shape, 0.5) if span <= 0 else np.clip((image - low) / span, 0, 1)
        tiles.append(np.clip(np.rint(255 * shrink(scaled.astype(np.float32), TILE_PIXEL)), 0, 255).astype(np.uint8))
    return np.stack(tiles)


def columns_of(n_classes: int) -> int:
    """Return how many tiles stand side by side."""
    return max(1, math.ceil(math.sqrt(n_classes)))


def atlas(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return tiles in one picture, without gaps."""
    return lay_out(tiles, columns=columns_of(len(tiles)), gap=0)
