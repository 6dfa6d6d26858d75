"""Mean and spread of a micrograph around every pixel, through transforms."""

import torch
from torch import Tensor

from halfmap.picking.convolution import RoundKernels

BACKGROUND = 2.0
"""Standard deviation of the Gaussian that takes the background's mean and variance, in longest diameters."""


def flatten_background(values: Tensor, usable: Tensor, kernels: RoundKernels, sigma_pixel: float) -> Tensor:
    """Bring the local mean to 0 and the local variance to 1, from usable pixels alone.

    Parameters
    ----------
    values : float32, shape (y, x).
    usable : bool, shape (y, x).
    kernels : of that shape.
    sigma_pixel : standard deviation of the Gaussian window.

    Returns
    -------
    float32, shape (y, x); 0 where not usable.
    """
    weight = usable.to(values.dtype)
    window = kernels.gaussian(sigma_pixel)
    total = kernels.apply(kernels.forward(weight), window).clamp_min(1e-6)
    raw = (values - (values * weight).sum() / weight.sum().clamp_min(1)) * weight
    mean = kernels.apply(kernels.forward(raw), window) / total
    flat = (raw - mean) * weight
    variance = kernels.apply(kernels.forward(flat**2), window) / total
    floor = 1e-4 * float((flat**2).sum() / weight.sum().clamp_min(1))
    return flat / variance.clamp_min(max(floor, torch.finfo(values.dtype).tiny)).sqrt()
