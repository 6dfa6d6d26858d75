"""The first noise spectra, measured on the images themselves."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.fourier.shells import n_shells
from halfmap.grid import ImageGrid
from halfmap.inference.expectation import premultiplied_power
from halfmap.inference.image_data import ImageData
from halfmap.tensors import Images

NOISE_IMAGES = 1000
"""Images of each optics group that the first noise spectra are measured on."""


def first_noise_variance(data: ImageData, rows: NDArray[np.int64] | None = None) -> Tensor:
    """Return first noise spectra from up to 1000 images of each optics group, float64, shape (groups, n_shells).

    Parameters
    ----------
    rows : of the particles that are looked at; None: all. Groups without any get the mean of the others' spectra.

    Raises
    ------
    InputError
        There is no particle at all.
    """
    seen = np.arange(len(data.particles)) if rows is None else rows
    if len(seen) == 0:
        raise InputError("First noise spectra must come from at least one image; got none.")
    spectra = torch.zeros((data.n_groups, n_shells(data.grid)), dtype=torch.float64)
    group_of = data.group[seen]
    for group in np.unique(group_of):
        some = some_rows(seen[group_of == group], NOISE_IMAGES, data.particles, data.seed)
        images = torch.from_numpy(data.source.read(data.index[some]))
        low = torch.from_numpy(data.background[some]).float()[:, None, None]
        deviation = torch.from_numpy(data.deviation[some]).float()[:, None, None]
        sums = spectrum_sums((images - low) / deviation * data.mask, data.grid)
        mask_mean_square = float(data.mask.double().square().mean())
        spectrum = initial_noise(sums, data.grid, mask_mean_square=mask_mean_square)
        spectra[group] = spectrum / premultiplied_power(data, some).mean(0)
    absent = torch.ones(data.n_groups, dtype=torch.bool)
    absent[np.unique(group_of)] = False
    spectra[absent] = spectra[~absent].mean(0)
    return spectra


def some_rows(rows: NDArray[np.int64], n: int, particles: ParticleSet, seed: int) -> NDArray[np.int64]:
    """Return up to n of some rows, at random by their uids, ascending."""
    order = keyed_random.order(seed, "first particles", particles.uid[rows])
    return np.sort(rows[order[:n]])


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectrumSums:
    """Sums over images from which the first noise spectrum follows; those of chunks add up.

    Parameters
    ----------
    power : float64, shape (S,), Σ of each image's mean |F|² in a shell.
    image : float64, shape (y, x), Σ of the images.
    n_images : number of images.
    """

    power: Tensor
    image: Tensor
    n_images: int

    def __add__(self, other: "SpectrumSums") -> "SpectrumSums":
        return SpectrumSums(
            power=self.power + other.power, image=self.image + other.image, n_images=self.n_images + other.n_images
        )


def spectrum_sums(images: Images, grid: ImageGrid) -> SpectrumSums:
    """Return the sums over images, shape (n, y, x)."""
    grid.check(images, "Images")
    power = shells.power_spectrum(grid.rfft(images.to(torch.float32)), grid)
    return SpectrumSums(power=power.sum(0), image=images.to(torch.float64).sum(0), n_images=len(images))


def initial_noise(sums: SpectrumSums, grid: ImageGrid, *, mask_mean_square: float = 1.0) -> Tensor:
    """Return a first noise spectrum, that of particles less what they have in common.

    Parameters
    ----------
    sums : over images of one optics group; a thousand are plenty.
    mask_mean_square : ⟨m²⟩ over the box of the mask that the images were multiplied with; 1 where they were not, or
        where noise was put outside.

    Returns
    -------
    float64, shape (S,)
        σ² of one real component of a coefficient of `ImageGrid.rfft`, of the noise without mask. Shells with nothing
        left take the value of the shell before, the first ones that of the next with any.

    Raises
    ------
    InputError
        There is no image, or all are the same.

    Notes
    -----
    σ² = ½ (⟨|F|²⟩ − |⟨F⟩|²) n/(n − 1) / ⟨m²⟩. The particles' own signal, other than their mean, is still in it.
    """
    n = sums.n_images
    if n < 1:
        raise InputError("A first noise spectrum must come from at least one image; got none.")
    if sums.power.shape != (shells.n_shells(grid),):
        raise ShapeError(f"Sums of spectra must have {shells.n_shells(grid)} shells; got {tuple(sums.power.shape)}.")
    common = shells.power_spectrum(grid.rfft(sums.image / n), grid) if n > 1 else torch.zeros_like(sums.power)
    left = 0.5 * (sums.power / n - common) * (n / max(n - 1, 1)) / mask_mean_square
    # what single precision leaves of equal numbers, or puts into empty shells, is not noise
    least = torch.maximum(1e-5 * sums.power, 1e-10 * sums.power.amax()) / n
    positive = torch.nonzero(left > least).flatten()
    if len(positive) == 0:
        raise InputError("Images must differ for a noise spectrum; got the same, or empty ones; check the stack.")
    index = torch.arange(len(left))
    before = torch.searchsorted(positive, index, right=True) - 1
    return left[positive[before.clamp_min(0)]]
