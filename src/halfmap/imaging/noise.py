"""Noise by its spectrum: drawing it, measuring it, and its variance per pixel.

A spectrum is σ² per shell, the variance of one real component of a coefficient of `ImageGrid.rfft`:
½ E|N|². Corners beyond the last shell carry the last shell's value.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.tensors import Images


def white_spectrum(grid: ImageGrid, pixel_variance: float) -> Tensor:
    """Return the spectrum of white noise of a variance per pixel, float64, shape (n_shells,)."""
    return torch.full((shells.n_shells(grid),), pixel_variance / (2.0 * grid.n_pixels), dtype=torch.float64)


def pixel_variance(spectrum: Tensor, grid: ImageGrid) -> Tensor:
    """Return the variance per pixel of noise of a spectrum.

    Parameters
    ----------
    spectrum : shape (..., n_shells).
    grid : of the images.

    Returns
    -------
    float64, shape (...)
        Σ over all coefficients of 2 σ².
    """
    return (2.0 * _spread(spectrum, grid) * shells.multiplicity(grid)).sum((-2, -1))


def with_pixel_variance(shape: Tensor, grid: ImageGrid, variance: float) -> Tensor:
    """Scale a spectrum's shape so that its noise has a variance per pixel.

    Parameters
    ----------
    shape : shape (..., n_shells)
        Not negative, in any units.
    grid : of the images.
    variance : per pixel, positive.

    Returns
    -------
    float64, shape (..., n_shells)

    Raises
    ------
    InputError
        A negative value, or zero everywhere.
    """
    if bool((shape < 0).any()) or not bool((shape > 0).any(-1).all()):
        raise InputError(
            f"A spectrum must not be negative nor zero everywhere; got {shape.min():g} to {shape.max():g}."
        )
    return shape.double() * (variance / pixel_variance(shape, grid))[..., None]


def draw(
    seed: int,
    purpose: str,
    uids: ArrayLike,
    grid: ImageGrid,
    spectrum: Tensor,
    *,
    iteration: int = 0,
    draw_number: ArrayLike = 0,
) -> Images:
    """Draw noise images.

    Parameters
    ----------
    seed, purpose, uids, iteration, draw_number : as for `halfmap.keyed_random.normal` (its ``draw``).
    grid : of the images.
    spectrum : shape (n_shells,), or (N, n_shells) for one of its own for each uid
        So images of several optics groups are drawn together.

    Returns
    -------
    float32, shape (*uids.shape, *grid.shape)
        Gaussian with expected spectrum and pixel variance exactly as stated; each image belongs to its
        uid whatever the others are.

    Notes
    -----
    White noise is drawn per pixel and shaped in Fourier space, so Friedel symmetry and the Nyquist
    coefficients come out right by themselves.
    """
    white = keyed_random.normal(seed, purpose, uids, iteration=iteration, draw=draw_number, size=grid.shape)
    amplitude = (2.0 * grid.n_pixels * _spread(spectrum, grid)).sqrt()
    transform = grid.rfft(torch.from_numpy(white))
    return grid.irfft(transform * amplitude).float()


def measure(images: Images, grid: ImageGrid) -> Tensor:
    """Return the spectrum of images that hold nothing but noise.

    Parameters
    ----------
    images : shape (N, *grid.shape).

    Returns
    -------
    float64, shape (n_shells,)
        Half of the mean power in each shell.
    """
    return shells.power_spectrum(grid.rfft(images.double()), grid).reshape(-1, shells.n_shells(grid)).mean(0) / 2.0


def _spread(spectrum: Tensor, grid: ImageGrid) -> Tensor:
    count = shells.n_shells(grid)
    if spectrum.shape[-1] != count:
        raise ShapeError(f"A spectrum must have one value for each of {count} shells; got {tuple(spectrum.shape)}.")
    return spectrum.double()[..., shells.shell_index(grid).clamp(max=count - 1)]
