"""A power spectrum with its model beside it, to be looked at."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from halfmap.ctf_estimation.fit import Lens
from halfmap.ctf_estimation.periodogram import PowerSpectra
from halfmap.ctf_estimation.quality import mean_defocus_frequency
from halfmap.ctf_estimation.rings import Microscope
from halfmap.grid import ImageGrid

_BLUR_PIXEL = 1.0
_RUNNING_SHELLS = 15
_MODEL_DEVIATION = 8**-0.5  # of sin²


def spectrum_picture(spectra: PowerSpectra, microscope: Microscope, lens: Lens) -> NDArray[np.float32]:
    """Return a power spectrum, zero frequency in the middle, beside its model.

    The left half is the model, the upper right quarter the data, the lower right quarter the data averaged along lines
    of equal phase.

    Parameters
    ----------
    spectra : of the image; the mean of several.
    microscope, lens : its CTF.

    Returns
    -------
    float32, shape (y, x)
        In units of the deviation about the mean in fifteen shells; the data blurred by a pixel.
    """
    box = spectra.grid.side
    whole = np.fft.fftshift(_whole(spectra.power.mean(dim=0).numpy()), axes=(0, 1))
    per_step = box * spectra.grid.pixel_size_angstrom
    frequencies = _centred_frequencies(spectra.grid)
    shell = np.rint(frequencies.norm(dim=-1).numpy() * per_step).astype(np.int64)
    shown = _standardised(gaussian_filter(whole, _BLUR_PIXEL), shell)
    flat, zero = frequencies.reshape(-1, 2), torch.zeros(1, dtype=torch.float64)
    model = lens.gamma(flat, microscope, zero).sin().square().reshape(box, box).numpy()
    shown[:, : box // 2] = ((model - 0.5) / _MODEL_DEVIATION)[:, : box // 2]
    along = mean_defocus_frequency(flat, microscope, lens, zero).numpy().reshape(box, box)
    shown[box // 2 :, box // 2 :] = _averaged(whole, along * per_step)[box // 2 :, box // 2 :]
    return shown.astype(np.float32)


def _whole(half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the redundant mates to a half transform's power; DC at [0, 0]."""
    n = half.shape[0]
    rows = -np.arange(n) % n
    mates = half[rows][:, 1 : n - half.shape[1] + 1][:, ::-1]
    return np.concatenate([half, mates], axis=1)


def _centred_frequencies(grid: ImageGrid) -> torch.Tensor:
    axis = (torch.arange(grid.side, dtype=torch.float64) - grid.side // 2) / (grid.side * grid.pixel_size_angstrom)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def _averaged(values: NDArray[np.float64], radius_pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over pixels of one radius, in units of their running deviation."""
    bins = np.minimum(np.rint(radius_pixel).astype(np.int64), values.shape[0])
    counts = np.maximum(np.bincount(bins.ravel(), minlength=values.shape[0] + 1), 1)
    profile = np.bincount(bins.ravel(), weights=values.ravel(), minlength=values.shape[0] + 1) / counts
    away = profile - _running_mean(profile)
    deviation = np.sqrt(_running_mean(away**2))
    standard = away / np.maximum(deviation, np.finfo(np.float64).tiny)
    return np.interp(radius_pixel, np.arange(len(standard)), standard)


def _standardised(values: NDArray[np.float64], shell: NDArray[np.int64]) -> NDArray[np.float64]:
    flat, index = values.ravel(), shell.ravel()
    counts = np.maximum(np.bincount(index), 1)
    mean = _running_mean(np.bincount(index, weights=flat) / counts)
    away = flat - mean[index]
    deviation = np.sqrt(_running_mean(np.bincount(index, weights=away**2) / counts))
    standard: NDArray[np.float64] = (away / np.maximum(deviation, np.finfo(np.float64).tiny)[index]).reshape(
        values.shape
    )
    return standard


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel = np.full(_RUNNING_SHELLS, 1 / _RUNNING_SHELLS)
    return np.convolve(np.pad(values, _RUNNING_SHELLS // 2, mode="edge"), kernel, mode="valid")
