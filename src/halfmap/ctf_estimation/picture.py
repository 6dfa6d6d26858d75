"""A power spectrum with its model beside it, to be looked at."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter1d

from halfmap.ctf_estimation.fit import Lens
from halfmap.ctf_estimation.periodogram import PowerSpectra
from halfmap.ctf_estimation.rings import Microscope
from halfmap.grid import ImageGrid

_BLUR_PIXEL = 1.0
_RUNNING_SHELLS = 15
_MODEL_DEVIATION = 8**-0.5  # of sin²


def spectrum_picture(spectra: PowerSpectra, microscope: Microscope, lens: Lens) -> NDArray[np.float32]:
    """Return a power spectrum, zero frequency in the middle: the model in the left half, the data in the right.

    Parameters
    ----------
    spectra : of the image; the mean of several.
    microscope, lens : its CTF.

    Returns
    -------
    float32, shape (y, x)
        Both halves in units of their deviation about their mean in fifteen shells, the data blurred by a pixel.
    """
    box = spectra.grid.side
    half = spectra.power.mean(dim=0).numpy()
    data = np.fft.fftshift(_whole(half), axes=(0, 1))
    data = gaussian_filter(data, _BLUR_PIXEL)
    frequencies = _centred_frequencies(spectra.grid)
    shell = np.rint(frequencies.norm(dim=-1).numpy() * box * spectra.grid.pixel_size_angstrom).astype(np.int64)
    zero = torch.zeros(1, dtype=torch.float64)
    model = lens.gamma(frequencies.reshape(-1, 2), microscope, zero).sin().square().reshape(box, box).numpy()
    shown = _standardised(data, shell)
    shown[:, : box // 2] = ((model - 0.5) / _MODEL_DEVIATION)[:, : box // 2]
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


def _standardised(values: NDArray[np.float64], shell: NDArray[np.int64]) -> NDArray[np.float64]:
    flat, index = values.ravel(), shell.ravel()
    counts = np.maximum(np.bincount(index), 1)
    mean = uniform_filter1d(np.bincount(index, weights=flat) / counts, _RUNNING_SHELLS, mode="nearest")
    away = flat - mean[index]
    deviation = np.sqrt(uniform_filter1d(np.bincount(index, weights=away**2) / counts, _RUNNING_SHELLS, mode="nearest"))
    standard: NDArray[np.float64] = (away / np.maximum(deviation, np.finfo(np.float64).tiny)[index]).reshape(
        values.shape
    )
    return standard
