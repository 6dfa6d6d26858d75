"""Scores' denominators: how strong a filtered projection is, from its transform alone.

Sums over the coefficients of a `FourierBand` count each for itself and its mate: of transforms divided by the n²
pixels, Σ over the pixels of a · b is 2 n² Re Σ a conj b.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues


class PaddedMoments(NamedTuple):
    """A projection in a larger image of zeros, as Leopard-EM counts.

    Attributes
    ----------
    edge_mean : mean of the projection's four edges, which is subtracted within the projection's own field.
    square_sum : sum over the larger image of what is left, about its mean; the score is divided by its root.
    """

    edge_mean: Tensor
    square_sum: Tensor


def square_sum(slices: BandValues, gains: Tensor, side: int) -> Tensor:
    """Return Σ P² over the pixels of filtered projections.

    Parameters
    ----------
    slices : complex, shape (R, K).
    gains : squares of what the slices are multiplied by, real, shape (D, K).
    side : n, of the projections.

    Returns
    -------
    Shape (D, R): a quadratic form of the slices, as one matrix product.
    """
    power = slices.real.square() + slices.imag.square()
    return (gains.to(power.dtype) @ power.T) * (2.0 * side * side)


def edge_weights(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the transform of the mean over an image's edges, complex64, shape ``grid.rfft_shape``.

    The edge mean of an image with coefficients p is 2 n² Re Σ p conj(weights) over the band, plus its own mean.
    """
    edges = torch.ones(grid.shape, device=device)
    edges[1:-1, 1:-1] = 0.0
    return grid.rfft(edges / edges.sum())


def padded_moments(edge_mean: Tensor, squares: Tensor, *, side: int, padded_shape: tuple[int, int]) -> PaddedMoments:
    """Return the strength of projections of mean 0 once their edge mean is taken off and zeros surround them.

    Parameters
    ----------
    edge_mean : of the projections, any shape.
    squares : Σ P² over the pixels, of the same shape: `square_sum`.
    side : n, of the projections.
    padded_shape : of the larger image, (y, x).

    Notes
    -----
    With r = n² / (H W) Leopard-EM takes the mean in the larger image for μ = −e r², and counts (H − n)(W − n) pixels
    of padding; so Σ P² + n² (e + μ)² + (H − n)(W − n) μ². Both slips change the score by a few parts in ten thousand.

    References
    ----------
    ``normalize_template_projection`` of Leopard-EM 1.2.
    """
    height, width = padded_shape
    ratio = side * side / (height * width)
    mean = -edge_mean * ratio**2
    inside = squares + side * side * (edge_mean + mean).square()
    return PaddedMoments(edge_mean, inside + (height - side) * (width - side) * mean.square())
