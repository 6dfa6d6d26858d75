"""What is usual around a place: a robust local background, which a particle does not raise at its own place."""

import math

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

REACH = 1.5
"""Half the side of the neighbourhood, in sides of the template."""

BLOCKS = 4
"""Blocks to the side of a template: the background is smoother than a particle."""

OUTLIER = 3.0
"""Robust standard deviations above the median of a neighbourhood from which a block counts as a particle's."""


def local_background(mean: Tensor, deviation: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the correlations usual within about a template's side of each place.

    Parameters
    ----------
    mean, deviation : of each place over all correlations, float32, shape (y, x).
    side : of the template, in pixels.

    Returns
    -------
    Both float32, of the same shape.

    Notes
    -----
    All orientations share what they have in common, so means differ from place to place even in noise; the deviation
    about the usual mean holds these differences: its square is the usual mean square of the correlations less the
    square of the usual mean. Usual is the mean over blocks in a square around a place, without those that stand out
    above the median; between the middles of blocks it is linear.
    """
    usual = _usual(mean, side)
    squares = _usual(deviation.square() + mean.square(), side)
    return usual, (squares - usual.square()).clamp(min=0).sqrt()


def _usual(values: Tensor, side: int) -> Tensor:
    block = max(1, side // BLOCKS)
    height, width = values.shape
    rows, columns = math.ceil(height / block), math.ceil(width / block)
    padded = torch.full((rows * block, columns * block), torch.nan)
    padded[:height, :width] = values
    blocks = padded.reshape(rows, block, columns, block).nanmean(dim=(1, 3)).to(torch.float64).numpy()
    coarse = _clipped_means(blocks, max(1, round(REACH * side / block)))
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None, None],
        size=(rows * block, columns * block),
        mode="bilinear",
        align_corners=False,
    )
    return fine[0, 0, :height, :width].to(torch.float32).contiguous()


def _clipped_means(blocks: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the mean of each block's neighbourhood, without outliers."""
    side = 2 * reach + 1
    padded = np.pad(blocks, reach, constant_values=np.nan)
    result = np.empty_like(blocks)
    for y in range(len(blocks)):
        around = sliding_window_view(padded[y : y + side], (side, side))[0].reshape(blocks.shape[1], -1)
        middle = np.nanmedian(around, axis=1, keepdims=True)
        spread = 1.4826 * np.nanmedian(np.abs(around - middle), axis=1, keepdims=True)
        result[y] = np.nanmean(np.where(around <= middle + OUTLIER * spread, around, np.nan), axis=1)
    return result
