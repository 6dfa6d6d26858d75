"""What is kept of a movie while its motion is found: low frequencies of its patches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import prev_fast_len
from torch import Tensor

from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.errors import InputError
from halfmap.motion_correction.params import MotionParams

MOST_GROUPS = 128
"""Groups of frames whose motion is found, at most, unless asked otherwise."""

MOST_KEPT_BYTES = 2**28
"""Bound on what is kept of a movie; finer frequencies are left out to stay below."""

_LEAST_WEIGHT = 0.02
_OVERLAP = 1.25
_SMALLEST_PATCH_PIXEL = 64
_EDGE = 0.125
_FIRST_CYCLES = 3.0
"""Frequencies of fewer cycles in a patch are left out: uneven light and ice."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSpectra:
    """Low frequencies of all patches of all groups of frames.

    Parameters
    ----------
    values : complex64, shape (T, P, K).
    frequency : float64, shape (K, 2), (x, y) in cycles per pixel of the frames.
    index : int64, shape (K,), of each frequency in the flat half transform of ``box``.
    box : (y, x), smallest half transform that holds the frequencies.
    patch_pixel : (y, x), sides of a patch.
    centre : float64, shape (P, 2), (x, y) of patches, 0 to 1 over the frame.
    groups : frames of each group, in order.
    weight : float64, shape (K,), exp(−B k²).
    frame_mean : float64, one for each frame of the movie.
    """

    values: Tensor
    frequency: Tensor
    index: Tensor
    box: tuple[int, int]
    patch_pixel: tuple[int, int]
    centre: NDArray[np.float64]
    groups: tuple[tuple[int, ...], ...]
    weight: Tensor
    frame_mean: NDArray[np.float64]

    @property
    def time(self) -> NDArray[np.float64]:
        """Mean number of the frames of each group, from 0, (T,)."""
        return np.array([np.mean(group) for group in self.groups])


def patch_spectra(
    source: ImageSource, params: MotionParams, followed_pixel: NDArray[np.float64] | None = None
) -> PatchSpectra:
    """Read a movie once, and keep the low frequencies of its patches.

    Parameters
    ----------
    source : the frames, corrected.
    params : patches, groups and B-factor.
    followed_pixel : (T, 2), (x, y), by which each group is moved back as far as is known; None for not at all. Patches
        follow what they show by whole pixels, and their phases stay those of the place where they began: small patches
        that stay where they are see other parts of the specimen from frame to frame, and too little of its motion.
        They begin where all of their way lies in the frame; along an axis where there is no such place, they stay.

    Raises
    ------
    InputError
        A patch is too small, or there are fewer than two groups of frames.

    Notes
    -----
    One frame at a time is in memory. Frames are binned by the mean of whole pixels as far as the frequencies that
    count allow; patches overlap by a quarter and fade at their edges.
    """
    groups = _groups(len(source), params)
    followed = np.zeros((len(groups), 2)) if followed_pixel is None else followed_pixel
    layout = _Layout.of(source.grid.shape, params, followed)
    values = torch.zeros((len(groups), len(layout.corners), len(layout.index)), dtype=torch.complex64)
    means = np.zeros(len(source))
    for number, group in enumerate(groups):
        total: Float32Array | None = None
        for frame in group:
            image = source.read([frame])[0]
            means[frame] = image.mean(dtype=np.float64)
            total = image if total is None else total + image
        assert total is not None
        values[number] = layout.transform(total, number)
    return PatchSpectra(
        values=values,
        frequency=layout.frequency,
        index=layout.index,
        box=layout.box,
        patch_pixel=(layout.side[0] * layout.binning, layout.side[1] * layout.binning),
        centre=layout.centre,
        groups=groups,
        weight=torch.exp(-params.b_factor_pixel2 * layout.frequency.square().sum(-1)),
        frame_mean=means,
    )


