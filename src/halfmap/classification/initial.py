"""What a 2D classification begins with: noise spectra, and references that resemble nothing.

First references come in two steps. Particles are dealt out to the classes and averaged at random in-plane
angles, which gives the particles' size and grey scale; then each average is replaced by random blobs of
that size and scale, so that classes differ from the start without any particle being preferred.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halfmap import keyed_random
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.tensors import Images

_BLOBS = 40
_NEGATIVE_SHARE = 0.5
_LOW_PASS_DIGITAL = 0.07


def dealt_out(seed: int, uids: ArrayLike, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Deal particles out to classes at random in-plane angles.

    Parameters
    ----------
    uids : shape (n,).
    n_classes : number C of classes.

    Returns
    -------
    classes : shape (n,), from 0; sizes differ by at most one.
    psi_degrees : shape (n,), uniform in [0, 360).

    Notes
    -----
    Particles are taken in a random order that depends on their uids alone, the j-th for class j mod C.
    """
    uids = np.asarray(uids)
    classes = keyed_random.parts(seed, "first classes", uids, n_classes)
    return classes, 360.0 * keyed_random.uniform(seed, "first angles", uids)


def first_low_pass_angstrom(pixel_size_angstrom: float) -> float:
    """Return the resolution of first references in Å: 0.07 of the sampling frequency."""
    return pixel_size_angstrom / _LOW_PASS_DIGITAL


def first_references(
    averages: Images,
    grid: ImageGrid,
    mask_diameter_angstrom: float,
    *,
    seed: int,
    low_pass_angstrom: float | None = None,
    mask_edge_angstrom: float = 0.0,
) -> Images:
    """Return the references of the first iteration.

    Parameters
    ----------
    averages : shape (C, y, x), of particles `dealt_out`.
    mask_diameter_angstrom : of the circular mask.
    low_pass_angstrom : None: `first_low_pass_angstrom`.
    mask_edge_angstrom : width of the mask's soft edge.

    Returns
    -------
    float32, shape (C, y, x): `blobs`, low-passed with a raised cosine of 2 shells, and masked.
    """
    resolution = first_low_pass_angstrom(grid.pixel_size_angstrom) if low_pass_angstrom is None else low_pass_angstrom
    disc = soft_disc(grid, mask_diameter_angstrom / 2, mask_edge_angstrom, dtype=torch.float64)
    random = blobs(averages, grid, mask_diameter_angstrom, seed=seed).to(torch.float64)
    return (apply_filter(random, grid, low_pass(grid, resolution, dtype=torch.float64)) * disc).to(torch.float32)


def blobs(averages: Images, grid: ImageGrid, mask_diameter_angstrom: float, *, seed: int) -> Images:
    """Replace averages by random blobs of their size and grey scale.

    Parameters
    ----------
    averages : shape (C, y, x).
    mask_diameter_angstrom : D.

    Returns
    -------
    float32, shape (C, y, x)
        Gaussians exp(−r²/(D/10)²), 40 added and 40 subtracted with half their height, at places that are normally
        distributed about the centre with a deviation of D/7 along each axis. Each is as high as the average's
        magnitude at its place; the sum has the average's standard deviation. The number of a class decides
        its blobs.

    Notes
    -----
    RELION 5's first references in 2D.
    """
    grid.check(averages, "Averages")
    n_classes = len(averages)
    sources = averages.detach().to("cpu", torch.float64)
    draws = keyed_random.normal(seed, "blobs of first references", np.arange(n_classes), size=(2 * _BLOBS, 2))
    places = torch.from_numpy(draws) * (mask_diameter_angstrom / 7)
    centre = torch.tensor(grid.centre[::-1], dtype=torch.float64)
    limits = torch.tensor(grid.shape[::-1]) - 1
    pixel = torch.round(places / grid.pixel_size_angstrom + centre).long()
    pixel = torch.minimum(pixel.clamp_min(0), limits)
    numbers = torch.arange(n_classes)[:, None]
    heights = sources[numbers, pixel[..., 1], pixel[..., 0]].abs()
    heights[:, _BLOBS:] *= -_NEGATIVE_SHARE
    # a Gaussian is the product of one in x and one in y
    axis = grid.positions()
    across = axis[0, :, 0] - places[..., 0, None]
    down = axis[:, 0, 1] - places[..., 1, None]
    width = mask_diameter_angstrom / 10
    rows, columns = torch.exp(-((down / width) ** 2)), torch.exp(-((across / width) ** 2))
    sums = torch.einsum("cb,cby,cbx->cyx", heights, rows, columns)
    spread = sums.std((-2, -1), correction=0)
    wanted = sources.std((-2, -1), correction=0)
    scale = torch.where(spread > 0, wanted / spread.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return (sums * scale[:, None, None]).to(torch.float32)
