"""A map in bands of spatial frequency, and how strong each band is around each voxel."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.tensors import Volumes

N_BANDS = 6
RATIO = 1.5
"""Of the frequencies of neighbouring bands: each reaches about as many of its own wavelengths in space."""

WIDTHS = (0.35, 1.0)
"""Standard deviations, in wavelengths of a band, of the Gaussians in which its energy is averaged."""

N_ENERGIES = N_BANDS * len(WIDTHS)

_NARROWEST_PIXEL = 0.8
_EDGE_SHELLS = 2.0


def band_shells(limit_shell: float) -> list[float]:
    """Return the shells at which bands are highest, lowest first; the last is the limit."""
    return [limit_shell / RATIO ** (N_BANDS - 1 - number) for number in range(N_BANDS)]


def band_filters(grid: ImageGrid, limit_shell: float) -> Iterator[Tensor]:
    """Yield the filter of each band: raised cosines that add up to 1 from DC, which none has, to the limit.

    Parameters
    ----------
    limit_shell : beyond it the last band falls to 0 within two shells.

    Yields
    ------
    float32, shape ``grid.rfft_shape``
    """
    radius = shells.shell_radius(grid)
    centres = band_shells(limit_shell)
    for number, centre in enumerate(centres):
        below = centres[number - 1] if number else None
        above = centres[number + 1] if number + 1 < N_BANDS else centre + _EDGE_SHELLS
        distance = ((radius - centre) / (above - centre)).clamp(0, 1)
        if below is not None:
            distance = torch.where(radius < centre, ((centre - radius) / (centre - below)).clamp(0, 1), distance)
        multiplier = 0.5 + 0.5 * torch.cos(math.pi * distance)
        yield torch.where(radius > 0, multiplier, torch.zeros_like(multiplier)).float()


def in_bands(values: Volumes, grid: ImageGrid, limit_shell: float) -> tuple[Tensor, Tensor]:
    """Part a map into bands, and average their squares around each voxel.

    Parameters
    ----------
    values : float32, shape ``grid.shape``.
    limit_shell : of `band_filters`.

    Returns
    -------
    bands : float32, shape (N_BANDS, n voxels).
    energies : float32, shape (N_ENERGIES, n voxels), not negative: of each band those of `WIDTHS`.
    """
    transform = grid.rfft(values)
    cycles = shells.shell_radius(grid) / max(grid.shape)  # per pixel
    bands = torch.empty((N_BANDS, grid.n_pixels))
    energies = torch.empty((N_ENERGIES, grid.n_pixels))
    for number, (centre, multiplier) in enumerate(
        zip(band_shells(limit_shell), band_filters(grid, limit_shell), strict=True)
    ):
        band = grid.irfft(transform * multiplier)
        bands[number] = band.flatten()
        square = grid.rfft(band.square())
        wavelength = max(grid.shape) / max(centre, 1.0)
        for place, width in enumerate(WIDTHS):
            sigma = max(width * wavelength, _NARROWEST_PIXEL)
            around = grid.irfft(square * torch.exp(-2 * (math.pi * sigma * cycles).square()).float())
            energies[number * len(WIDTHS) + place] = around.flatten().clamp(min=0)
    return bands, energies
