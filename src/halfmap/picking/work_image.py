"""A micrograph reduced to the resolution at which particles are looked for."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid

CLIP_SIGMA = 6.0
"""Recorded values are clipped this many robust standard deviations from their median: no counting statistics reaches
further, hot and dead pixels do."""

REPLICATED = 0.1
"""Rows whose mean step to the next row is below this part of the usual one are copies of each other."""

LANCZOS_LOBES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkImage:
    """A reduced micrograph and where its pixels lie in the recorded one.

    Parameters
    ----------
    values : float32, shape (y, x).
    grid : its sampling; work pixel k of an axis is centred on micrograph pixel k step.
    step_pixel : side of a work pixel in micrograph pixels.
    border_pixel : widths of the replicated or empty frame in micrograph pixels: top, bottom, left, right.
    micrograph_shape : sides (y, x) of the recorded micrograph.
    """

    values: Tensor
    grid: ImageGrid
    step_pixel: float
    border_pixel: tuple[int, int, int, int]
    micrograph_shape: tuple[int, int]

    def to_micrograph(self, position: np.ndarray) -> np.ndarray:
        """Turn work pixels (x, y), shape (n, 2), into micrograph pixels."""
        return position * self.step_pixel


def reduce(micrograph: Tensor | np.ndarray, *, pixel_size_angstrom: float, work_pixel_angstrom: float) -> WorkImage:
    """Reduce a micrograph to a pixel size of exactly that many Å.

    Values far outside the counting statistics are clipped, whole blocks are averaged as far as the remaining step
    stays at least two, and a windowed sinc does the rest, renormalised at the edges: nothing wraps around, and any
    sides serve.

    Parameters
    ----------
    micrograph : shape (y, x), finite, any real type.
    pixel_size_angstrom : of the micrograph.
    work_pixel_angstrom : asked for; the micrograph's own is kept where it is coarser.

    Raises
    ------
    ShapeError
        The array is not an image.
    InputError
        A pixel is not finite, or all have the same value.
    """
    recorded = torch.as_tensor(micrograph)
    if recorded.ndim != 2:
        raise ShapeError(f"A micrograph must have two axes (y, x); got shape {tuple(recorded.shape)}.")
    height, width = recorded.shape
    step = max(1.0, work_pixel_angstrom / pixel_size_angstrom)
    block = max(1, int(step / 2))
    values = _clip(recorded.to(torch.float32))
    rows, columns = height // block, width // block
    if block > 1:
        values = torch.nn.functional.avg_pool2d(values[None, None], block)[0, 0]
    border = _replicated_border(values, block)
    along_y = _resampling_matrix(rows, height, step, block).to(values.device)
    along_x = _resampling_matrix(columns, width, step, block).to(values.device)
    values = along_y @ values @ along_x.T
    return WorkImage(
        values=values,
        grid=ImageGrid(shape=tuple(values.shape), pixel_size_angstrom=step * pixel_size_angstrom),
        step_pixel=step,
        border_pixel=border,
        micrograph_shape=(height, width),
    )


def _clip(values: Tensor) -> Tensor:
    """Clip to the counting statistics; raises where pixels are not finite or all alike."""
    low, high = (float(limit) for limit in torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("A micrograph's pixels must be finite; got NaN or infinity; mend or leave out the file.")
    if low == high:
        raise InputError(f"A micrograph's pixels must vary; all are {low:g}; leave out the file.")
    sample = values[:: max(1, values.shape[0] // 256), :: max(1, values.shape[1] // 256)]
    median = sample.median()
    sigma = 1.4826 * (sample - median).abs().median()
    if sigma == 0:
        return values
    return values.clamp(float(median - CLIP_SIGMA * sigma), float(median + CLIP_SIGMA * sigma))


def _replicated_border(values: Tensor, block: int) -> tuple[int, int, int, int]:
    """Widths of the frame whose rows or columns repeat each other, in micrograph pixels.

    Low-passing after replication blurs its inner edge and may leave a strip of other values outside it, so the
    frame reaches from the micrograph's edge to the innermost line whose step is still below half the usual.
    """
    widths = []
    for axis in (0, 1):
        steps = torch.diff(values, dim=axis).abs().mean(1 - axis)
        ratio = (steps / steps.median().clamp_min(torch.finfo(torch.float32).tiny)).cpu().numpy()
        margin = max(1, len(ratio) // 8)
        for side in (ratio[:margin], ratio[::-1][:margin]):
            inside = np.flatnonzero(side < 0.5)
            widths.append(int(inside[-1] + 2) * block if (side < REPLICATED).any() else 0)
    return (widths[0], widths[1], widths[2], widths[3])


def _resampling_matrix(n_blocks: int, n_recorded: int, step: float, block: int) -> Tensor:
    """Rows of a Lanczos-windowed sinc that take every ``step``-th recorded pixel out of averages over blocks.

    Returns
    -------
    float32, shape (number of work pixels, n_blocks).
    """
    centre = torch.arange(int((n_recorded - 1) / step) + 1, dtype=torch.float64) * step
    offset = (torch.arange(n_blocks, dtype=torch.float64) * block + (block - 1) / 2 - centre[:, None]) / step
    weights = torch.sinc(offset) * torch.sinc(offset / LANCZOS_LOBES) * (offset.abs() < LANCZOS_LOBES)
    return (weights / weights.sum(1, keepdim=True)).to(torch.float32)
