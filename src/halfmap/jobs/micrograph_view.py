"""Micrographs for viewers: pictures with a chosen low-pass filter and contrast."""

from pathlib import Path

import numpy as np
import torch

from halfmap.fourier.filters import low_pass
from halfmap.fourier.resample import rescale
from halfmap.grid import ImageGrid
from halfmap.io.images import read_micrograph, shape_and_pixel_size
from halfmap.report.pictures import Picture, grey_between

MOST_PIXELS = 2048


def micrograph_png(
    path: Path,
    *,
    pixel_size_angstrom: float | None = None,
    low_pass_angstrom: float | None = None,
    contrast_deviations: float = 3.0,
    most_pixels: int = MOST_PIXELS,
) -> Picture:
    """Return a micrograph as a grey picture.

    Parameters
    ----------
    path : of the micrograph.
    pixel_size_angstrom : where the file does not tell; 1 Å where neither does.
    low_pass_angstrom : resolution of a low-pass filter; None: none but that of the reduction.
    contrast_deviations : standard deviations from the median that become black and white.
    most_pixels : longest side of the picture; larger micrographs are cropped in Fourier space.

    Raises
    ------
    FormatError, InputError
        The file is no micrograph.
    """
    values = read_micrograph(path)
    finite = np.isfinite(values)
    middle = float(np.median(values[finite])) if finite.any() else 0.0
    image = torch.from_numpy(np.where(finite, values, np.float32(middle)).astype(np.float32))
    pixel = pixel_size_angstrom or shape_and_pixel_size(path)[1] or 1.0
    grid = ImageGrid(shape=tuple(image.shape), pixel_size_angstrom=pixel)
    longest = max(grid.shape)
    if longest > most_pixels:
        image, grid = rescale(image, grid, tuple(max(2, round(side * most_pixels / longest)) for side in grid.shape))
    if low_pass_angstrom is not None:
        image = grid.irfft(grid.rfft(image) * low_pass(grid, low_pass_angstrom))
    shown = image.numpy()
    middle, deviation = float(np.median(shown)), _deviation(shown)
    reach = contrast_deviations * deviation
    return Picture.png(grey_between(shown, middle - reach, middle + reach))


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation that the quartiles tell, which dirt does not move."""
    low, high = np.percentile(values[::4, ::4], (25, 75))
    return max(float(high - low) / 1.349, float(np.finfo(np.float32).tiny))
