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
    image : float32, shape (y, x).
    """

    number: int
    image: Float32Array


def moved_frames(source: ImageSource, series: FrameSeries, grid: ImageGrid) -> Iterator[MovedFrame]:
    """Yield the used frames of a movie, aligned, one by one.

    Parameters
    ----------
    source : the frames, corrected.
    series : with the motion.
    grid : of the result, over the same field, of the frames' pixels or larger ones, which hold the electrons of those
        they are made of.
    """
    for number in np.flatnonzero(series.is_used).tolist():
        transform = torch.fft.rfft2(torch.from_numpy(source.read([number])[0]))
        transform = crop_or_pad_transform(transform, source.grid, grid)
        x, y = movement_pixel(series, number, grid)
        yield MovedFrame(number=number, image=moved_back(transform, grid, x, y))


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


class Sums:
    """Sums over moved frames: plain, and weighted by exposure in Fourier space.

    Parameters
    ----------
    grid : of the frames.
    weights : None for no weights.
    halves : whether to keep sums of the 1st, 3rd, … and of the 2nd, 4th, … frame of the movie apart.
    """

    def __init__(self, grid: ImageGrid, weights: ExposureWeights | None = None, *, halves: bool = False) -> None:
        self.grid, self.weights = grid, weights
        self.plain: Float32Array = np.zeros(grid.shape, dtype=np.float32)
        shape = grid.shape if weights is None else grid.rfft_shape
        dtype = torch.float32 if weights is None else torch.complex64
        is_needed = halves or weights is not None
        self._halves = [torch.zeros(shape, dtype=dtype) for _ in range(2 if halves else 1)] if is_needed else []

    def add(self, frame: MovedFrame) -> None:
        """Add a frame."""
        self.plain += frame.image
        if self._halves:
            values = torch.from_numpy(frame.image)
            if self.weights is not None:
                values = torch.fft.rfft2(values) * self.weights.of_frame(frame.number)
            self._halves[frame.number % len(self._halves)] += values

    def weighted(self) -> Float32Array | None:
        """Return the weighted sum; None without weights."""
        return None if self.weights is None else self._image(torch.stack(self._halves).sum(0))

    def odd_and_even(self) -> tuple[Float32Array, Float32Array] | None:
        """Return the sums of odd and of even frames, weighted where there are weights; None where not kept apart."""
        if len(self._halves) < 2:
            return None
        return self._image(self._halves[0]), self._image(self._halves[1])

    def _image(self, values: torch.Tensor) -> Float32Array:
        image = values if self.weights is None else torch.fft.irfft2(values, s=self.grid.shape)
        found: Float32Array = image.numpy()
        return found
