"""What is usual around a place: a robust local background, which a particle does not raise at its own place."""

import math

import torch
from scipy import ndimage
from torch import Tensor

REACH = 1.0
"""Half the side of the neighbourhood, in sides of the template."""

BLOCKS = 8
"""Blocks to the side of a template: the background is smoother than a particle."""


def local_background(values: Tensor, side: int) -> Tensor:
    """Return the median of a map within about a template's side of each place.

    Parameters
    ----------
    values : float32, shape (y, x).
    side : of the template, in pixels.

    Returns
    -------
    float32, of the same shape.

    Notes
    -----
    Medians of blocks, the median of those in a square around each, linear between the middles of the blocks. A particle
    raises the map over an area of its own size, a quarter of the neighbourhood or less, so the median hardly sees it.
    """
    block = max(1, side // BLOCKS)
    height, width = values.shape
    rows, columns = math.ceil(height / block), math.ceil(width / block)
    padded = torch.full((rows * block, columns * block), torch.nan)
    padded[:height, :width] = values
    blocks = padded.reshape(rows, block, columns, block).permute(0, 2, 1, 3).reshape(rows, columns, -1)
    coarse = blocks.nanmedian(dim=-1).values.numpy()
    reach = max(1, round(REACH * side / block))
    usual = torch.from_numpy(ndimage.median_filter(coarse, size=2 * reach + 1, mode="reflect"))
    fine = torch.nn.functional.interpolate(
        usual[None, None], size=(rows * block, columns * block), mode="bilinear", align_corners=False
    )
    return fine[0, 0, :height, :width].contiguous()
