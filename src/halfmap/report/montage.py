"""Many small images in one picture."""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from halfmap.errors import ShapeError
from halfmap.report.pictures import ByteImage, Picture, shrink, to_grey

_GAP_GREY = 128


def montage(
    images: ArrayLike,
    *,
    columns: int | None = None,
    gap: int = 2,
    max_tile: int = 128,
    percentiles: tuple[float, float] = (1.0, 99.0),
    contrast: Literal["each", "shared"] = "each",
) -> Picture:
    """Lay images out in rows, left to right.

    Parameters
    ----------
    images : shape (n, y, x).
    columns : images in a row; None makes the picture half as high again as a square is wide.
    gap : grey pixels between images.
    max_tile : longest side of one image in the picture; larger ones are averaged down.
    percentiles, contrast : as of `to_grey`.

    Returns
    -------
    One PNG.

    Raises
    ------
    ShapeError
        There is no image, or they are not (n, y, x).
    """
    stack = np.asarray(images, dtype=np.float32)
    if stack.ndim != 3 or len(stack) == 0:
        raise ShapeError(f"A montage must be made of images of shape (n, y, x); got {stack.shape}.")
    tiles = to_grey(np.stack([shrink(image, max_tile) for image in stack]), percentiles=percentiles, contrast=contrast)
    return Picture.png(lay_out(tiles, columns=columns, gap=gap))


def lay_out(tiles: ByteImage, *, columns: int | None = None, gap: int = 2) -> ByteImage:
    """Return uint8 images of shape (n, y, x) side by side, in one image; empty places are grey."""
    n_tiles, height, width = tiles.shape
    columns = min(n_tiles, columns or math.ceil(math.sqrt(1.5 * n_tiles)))
    rows = math.ceil(n_tiles / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), _GAP_GREY, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
