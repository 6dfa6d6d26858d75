"""How well a projected solid sphere explains a micrograph at every position."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from halfmap.picking.convolution import RoundKernels
from halfmap.picking.local_statistics import BACKGROUND, flatten_background

RING = 1.2
"""Diameter of the disc whose mean is subtracted from the sphere, in sphere diameters. The ring around a particle is
its local background; a wider one meets the neighbours in crowded fields, none leaves no background at all."""

DIAMETER_RATIO = 1.15
"""Largest ratio of neighbouring diameters; a sphere 7 % off loses less than 2 % of its score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SphereScore:
    """Scores of spheres.

    Parameters
    ----------
    positive : float32, shape (y, x): best over the diameters; 0 outside the area scored. Each diameter's is standard
        normal in white noise.
    negative : float32, shape (y, x): the same of the inverted micrograph, so that noise is as likely to make any
        height in one as in the other.
    diameter_index : int64, shape (y, x): which diameter was best.
    diameters_angstrom : those tried.
    """

    positive: Tensor
    negative: Tensor
    diameter_index: Tensor
    diameters_angstrom: tuple[float, ...]


def trial_diameters(shortest: float, longest: float) -> tuple[float, ...]:
    """Return a geometric series from the shortest to the longest diameter, steps of at most 15 %."""
    n = max(1, math.ceil(math.log(longest / shortest) / math.log(DIAMETER_RATIO) - 1e-9)) + 1
    return (
        (shortest,)
        if longest == shortest
        else tuple(shortest * (longest / shortest) ** (k / (n - 1)) for k in range(n))
    )


def score_spheres(
    values: Tensor, usable: Tensor, *, pixel_size_angstrom: float, shortest_angstrom: float, longest_angstrom: float
) -> SphereScore:
    """Correlate a micrograph with zero-mean projected spheres.

    Parameters
    ----------
    values : float32, shape (y, x), particles bright.
    usable : bool, shape (y, x): what counts and is scored.
    pixel_size_angstrom : of the array.
    shortest_angstrom, longest_angstrom : range of diameters.

    Notes
    -----
    The template of diameter d is the projected density of a solid sphere, sqrt(R² - r²), less a disc of 1.2 d of the
    same sum, divided by its norm: the matched filter, in white noise, of a globular particle on an unknown background.
    It answers at the centre of hollow particles too, where a Laplacian of that size answers on the shell.
    """
    diameters = trial_diameters(shortest_angstrom, longest_angstrom)
    sigma = BACKGROUND * longest_angstrom / pixel_size_angstrom
    shape = (values.shape[0], values.shape[1])
    wide = RoundKernels(shape, 2 * sigma, values.device)
    flat = flatten_background(values, usable, wide, sigma)
    sides = tuple(diameter / pixel_size_angstrom for diameter in diameters)
    kernels, templates = _templates(shape, sides, values.device)
    transform = kernels.forward(flat)
    best = torch.full_like(flat, -math.inf)
    least = torch.full_like(flat, math.inf)
    index = torch.zeros(flat.shape, dtype=torch.int64, device=flat.device)
    for k, template in enumerate(templates):
        value = kernels.apply(transform, template)
        index = torch.where(value > best, k, index)
        best = torch.maximum(best, value)
        least = torch.minimum(least, value)
    return SphereScore(
        positive=best * usable,
        negative=-least * usable,
        diameter_index=index,
        diameters_angstrom=diameters,
    )


@lru_cache(maxsize=4)
def _templates(
    shape: tuple[int, int], sides: tuple[float, ...], device: torch.device
) -> tuple[RoundKernels, tuple[Tensor, ...]]:
    """Transforms of the zero-mean spheres of norm 1; kept, because micrographs of one set share them."""
    kernels = RoundKernels(shape, RING * max(sides), device)
    raw = [kernels.sphere(side) - kernels.disc(RING * side) for side in sides]
    return kernels, tuple(template / kernels.norm(template) for template in raw)
