"""Projections of a volume: slices of its transform, shifted and passed through the microscope."""

import math

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues, Images, Rotations, Shifts

_CORRECTION_TERMS = 4


def shift_phases(frequencies: Tensor, shifts_angstrom: Shifts, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Return the factors that move an image's content.

    Parameters
    ----------
    frequencies : shape (*F, 2)
        (x, y) in 1/Å.
    shifts_angstrom : shape (..., 2)
        Where content goes, (x, y) in Å. Centring an image takes its origin; the image of a centred
        reference is made with minus its origin.
    dtype : complex, of the result; angles are always computed in float64.

    Returns
    -------
    shape (..., *F)
        exp(−2πi k·t).
    """
    shape = (*shifts_angstrom.shape[:-1], *frequencies.shape[:-1])
    cycles = (shifts_angstrom.double() @ frequencies.double().reshape(-1, 2).T.to(shifts_angstrom.device)).reshape(
        shape
    )
    angle = (-2.0 * math.pi * (cycles - cycles.round())).to(dtype.to_real())
    return torch.polar(torch.ones_like(angle), angle)


def magnified(rotations: Rotations, magnification: Tensor) -> Tensor:
    """Fold an anisotropic magnification into rotations for taking slices.

    Parameters
    ----------
    rotations : shape (..., 3, 3).
    magnification : shape (2, 2)
        M of `halfmap.optics.aberrations.magnify`.

    Returns
    -------
    Shape (..., 3, 3)
        Matrices B, no rotations, with Bᵀ (k, 0) = Aᵀ (M k, 0).

    Raises
    ------
    ShapeError
        The magnification is not a 2 by 2 matrix.
    """
    if tuple(magnification.shape) != (2, 2):
        raise ShapeError(f"A magnification must be a 2 by 2 matrix; got shape {tuple(magnification.shape)}.")
    full = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    full[:2, :2] = magnification.to(rotations)
    return full.T @ rotations


def project(
    padded: slices.PaddedTransform,
    rotations: Rotations,
    band: FourierBand,
    *,
    origin_angstrom: Shifts | None = None,
    transfer: Tensor | None = None,
) -> BandValues:
    """Project a volume, in the band.

    Parameters
    ----------
    padded : of `halfmap.fourier.slices.prepare`.
    rotations : shape (..., 3, 3).
    band : of the images.
    origin_angstrom : shape (..., 2)
        Point v of the volume lands at (A v)_xy − origin. Zero if omitted.
    transfer : real or complex, shape (..., K)
        Multiplies the projection: the CTF, a scale, aberrations. One if omitted.

    Returns
    -------
    Complex, shape (..., K), dtype of ``padded``
        Transforms on the scale of `ImageGrid.rfft`. Differentiable in everything.

    References
    ----------
    Bracewell 1956, Aust. J. Phys. 9, 198: the projection-slice theorem.
    """
    values = slices.extract(padded, rotations, band)
    factor = _factor(band.frequencies.to(values.device), origin_angstrom, transfer, values.dtype)
    return values if factor is None else values * factor


def project_images(
    padded: slices.PaddedTransform,
    rotations: Rotations,
    grid: ImageGrid,
    *,
    origin_angstrom: Shifts | None = None,
    transfer: Tensor | None = None,
) -> Images:
    """Project a volume into real images, mean included.

    Parameters
    ----------
    padded, rotations, origin_angstrom : as for `project`.
    grid : square; its pixel size must be the volume's.
    transfer : real or complex, shape (..., *grid.rfft_shape).

    Returns
    -------
    Shape (..., *grid.shape)
        Sums over voxels along the beam, without what lies beyond shell side // 2 − 1.

    Raises
    ------
    ShapeError
        The grid has another pixel size than the volume, or another side.
    """
    volume_grid = padded.grid.grid
    if grid.ndim != 2 or grid.side != volume_grid.side or grid.pixel_size_angstrom != volume_grid.pixel_size_angstrom:
        raise ShapeError(
            f"Images must be squares of {volume_grid.side} px of {volume_grid.pixel_size_angstrom:g} Å, as the volume; "
            f"got {grid.shape} of {grid.pixel_size_angstrom:g} Å; rescale the volume first."
        )
    band = FourierBand(grid, device=padded.values.device)
    values = slices.extract(padded, rotations, band)
    transform = band.scatter(values)
    mean = torch.zeros(grid.rfft_shape, dtype=transform.dtype, device=transform.device)
    mean[0, 0] = 1.0
    transform = transform + mean * _zero_frequency(padded)
    frequencies = grid.frequencies(device=transform.device)
    factor = _factor(frequencies, origin_angstrom, transfer, transform.dtype)
    return grid.irfft(transform if factor is None else transform * factor)


def _zero_frequency(padded: slices.PaddedTransform) -> Tensor:
    """Return the slices' common value at zero frequency.

    The stored one belongs to the volume divided by the gridding correction. Multiplying by the correction
    again is a convolution; within the box a few cosines stand for it.
    """
    radius, n_terms = padded.grid.radius, min(_CORRECTION_TERMS, padded.grid.radius)
    u = np.linspace(0.0, 0.5 / padded.grid.padding, 200)
    cosines = np.cos(2.0 * np.pi * u[:, None] * np.arange(n_terms + 1))
    terms = np.linalg.lstsq(cosines, np.sinc(u) ** 2, rcond=None)[0]
    both = torch.from_numpy(np.concatenate([terms[:0:-1] / 2.0, terms[:1], terms[1:] / 2.0])).to(padded.values.real)
    near = slice(radius - n_terms, radius + n_terms + 1)
    one = torch.from_numpy(terms).to(padded.values.real)
    return torch.einsum("zyx,z,y,x->", padded.values[near, near, : n_terms + 1].real, both, both, one)


def _factor(
    frequencies: Tensor, origin_angstrom: Shifts | None, transfer: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Combine shift and transfer into one multiplier, or none."""
    if origin_angstrom is None:
        return transfer
    phases = shift_phases(frequencies, -origin_angstrom, dtype)
    return phases if transfer is None else phases * transfer
