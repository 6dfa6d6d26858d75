"""Particle images as the engine takes them: centred, scaled, masked, and weighted by CTF and noise."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier.band import FourierBand
from halfmap.kernels import particle_images
from halfmap.tensors import BandValues, Images


@dataclass(frozen=True, kw_only=True, eq=False)
class BandImages:
    """Transforms of particle images on a band.

    Parameters
    ----------
    whole, masked : complex64, shape (n, K): without and with the circular mask.
    power : float64, shape (n, max_shell + 1): Σ |masked|² over the coefficients of each shell.
    """

    whole: BandValues
    masked: BandValues
    power: Tensor


def to_band(
    images: Images,
    band: FourierBand,
    *,
    background: NDArray[np.float64],
    factor: NDArray[np.float64],
    shifts_pixel: NDArray[np.int64],
    mask: Tensor,
    fill: Images | None = None,
) -> BandImages:
    """Centre, scale, mask and transform images.

    Parameters
    ----------
    images : float32, shape (n, side, side).
    band : of the whole image; its prefixes serve lower resolutions.
    background, factor : shape (n,): (image − background) · factor is what is transformed.
    shifts_pixel : (x, y) in whole pixels, shape (n, 2); zeros come in from outside.
    mask : shape (side, side).
    fill : what masked images hold where the mask is 0, shape (n, side, side); None: nothing.
    """
    pair = _centred(images, background, factor, shifts_pixel, mask)
    if fill is not None:
        pair[1] += _centre_first(fill * (1 - mask))
    values = band.gather(torch.fft.rfft2(pair, norm="forward"))
    # shells are consecutive runs of the band, so a sum over each needs no scattering
    square = values[1].real.square() + values[1].imag.square()
    return BandImages(whole=values[0], masked=values[1], power=band.shell_sum(square))


def _centred(
    images: Images,
    background: NDArray[np.float64],
    factor: NDArray[np.float64],
    shifts_pixel: NDArray[np.int64],
    mask: Tensor,
) -> Tensor:
    """Return images without and with mask, shape (2, n, side, side), their centres at index 0."""
    if images.device.type == "cpu":
        return torch.from_numpy(
            particle_images.centre_and_mask(
                images.contiguous().numpy(),
                background.astype(np.float32),
                factor.astype(np.float32),
                shifts_pixel.astype(np.int64),
                mask.numpy(),
                n_threads=torch.get_num_threads(),
            )
        )
    n, side = len(images), images.shape[-1]
    low = torch.from_numpy(background.astype(np.float32)).to(images.device)
    scale = torch.from_numpy(factor.astype(np.float32)).to(images.device)
    values = (images - low[:, None, None]) * scale[:, None, None]
    at = torch.arange(side, device=images.device)
    shifts = torch.from_numpy(shifts_pixel.astype(np.int64)).to(images.device)
    x, y = (at - shifts[:, :1]), (at - shifts[:, 1:])
    inside = ((y >= 0) & (y < side))[:, :, None] & ((x >= 0) & (x < side))[:, None, :]
    flat = y.clamp(0, side - 1)[:, :, None] * side + x.clamp(0, side - 1)[:, None, :]
    moved = values.flatten(1).gather(1, flat.reshape(n, -1)).reshape(values.shape) * inside
    return _centre_first(torch.stack([moved, moved * mask]))


def _centre_first(images: Images) -> Images:
    return torch.fft.ifftshift(images, dim=(-2, -1))


def weighted_images(values: BandValues, transfer: Tensor, noise_variance: Tensor) -> Tensor:
    """Multiply images by their transfer and divide them by the noise: s C X / σ².

    Parameters
    ----------
    values : complex64, shape (n, K).
    transfer : s C, float32, shape (n, K); C² where the images are CTF-premultiplied is the caller's affair.
    noise_variance : σ², float32, shape (n, K).

    Returns
    -------
    float32, shape (n, K, 2)
    """
    return torch.view_as_real(values * (transfer / noise_variance))
