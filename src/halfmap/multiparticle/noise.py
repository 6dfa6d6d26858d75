"""The variance of the noise in the images of a series, by image and shell."""

from collections.abc import Sequence

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.band import FourierBand
from halfmap.multiparticle.cutting import ImagePasses
from halfmap.tensors import BandValues

PRIOR_COUNT = 50.0
"How many real components the mean over images counts for in the variance of one."


def shell_products(observed: BandValues, model: BandValues, band: FourierBand) -> Tensor:
    """Sum products of data x and model m over particles and each shell.

    Parameters
    ----------
    observed, model : complex, shape (P, K).
    band : of both.

    Returns
    -------
    float64, shape (4, max_shell + 1)
        |x|², Re x conj m, |m|², and the number of real components.
    """
    both = observed.real * model.real + observed.imag * model.imag
    rows = torch.stack(
        [
            (observed.real.square() + observed.imag.square()).sum(0),
            both.sum(0),
            (model.real.square() + model.imag.square()).sum(0),
            torch.full((len(band),), 2.0 * len(observed), device=observed.device),
        ]
    )
    return band.shell_sum(rows).cpu()


def first_variance(images: ImagePasses, bands: Sequence[FourierBand], counted: Sequence[Tensor]) -> list[Tensor]:
    """Return σ² as if images were noise alone, for each species; float64, shape (T, n_shells).

    Parameters are those of `data_sums`.

    Raises
    ------
    InputError
        See `noise_variance`.
    """
    return [
        residual_variance(total, torch.zeros(len(total), dtype=torch.float64))
        for total in data_sums(images, bands, counted)
    ]


def mean_share(share: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the particles that count in an image, float64, shape (T, 1); 1 where none does.

    Parameters
    ----------
    share : float64, shape (P, T): of each window, what lies within the image and so has noise.
    counted : bool, shape (P, T).
    """
    n = counted.sum(0)
    mean = torch.where(counted, share, 0.0).sum(0) / n.clamp(min=1)
    return torch.where(n > 0, mean, 1.0)[:, None]


def data_sums(images: ImagePasses, bands: Sequence[FourierBand], counted: Sequence[Tensor]) -> list[Tensor]:
    """Return `shell_products` of each species' windows without a model, float64, shape (T, 4, n_shells).

    Parameters
    ----------
    images : of `cutting.CutImages`.
    bands : of what is summed, which may end before the windows'.
    counted : bool, shape (P, T): particles that count.
    """
    sums = [
        torch.zeros((which.shape[1], 4, band.max_shell + 1), dtype=torch.float64)
        for band, which in zip(bands, counted, strict=True)
    ]
    for t, observed in images:
        for total, windows, band, which in zip(sums, observed, bands, counted, strict=True):
            kept = windows[which[:, t].to(windows.device), : len(band)]
            total[t] = shell_products(kept, torch.zeros_like(kept), band)
    return sums


def residual_variance(sums: Tensor, scale: Tensor) -> Tensor:
    """Return σ² from what models at their scales do not explain.

    Parameters
    ----------
    sums : float64, shape (T, 4, n_shells), of `shell_products`.
    scale : float64, shape (T,), of the models.

    Returns
    -------
    float64, shape (T, n_shells): see `noise_variance`.
    """
    a = scale[:, None]
    return noise_variance(sums[:, 0] - 2 * a * sums[:, 1] + a.square() * sums[:, 2], sums[:, 3])


def noise_variance(power: Tensor, count: Tensor) -> Tensor:
    """Return σ² of one real component in every image and shell.

    Parameters
    ----------
    power, count : float64, shape (T, n_shells)
        Of residuals, and the number of their real components; a row without a count gets the mean.

    Returns
    -------
    float64, shape (T, n_shells)

    Raises
    ------
    InputError
        A shell that counts has no power in any image, or a value is not finite.

    Notes
    -----
    An image's spectrum is taken to be the mean one times its level, unless its own components say otherwise: the mean
    counts for `PRIOR_COUNT` of them, so that series with few particles have no accidental dips.
    """
    if not bool(torch.isfinite(power).all()):
        raise InputError("Images must have finite values; got some that are not; look at the images of this series.")
    shape = power.sum(0) / count.sum(0).clamp(min=1.0)
    counted = count.sum(0) > 0
    if bool((shape[counted] <= 0).any()):
        raise InputError("Images must have noise in every shell; got zero power in some; are the images empty?")
    expected = count * shape
    total = expected.sum(1)
    level = torch.where(total > 0, power.sum(1) / total.clamp(min=1e-300), torch.ones_like(total))
    prior = PRIOR_COUNT * shape * level[:, None]
    variance = (power + prior) / (count + PRIOR_COUNT)
    return torch.where(counted, variance, torch.ones_like(variance))
