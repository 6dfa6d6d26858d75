"""A micrograph reduced to the resolution at which particles are looked for."""

import math
from dataclasses import dataclass
from functools import lru_cache

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

USUAL = 0.9
"""Rows whose mean step to the next row is above this part of the usual one are recorded ones."""

LANCZOS_LOBES = 3

BAND = 32
"""Work pixels resampled by one matrix product."""

RUN_PIXELS = 2**19
"""Pixels reduced at once: two mebibytes."""


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
    values = _block_means(recorded, block, _counting_limits(recorded))
    border = _replicated_border(values, block)
    values = _resampled_rows(values, height, step, block)
    values = _resampled_rows(values.T.contiguous(), width, step, block).T.contiguous()
    return WorkImage(
        values=values,
        grid=ImageGrid(shape=tuple(values.shape), pixel_size_angstrom=step * pixel_size_angstrom),
        step_pixel=step,
        border_pixel=border,
        micrograph_shape=(height, width),
    )


def inside(work: WorkImage, *, edge_angstrom: float, particle_angstrom: float) -> Tensor:
    """Return which work pixels are far enough from the edge of the micrograph, or from its replicated frame.

    Beside a frame no part of even the largest particle may lie on it: whoever extracts it would get copies.

    Parameters
    ----------
    work : the reduced micrograph.
    edge_angstrom : least distance from the edge.
    particle_angstrom : longest diameter of the particles.

    Returns
    -------
    bool, shape (y, x).
    """
    to_pixel = work.step_pixel / work.grid.pixel_size_angstrom
    edge = edge_angstrom * to_pixel
    frame = max(edge_angstrom, particle_angstrom / 2) * to_pixel
    top, bottom, left, right = work.border_pixel
    lines = []
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        n, side = work.grid.shape[axis], work.micrograph_shape[axis]
        centre = torch.arange(n, device=work.values.device) * work.step_pixel
        lines.append(
            (centre >= (before + frame if before else edge)) & (centre <= side - 1 - (after + frame if after else edge))
        )
    return lines[0][:, None] & lines[1]


def _counting_limits(recorded: Tensor) -> tuple[float, float]:
    """Values that counting statistics does not pass, from a regular sample of the pixels."""
    sample = recorded[:: max(1, recorded.shape[0] // 256), :: max(1, recorded.shape[1] // 256)].to(torch.float32)
    median = sample.median()
    reach = CLIP_SIGMA * 1.4826 * (sample - median).abs().median()
    return (float(median - reach), float(median + reach)) if reach > 0 else (-math.inf, math.inf)


def _block_means(recorded: Tensor, block: int, limits: tuple[float, float]) -> Tensor:
    """Clip and average whole blocks, a run of rows at a time so that it stays in the cache.

    Raises `InputError` where pixels are not finite or all alike.
    """
    n_rows = recorded.shape[0] // block * block
    run = max(1, RUN_PIXELS // (recorded.shape[1] * block)) * block
    parts, extremes = [], []
    for start in range(0, n_rows, run):
        rows = recorded[start : min(start + run, n_rows)].to(torch.float32)
        extremes.append(torch.stack(torch.aminmax(rows)))
        rows = rows.clamp(*limits)
        parts.append(torch.nn.functional.avg_pool2d(rows[None, None], block)[0, 0] if block > 1 else rows)
    low, high = float(torch.stack(extremes)[:, 0].min()), float(torch.stack(extremes)[:, 1].max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("A micrograph's pixels must be finite; got NaN or infinity; mend or leave out the file.")
    if low == high:
        raise InputError(f"A micrograph's pixels must vary; all are {low:g}; leave out the file.")
    return torch.cat(parts)


def _replicated_border(values: Tensor, block: int) -> tuple[int, int, int, int]:
    """Widths of the frame whose rows or columns repeat each other, in micrograph pixels.

    Low-passing after replication blurs its inner edge and may leave a strip of other values outside it, so the
    frame reaches from the micrograph's edge to where, inward of all copies, the step is the usual one again.
    """
    widths = []
    for axis in (0, 1):
        steps = torch.diff(values, dim=axis).abs().mean(1 - axis)
        ratio = (steps / steps.median().clamp_min(torch.finfo(torch.float32).tiny)).cpu().numpy()
        margin = max(1, len(ratio) // 8)
        for side in (ratio[:margin], ratio[::-1][:margin]):
            copies = np.flatnonzero(side < REPLICATED)
            usual = np.flatnonzero(side >= USUAL)
            inward = usual[usual > copies[-1]] if len(copies) else usual[:0]
            width = 0 if not len(copies) else (inward[0] if len(inward) else len(side))
            widths.append(int(width + 1) * block if width else 0)
    return (widths[0], widths[1], widths[2], widths[3])


def _resampled_rows(values: Tensor, n_recorded: int, step: float, block: int) -> Tensor:
    """Take every ``step``-th recorded row out of averages over blocks of rows, as products over narrow bands."""
    bands = [
        matrix.to(values.device) @ values[start : start + matrix.shape[1]]
        for start, matrix in _resampling_bands(values.shape[0], n_recorded, step, block)
    ]
    return torch.cat(bands)


@lru_cache(maxsize=8)
def _resampling_bands(n_blocks: int, n_recorded: int, step: float, block: int) -> tuple[tuple[int, Tensor], ...]:
    """Lanczos-windowed sinc of the work pixel, a few dozen work pixels at a time.

    Returns
    -------
    First block and weights, float32, shape (number of work pixels, number of blocks), of each band; a work pixel's
    weights sum to 1, also where the micrograph ends within its reach.
    """
    centre = (np.arange(int((n_recorded - 1) / step) + 1) * step - (block - 1) / 2) / block
    reach = LANCZOS_LOBES * step / block
    bands = []
    for first in range(0, len(centre), BAND):
        part = centre[first : first + BAND]
        start, stop = max(0, math.ceil(part[0] - reach)), min(n_blocks, math.floor(part[-1] + reach) + 1)
        offset = (np.arange(start, stop) - part[:, None]) * block / step
        weight = np.sinc(offset) * np.sinc(offset / LANCZOS_LOBES) * (np.abs(offset) < LANCZOS_LOBES)
        weight /= weight.sum(axis=1, keepdims=True)
        bands.append((start, torch.from_numpy(weight.astype(np.float32))))
    return tuple(bands)
