"""Mean and spread of a micrograph around every pixel, through transforms."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.picking.convolution import RoundKernels

LEAST_VARIANCE = 1e-4
"""Local variance below this part of the mean one is taken for this: nothing was recorded there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalStatistics:
    """Statistics under a window centred on each pixel.

    Parameters
    ----------
    mean, deviation : float32, shape (y, x).
    """

    mean: Tensor
    deviation: Tensor


def local_statistics(values: Tensor, usable: Tensor, kernels: RoundKernels, window_rfft: Tensor) -> LocalStatistics:
    """Return the mean and standard deviation of the usable pixels under a window.

    Parameters
    ----------
    values : float32, shape (y, x); best of a mean near 0, for the variance is a difference of two means.
    usable : bool, shape (y, x).
    kernels : of that shape.
    window_rfft : transform of a window of sum 1, such as `RoundKernels.disc`.

    References
    ----------
    Roseman 2003, Ultramicroscopy 94, 225: local normalisation by two convolutions.
    """
    weight = usable.to(values.dtype)

    def smoothed(image: Tensor) -> Tensor:
        return kernels.apply(kernels.forward(image), window_rfft)

    total = smoothed(weight).clamp_min(1e-3)
    mean = smoothed(values * weight) / total
    variance = smoothed(values**2 * weight) / total - mean**2
    floor = LEAST_VARIANCE * float(variance[usable].mean()) if usable.any() else 0.0
    return LocalStatistics(mean=mean, deviation=variance.clamp_min(max(floor, torch.finfo(values.dtype).tiny)).sqrt())