def _groups(n_frames: int, params: MotionParams) -> tuple[tuple[int, ...], ...]:
    if n_frames < 2:
        raise InputError(
            f"A movie must have two or more frames to be compared; got {n_frames}; leave it out: an image that is a "
            "sum already needs no motion correction."
        )
    size = params.group_frames or math.ceil(n_frames / MOST_GROUPS)
    starts = range(0, n_frames - size + 1, size)
    groups = [tuple(range(start, start + size)) for start in starts]
    if len(groups) < 2:
        raise InputError(
            f"A movie must have two or more groups of frames; got {n_frames} frames in groups of {size}; choose a "
            "smaller --group-frames."
        )
    rest = tuple(range(groups[-1][-1] + 1, n_frames))
    return (*groups[:-1], groups[-1] + rest)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Where patches lie and what is kept of them; pixels are those of the binned frame, but for steps.

    Parameters
    ----------
    steps : int64, (T, 2), (y, x), pixels of the frame by which patches follow each group, backwards.
    """

    binning: int
    side: tuple[int, int]
    steps: NDArray[np.int64]
    corners: Sequence[tuple[int, int]]
    centre: NDArray[np.float64]
    taper: Tensor
    box: tuple[int, int]
    index: Tensor
    frequency: Tensor

    @classmethod
    def of(cls, shape: tuple[int, ...], params: MotionParams, followed_pixel: NDArray[np.float64]) -> "_Layout":
        n_x, n_y = params.patches
        highest = math.sqrt(-math.log(_LEAST_WEIGHT) / params.b_factor_pixel2)
        sides = [min(int(length * _OVERLAP / n), length) for length, n in zip(shape, (n_y, n_x), strict=True)]
        # what is kept grows with the square of the highest frequency
        n_kept = math.pi / 2 * min(highest, 0.5) ** 2 * math.prod(sides) * n_x * n_y * len(followed_pixel) * 8
        highest *= min(1.0, math.sqrt(MOST_KEPT_BYTES / n_kept))
        highest = min(highest, 0.5)
        binning = max(1, int(0.5 / highest))
        if min(sides) < _SMALLEST_PATCH_PIXEL:
            raise InputError(
                f"Patches must be {_SMALLEST_PATCH_PIXEL} pixels wide or more; got {min(sides)} of frames of "
                f"{shape[1]} × {shape[0]}; choose fewer --patches."
            )
        # sides whose transforms are fast
        side = (prev_fast_len(sides[0] // binning), prev_fast_len(sides[1] // binning))
        steps = np.rint(followed_pixel).astype(np.int64)[:, ::-1]
        starts = []
        for axis, n in enumerate((n_y, n_x)):
            room = shape[axis] - side[axis] * binning
            first, last = max(int(steps[:, axis].max()), 0), room + min(int(steps[:, axis].min()), 0)
            first, last = -(-first // binning), last // binning
            if last - first < n - 1:
                first, last = 0, room // binning
                steps[:, axis] = 0
            starts.append(np.rint(np.linspace(first, last, n) if n > 1 else [(first + last) / 2]).astype(int))
        corners = [(int(y), int(x)) for y in starts[0] for x in starts[1]]
        centre = np.array(
            [
                ((x + (side[1] - 1) / 2 + 0.5) * binning - 0.5, (y + (side[0] - 1) / 2 + 0.5) * binning - 0.5)
                for y, x in corners
            ]
        ) / np.array(shape[::-1])
        y = torch.fft.fftfreq(side[0], dtype=torch.float64)[:, None] / binning
        x = torch.fft.rfftfreq(side[1], dtype=torch.float64)[None] / binning
        # the column k_x = 0 holds each pair of mates twice: one of them is kept
        is_kept = (x.square() + y.square() <= highest**2) & ((x > 0) | (y > 0)) & (x < 0.5 / binning)
        is_kept &= (y.abs() < 0.5 / binning) & (
            (x * side[1] * binning).square() + (y * side[0] * binning).square() >= _FIRST_CYCLES**2
        )
        row, column = torch.nonzero(is_kept, as_tuple=True)
        taper = _taper(side[0])[:, None] * _taper(side[1])[None]
        return cls(
            binning=binning,
            side=side,
            steps=steps,
            corners=corners,
            centre=centre,
            taper=taper,
            box=side,
            index=row * (side[1] // 2 + 1) + column,
            frequency=torch.stack([x[0, column], y[row, 0]], dim=-1),
        )

    def transform(self, frame: Float32Array, group: int) -> Tensor:
        """Return the kept frequencies of all patches of a group's frame, complex64, (P, K)."""
        # binned from a pixel on such that patches begin at whole binned ones
        offset_y, offset_x = (-self.steps[group] % self.binning).tolist()
        image = torch.from_numpy(_binned(frame[offset_y:, offset_x:], self.binning))
        step_y, step_x = (-(-self.steps[group] // self.binning)).tolist()
        found = []
        for y, x in self.corners:
            at_y, at_x = y - step_y, x - step_x
            patch = image[at_y : at_y + self.side[0], at_x : at_x + self.side[1]]
            found.append(torch.fft.rfft2((patch - patch.mean()) * self.taper).reshape(-1)[self.index])
        turns = 2 * math.pi * (self.frequency @ torch.from_numpy(self.steps[group][::-1].astype(np.float64)))
        return torch.stack(found) * torch.polar(torch.ones_like(turns), turns).to(torch.complex64)


def _binned(frame: Float32Array, factor: int) -> Float32Array:
    if factor == 1:
        return frame
    height, width = (side // factor for side in frame.shape)
    cut = frame[: height * factor, : width * factor]
    total = np.zeros((height, width), dtype=np.float32)
    for y in range(factor):
        for x in range(factor):
            total += cut[y::factor, x::factor]
    return total


def _taper(side: int) -> Tensor:
    """Return a window that rises from 0 to 1 over the edge of a patch, float32."""
    distance = torch.minimum(torch.arange(side) + 0.5, side - torch.arange(side) - 0.5)
    ramp = (distance / max(_EDGE * side, 1.0)).clamp(max=1.0)
    return (0.5 - 0.5 * torch.cos(math.pi * ramp)).float()
