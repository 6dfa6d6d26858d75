"""Sums of frames whose motion is undone, weighted by exposure or not."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import FrameSeries
from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.fourier.resample import crop_or_pad_transform
from halfmap.grid import ImageGrid
from halfmap.imaging.frame_average import moved_back, movement_pixel
from halfmap.optics.dose import critical_exposure

FRAMES_IN_MEMORY = 16
"""Bound on the memory that sums need, in float32 images of a frame's size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedFrame:
    """A frame whose motion is undone.

    Parameters
    ----------
    number : of the frame, from 0.
    plain : float32, shape (y, x).
    weighted : the same with its exposure weight; None without weights.
    """

    number: int
    plain: Float32Array
    weighted: Float32Array | None


def moved_frames(
    source: ImageSource, series: FrameSeries, grid: ImageGrid, exposure_weights: "ExposureWeights | None" = None
) -> Iterator[MovedFrame]:
    """Yield the used frames of a movie, aligned, one by one.

    Parameters
    ----------
    source : the frames, corrected.
    series : with the motion.
    grid : of the result, over the same field, of the frames' pixels or larger ones, which hold the electrons of those
        they are made of.
    exposure_weights : by which frames are weighted; None for no weights.
    """
    for number in np.flatnonzero(series.is_used).tolist():
        transform = torch.fft.rfft2(torch.from_numpy(source.read([number])[0]))
        transform = crop_or_pad_transform(transform, source.grid, grid)
        x, y = movement_pixel(series, number, grid)
        plain = moved_back(transform, grid, x, y)
        weighted = None
        if exposure_weights is not None:
            weighted = moved_back(transform * exposure_weights.of_frame(number), grid, x, y)
        yield MovedFrame(number=number, plain=plain, weighted=weighted)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExposureWeights:
    """Weights of frames by which their sum keeps the noise of one level at all frequencies.

    Parameters
    ----------
    half_rate : float32, half transform, 1 / (2 critical exposure).
    exposure_e_per_angstrom2 : float64, shape (n,), at the middle of each frame.
    norm : float32, half transform, root of the sum of squared weights of the used frames.

    References
    ----------
    Grant and Grigorieff 2015, eLife 4, e06980, equations 5 and 9.
    """

    half_rate: Tensor
    exposure_e_per_angstrom2: np.ndarray
    norm: Tensor

    @classmethod
    def of(
        cls, series: FrameSeries, grid: ImageGrid, *, dose_per_frame_e_per_angstrom2: float, voltage_kv: float
    ) -> "ExposureWeights":
        """Return the weights of a series' frames on a grid."""
        y = torch.fft.fftfreq(grid.shape[0], grid.pixel_size_angstrom)[:, None]
        x = torch.fft.rfftfreq(grid.shape[1], grid.pixel_size_angstrom)
        radius = (x.square() + y.square()).sqrt()
        half_rate = 1 / (2 * critical_exposure(radius, voltage_kv))
        exposure = np.asarray(series.dose_e_per_angstrom2) + dose_per_frame_e_per_angstrom2 / 2
        squared = torch.zeros_like(half_rate)
        for one in exposure[series.is_used].tolist():
            squared += torch.exp(half_rate * (-2 * one))
        return cls(half_rate=half_rate, exposure_e_per_angstrom2=exposure, norm=squared.sqrt())

    def of_frame(self, number: int) -> Tensor:
        """Return the weights of a frame."""
        return torch.exp(self.half_rate * (-float(self.exposure_e_per_angstrom2[number]))) / self.norm


@dataclass(kw_only=True, eq=False)
class Sums:
    """Sums over moved frames.

    Parameters
    ----------
    plain, weighted : of all frames.
    odd, even : of the 1st, 3rd, … and of the 2nd, 4th, … frame of the movie, weighted where there are weights.
    """

    plain: Float32Array
    weighted: Float32Array | None
    odd: Float32Array | None
    even: Float32Array | None

    @classmethod
    def empty(cls, grid: ImageGrid, *, weighted: bool, halves: bool) -> "Sums":
        """Return sums of nothing."""

        def zeros() -> Float32Array:
            return np.zeros(grid.shape, dtype=np.float32)

        return cls(
            plain=zeros(),
            weighted=zeros() if weighted else None,
            odd=zeros() if halves else None,
            even=zeros() if halves else None,
        )

    def add(self, frame: MovedFrame) -> None:
        """Add a frame."""
        self.plain += frame.plain
        best = frame.plain if frame.weighted is None else frame.weighted
        if self.weighted is not None:
            self.weighted += best
        half = self.even if frame.number % 2 else self.odd
        if half is not None:
            half += best
