"""Square windows of a micrograph, those over its edge included."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # placing windows needs no torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where windows lie: whole-pixel centres, and what was cut off of the positions.

    Parameters
    ----------
    centre_pixel : int64, shape (n, 2): (x, y) of the micrograph pixel at the window's centre voxel.
    remainder_pixel : float64, shape (n, 2): position minus centre, (x, y), within ±0.5.
    """

    centre_pixel: np.ndarray
    remainder_pixel: np.ndarray


def place(position_pixel: np.ndarray) -> Placement:
    """Round positions to the nearest whole pixel and keep the remainder.

    Notes
    -----
    RELION cuts the fraction off and forgets it, half a pixel of error on average.
    """
    centre = np.floor(np.asarray(position_pixel, dtype=np.float64) + 0.5)
    return Placement(centre_pixel=centre.astype(np.int64), remainder_pixel=position_pixel - centre)


def outside_fraction(centre_pixel: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the fraction of each window's area that lies outside the micrograph.

    Parameters
    ----------
    centre_pixel : shape (n, 2), (x, y).
    side : side of the window.
    shape : micrograph (y, x).

    Returns
    -------
    float64, shape (n,); 1 where the window lies wholly outside.
    """
    low = np.asarray(centre_pixel, dtype=np.int64) - side // 2
    limits = np.array(shape[::-1])
    inside = np.clip(np.minimum(low + side, limits) - np.maximum(low, 0), 0, None)
    return 1.0 - inside.prod(axis=1) / side**2


def cut(
    micrograph: "Tensor",
    centre_pixel: np.ndarray,
    side: int,
    *,
    fill: float | None = None,
    resampling: "Tensor | None" = None,
) -> "Tensor":
    """Cut square windows whose centre voxel ``side // 2`` lies at the given pixels.

    Parameters
    ----------
    micrograph : real, shape (y, x).
    centre_pixel : int, shape (n, 2), (x, y).
    side : side of the windows.
    fill : value of pixels outside the micrograph; the nearest pixel of the edge where None, as RELION ends up with.

    resampling : shape (m, side), of `halfmap.fourier.resample.rescaling_matrix`: resample both axes on the way.

    Returns
    -------
    Shape (n, side, side), or (n, m, m) resampled.
    """
    import torch

    height, width = micrograph.shape
    low = np.asarray(centre_pixel, dtype=np.int64) - side // 2
    columns = None if resampling is None else resampling.T
    windows = micrograph.new_empty((len(low), side, side if columns is None else columns.shape[1]))
    offsets = torch.arange(side, device=micrograph.device)
    for window, (left, top) in zip(windows, low.tolist(), strict=True):
        if left >= 0 and top >= 0 and left + side <= width and top + side <= height:
            # A view, of which whole rows are read: ten times faster than indexing pixels.
            pixels = micrograph[top : top + side, left : left + side]
        else:
            x, y = offsets + left, offsets + top
            pixels = micrograph[y.clamp(0, height - 1)[:, None], x.clamp(0, width - 1)[None, :]]
            if fill is not None:
                pixels.masked_fill_(((y < 0) | (y >= height))[:, None] | ((x < 0) | (x >= width))[None, :], fill)
        if columns is None:
            window.copy_(pixels)
        else:
            torch.mm(pixels, columns, out=window)
    return windows if resampling is None else resampling @ windows


def replicate_edges(windows: "Tensor", centre_pixel: np.ndarray, shape: tuple[int, int]) -> "Tensor":
    """Overwrite what lies outside the micrograph by the nearest pixel inside, in windows that were filtered.

    Parameters
    ----------
    windows : shape (n, side, side).
    centre_pixel : int, shape (n, 2), (x, y); every window must overlap the micrograph.
    shape : micrograph (y, x).
    """
    import torch

    side = windows.shape[-1]
    low = np.asarray(centre_pixel) - side // 2
    crossing = np.flatnonzero(((low < 0) | (low + side > np.array(shape[::-1]))).any(axis=1))
    if crossing.size == 0:
        return windows
    windows = windows.clone()
    index = torch.arange(side, device=windows.device)
    for i in crossing:
        x = index.clamp(max(0, -int(low[i, 0])), min(side, shape[1] - int(low[i, 0])) - 1)
        y = index.clamp(max(0, -int(low[i, 1])), min(side, shape[0] - int(low[i, 1])) - 1)
        windows[i] = windows[i][y[:, None], x[None, :]]
    return windows
