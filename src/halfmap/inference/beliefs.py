"""What an E-step believes of images beside the references, and how its sums change that."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.inference import maximisation
from halfmap.inference.image_data import ImageData
from halfmap.inference.sums import Estimates, Sums


@dataclass(frozen=True, kw_only=True, eq=False)
class Beliefs:
    """What an E-step believes of images beside the references.

    Parameters
    ----------
    noise_variance : float64, shape (groups, n_shells).
    scale : of micrographs, float64, shape (M,).
    """

    noise_variance: Tensor
    scale: NDArray[np.float64]


def updated_beliefs(
    data: ImageData, beliefs: Beliefs, sums: Sums, *, scale_correction: bool = True, kept: float = 0.0
) -> Beliefs:
    """Return noise spectra and grey scales after an E-step.

    Parameters
    ----------
    scale_correction : whether grey scales are estimated.
    kept : share of what was believed that stays: 0.9 after a mini-batch.
    """
    noise = maximisation.noise_variance(
        sums.residual_power, sums.residual_count, beliefs.noise_variance, mask_power=data.mask_power
    )
    scale = beliefs.scale
    if scale_correction and bool((sums.scale_square > 0).any()):
        counts = torch.from_numpy(np.bincount(data.micrograph, minlength=len(scale)).astype(np.float64))
        scale = maximisation.micrograph_scale(sums.scale_cross, sums.scale_square, counts).numpy()
        if kept > 0:
            seen = (sums.scale_square > 0).numpy()
            scale = np.where(seen, kept * beliefs.scale + (1 - kept) * scale, beliefs.scale)
    return Beliefs(noise_variance=kept * beliefs.noise_variance + (1 - kept) * noise, scale=scale)


def measured_norms(norm: NDArray[np.float64], found: Estimates, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the contrasts of particles as their residuals tell.

    Parameters
    ----------
    norm : those that the E-step believed in, of the particles that it found.
    groups : number of the noise spectrum of each.

    Notes
    -----
    Norms have mean 1 in each group: a common factor belongs to the noise spectrum. Were it shared between them, both
    would follow each other's last value and never settle.
    """
    measured = norm * np.sqrt(found.residual)
    _, group = np.unique(groups, return_inverse=True)
    mean = np.bincount(group, weights=measured) / np.bincount(group)
    return measured / np.where(mean > 0, mean, 1.0)[group]
