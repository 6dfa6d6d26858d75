"""Background statistics of particle images, and bringing the background to mean 0, standard deviation 1."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.tensors import Images

CONSTANT_BELOW = 1e-10
"""Standard deviation under which a background counts as constant (RELION's value)."""


def background_mask(side: int, radius_pixel: float) -> Tensor:
    """Return which pixels lie outside a circle about the centre voxel, corners included.

    Returns
    -------
    bool, shape (side, side): r² > radius², as RELION defines the background.
    """
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 > radius_pixel**2


@dataclass(frozen=True, kw_only=True, eq=False)
class BackgroundStatistics:
    """Mean and standard deviation of each image's background, float64, shape (n,)."""

    mean: Tensor
    deviation: Tensor


def background_statistics(images: Images, mask: Tensor) -> BackgroundStatistics:
    """Measure the background of images.

    Parameters
    ----------
    images : shape (n, side, side).
    mask : bool, shape (side, side), true on the background.

    Returns
    -------
    Population mean and standard deviation, computed in two passes in float64.
    """
    values = images[:, mask].double()
    mean = values.mean(dim=1)
    deviation = (values - mean[:, None]).square_().mean(dim=1).sqrt()
    return BackgroundStatistics(mean=mean, deviation=deviation)


def remove_dust(
    images: Images,
    mask: Tensor,
    uid: np.ndarray,
    *,
    white: float | None,
    black: float | None,
    seed: int,
) -> Images:
    """Replace pixels far from the background's mean by draws of its normal distribution.

    Parameters
    ----------
    images : shape (n, side, side), contrast as recorded.
    mask : bool, shape (side, side), true on the background.
    uid : int64, shape (n,); keys of the draws.
    white, black : thresholds in background standard deviations above and below the mean; None switches one off.
    seed : seed of the draws.
    """
    statistics = background_statistics(images, mask)
    mean = statistics.mean.to(images.dtype)[:, None, None]
    deviation = statistics.deviation.to(images.dtype)[:, None, None]
    dust = torch.zeros_like(images, dtype=torch.bool)
    if white is not None:
        dust |= images - mean > white * deviation
    if black is not None:
        dust |= mean - images > black * deviation
    dusty = dust.flatten(1).any(dim=1).nonzero()[:, 0]
    if len(dusty) == 0:
        return images
    draws = keyed_random.normal(seed, "dust", np.asarray(uid)[dusty.cpu().numpy()], size=tuple(images.shape[1:]))
    noise = torch.as_tensor(draws, dtype=images.dtype, device=images.device) * deviation[dusty] + mean[dusty]
    cleaned = images.clone()
    cleaned[dusty] = torch.where(dust[dusty], noise, images[dusty])
    return cleaned


def normalise(images: Images, mask: Tensor, *, ramp: bool = True, invert: bool = False) -> tuple[Images, Tensor]:
    """Bring each image's background to mean 0 and standard deviation 1.

    Parameters
    ----------
    images : float32, shape (n, side, side), contiguous; overwritten.
    mask : bool, shape (side, side), true on the background.
    ramp : subtract the plane a·x + b·y + c that fits the background best; else its mean.
    invert : multiply by -1 on the way.

    Returns
    -------
    images : shape (n, side, side).
    deviation : float64, shape (n,): the background's standard deviation before; images whose background is constant
        (below 1e-10) are not scaled.

    Notes
    -----
    The order and the population variance are RELION's (`normalise` in its preprocessing). Extraction is bound by
    the memory, so on the CPU a kernel does all of it while an image lies in the cache.
    """
    inverse_gram = _inverse_gram(mask, ramp=ramp)
    sign = -1.0 if invert else 1.0
    if images.device.type == "cpu" and images.dtype == torch.float32:
        from halfmap.kernels.background_normalisation import normalise_backgrounds

        deviations = np.empty(len(images))
        weight = mask.to(torch.float32).numpy()
        normalise_backgrounds(images.numpy(), weight, inverse_gram.numpy(), sign, CONSTANT_BELOW, deviations)
        return images, torch.from_numpy(deviations)
    return _normalise_tensors(images, mask, inverse_gram, sign)


def _plane_functions(side: int) -> Tensor:
    """Return 1, x and y on an image, counted from the centre voxel in sides, float64, shape (3, side²)."""
    axis = (torch.arange(side, dtype=torch.float64) - side // 2) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y]).flatten(1)


def _inverse_gram(mask: Tensor, *, ramp: bool) -> Tensor:
    """Return the inverse of the sums of products of 1, x, y over the background, shape (3, 3)."""
    n_fitted = 3 if ramp else 1
    functions = _plane_functions(mask.shape[-1])[:n_fitted]
    gram = (functions * mask.flatten().cpu().to(torch.float64)) @ functions.T
    inverse = torch.zeros(3, 3, dtype=torch.float64)
    inverse[:n_fitted, :n_fitted] = torch.linalg.inv(gram)
    return inverse


def _normalise_tensors(images: Images, mask: Tensor, inverse_gram: Tensor, sign: float) -> tuple[Images, Tensor]:
    """Do in tensors, for other devices, what the kernel does."""
    functions = _plane_functions(images.shape[-1]).to(images.device, images.dtype)
    weight = mask.flatten().to(images.dtype)
    flat = images.view(len(images), -1)
    # The pedestal goes first, so that float32 products lose nothing to it.
    flat -= flat[:, :1].clone()
    sums = flat @ (functions * weight).T
    flat.addmm_(sums @ inverse_gram.to(images.device, images.dtype), functions, alpha=-1)
    deviation = (flat.square() @ (weight / weight.sum())).double().sqrt()
    scale = torch.where(deviation < CONSTANT_BELOW, 1.0, 1.0 / deviation) * sign
    flat *= scale.to(flat.dtype)[:, None]
    return images, deviation
