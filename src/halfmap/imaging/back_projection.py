"""Back-projection: the adjoint of projection, with the weights that a Wiener filter divides by."""

import torch
from torch import Tensor

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.imaging.projection import shift_phases
from halfmap.tensors import BandValues, Rotations, Shifts


def back_project(
    values: BandValues,
    rotations: Rotations,
    band: FourierBand,
    grid: slices.PaddedGrid,
    *,
    origin_angstrom: Shifts | None = None,
    transfer: Tensor | None = None,
    noise_variance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add images into a volume's transform.

    Parameters
    ----------
    values : complex, shape (..., K)
        Transforms of images.
    rotations : shape (..., 3, 3).
    band : of the images.
    grid : of the transform.
    origin_angstrom, transfer : as for `halfmap.imaging.projection.project`.
    noise_variance : shape (..., K) or one that broadcasts to it
        σ² of one real component; one if omitted.

    Returns
    -------
    data : complex, shape ``grid.shape``
        Σ T* X / σ²: the adjoint of `project` applied to X / σ².
    weight : real, shape ``grid.shape``
        Σ |T|² / σ².

    Notes
    -----
    With a prior of variance τ² for one real component of the volume's coefficients the most probable
    volume is data / (weight + 1/τ²), both on the scale of slices. Adjointness is that of
    `halfmap.fourier.slices.insert`.

    References
    ----------
    Scheres 2012, "RELION: implementation of a Bayesian approach to cryo-EM structure determination",
    J. Struct. Biol. 180, equation 5.
    """
    weights = torch.ones(values.shape, dtype=values.real.dtype, device=values.device)
    if transfer is not None:
        values = values * transfer.conj()
        weights = weights * (transfer.real.square() + transfer.imag.square() if transfer.is_complex() else transfer**2)
    if origin_angstrom is not None:
        values = values * shift_phases(band.frequencies.to(values.device), origin_angstrom, values.dtype)
    if noise_variance is not None:
        values, weights = values / noise_variance, weights / noise_variance
    return slices.insert(values, weights.to(values.real.dtype), rotations, band, grid)
