"""Random views of images that show the same thing."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.tensors import Images


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How far images are varied; they are always turned by any angle and mirrored by chance.

    Parameters
    ----------
    shift : standard deviation of the shift along one axis, in sides.
    zoom : standard deviation of the logarithm of the magnification.
    noise : greatest standard deviation of added white noise, in grey values.
    """

    shift: float = 0.01
    zoom: float = 0.04
    noise: float = 0.1


def varied(images: Images, uids: NDArray[np.int64], variation: Variation, *, seed: int, epoch: int) -> Images:
    """Turn, mirror, shift, magnify and roughen images.

    Parameters
    ----------
    images : float32, shape (n, side, side); what comes in from outside is 0.
    uids : shape (n,), keys of the draws.
    variation : how far.
    epoch : each gives other draws.

    Returns
    -------
    float32, shape (n, side, side)
    """
    side = images.shape[-1]
    chance = keyed_random.uniform(seed, "augmentation", uids, iteration=epoch, size=3)
    normal = keyed_random.normal(seed, "augmentation", uids, iteration=epoch, draw=1, size=3)
    angle, mirror = 2 * math.pi * chance[:, 0], np.where(chance[:, 1] < 0.5, -1.0, 1.0)
    zoom = np.exp(variation.zoom * normal[:, 0])
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    shift = 2 * variation.shift * normal[:, 1:]  # the sampling grid runs from −1 to 1
    # pixel n // 2 is the centre of an image; the sampling grid has its own half a pixel beside it on even sides
    own = (1.0 if side % 2 == 0 else 0.0) / side
    matrix = np.stack([np.stack([cosine, -mirror * sine], axis=1), np.stack([sine, mirror * cosine], axis=1)], axis=1)
    offset = own + shift - (matrix @ np.array([own, own]))
    placed = torch.from_numpy(np.concatenate([matrix, offset[..., None]], axis=2)).float()
    at = torch.nn.functional.affine_grid(placed, [len(images), 1, side, side], align_corners=False)
    turned = torch.nn.functional.grid_sample(images[:, None], at, mode="bicubic", align_corners=False)[:, 0]
    if variation.noise:
        drawn = keyed_random.normal(seed, "augmentation noise", uids, iteration=epoch, size=(side, side))
        turned += torch.from_numpy(drawn * (variation.noise * chance[:, 2])[:, None, None]).float()
    return turned


def quarter_turned(images: Tensor, uids: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
    """Turn images by quarters and mirror them by chance: views that need no interpolation.

    Parameters
    ----------
    images : shape (n, ..., side, side); the pictures of one item are turned alike.
    uids : shape (n,), keys of the draws.
    epoch : each gives other draws.

    Returns
    -------
    Shape of ``images``.
    """
    view = keyed_random.integers(0, 8, seed, "quarter turns", uids, iteration=epoch)
    turned = torch.empty_like(images)
    for number in np.unique(view):
        rows = torch.from_numpy(np.flatnonzero(view == number))
        some = images[rows].rot90(int(number) % 4, dims=(-2, -1))
        turned[rows] = some.flip(-1) if number >= 4 else some
    return turned
