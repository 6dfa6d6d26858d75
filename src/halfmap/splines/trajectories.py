"""Paths of particles through dose: positions and orientations between a few temporal samples."""

import torch
from torch import Tensor

from halfmap.errors import ShapeError
from halfmap.geometry.rotations import (
    left_jacobian,
    matrix_from_rotation_vector,
    rotation_between,
    rotation_vector_from_matrix,
)


def path(samples: Tensor, times: Tensor) -> Tensor:
    """Interpolate samples by monotone cubic pieces (PCHIP).

    Parameters
    ----------
    samples : shape (..., n, c)
        At n times evenly spaced from 0 to 1; one sample is constant, two make a straight line.
    times : shape (T,), 0 to 1.

    Returns
    -------
    float64, shape (..., T, c)
        Differentiable in samples and times. Between neighbouring samples it never leaves their range.

    Raises
    ------
    ShapeError
        There is no sample, or times are not one list.

    References
    ----------
    Fritsch and Carlson 1980, "Monotone piecewise cubic interpolation"; slopes as in Matlab's ``pchip``: weighted
    harmonic means inside, three-point formulas at the ends. As the trajectories of Warp and M.
    """
    if samples.dim() < 2 or not samples.shape[-2] or times.dim() != 1:
        raise ShapeError(
            "A path must have samples (..., n, c) and times (T,); got shapes "
            f"{tuple(samples.shape)} and {tuple(times.shape)}."
        )
    values, u = samples.to(torch.float64), times.to(torch.float64)
    n = values.shape[-2]
    if n == 1:
        return values.expand(*values.shape[:-2], len(u), values.shape[-1])
    u = u * (n - 1)
    first = u.detach().floor().clamp(0, n - 2).long()
    t = (u - first)[:, None]
    slopes = _slopes(values.diff(dim=-2))
    start, end = values[..., first, :], values[..., first + 1, :]
    slope_of_start, slope_of_end = slopes[..., first, :], slopes[..., first + 1, :]
    chord = end - start
    quadratic = 3 * chord - 2 * slope_of_start - slope_of_end
    cubic = slope_of_start + slope_of_end - 2 * chord
    return start + t * (slope_of_start + t * (quadratic + t * cubic))


def path_of_rotations(rotation: Tensor, times: Tensor) -> Tensor:
    """Interpolate orientations through the rotation vectors that lead to them from the first one.

    Parameters
    ----------
    rotation : shape (..., n, 3, 3)
        At n times evenly spaced from 0 to 1.
    times : shape (T,), 0 to 1.

    Returns
    -------
    float64, shape (..., T, 3, 3)

    Notes
    -----
    M interpolates Euler angles instead, which jump where tilt is near 0 or 180°; for the few degrees that a particle
    turns elsewhere, both agree to first order.
    """
    first = rotation[..., :1, :, :].to(torch.float64)
    vectors = rotation_vector_from_matrix(rotation_between(first, rotation.to(torch.float64)))
    return matrix_from_rotation_vector(path(vectors, times)) @ first


def path_weights(n: int, times: Tensor) -> Tensor:
    """Return how a path moves with each of its samples, to first order about an even motion.

    Parameters
    ----------
    n : number of samples.
    times : shape (T,), 0 to 1.

    Returns
    -------
    float64, shape (T, n)
        Rows add up to 1. For one or two samples this is the path itself; for more, what `path` becomes where its
        limiter on slopes does not act.
    """
    if n <= 2:
        return path(torch.eye(n, dtype=torch.float64), times)
    even = torch.arange(n, dtype=torch.float64)
    weights: Tensor = torch.autograd.functional.jacobian(lambda samples: path(samples[:, None], times)[:, 0], even)
    return weights


def turn_weights(rotation: Tensor, times: Tensor) -> Tensor:
    """Return how an interpolated orientation turns with small turns of its samples.

    Parameters
    ----------
    rotation : shape (..., n, 3, 3).
    times : shape (T,), 0 to 1.

    Returns
    -------
    float64, shape (..., T, n, 3, 3)
        Matrices G: samples turned to exp([ω_j]×) A_j turn the orientation in between to exp([Σ G_j ω_j]×) A, to first
        order about an even motion.
    """
    n = rotation.shape[-3]
    first = rotation[..., :1, :, :].to(torch.float64)
    vectors = rotation_vector_from_matrix(rotation_between(first, rotation.to(torch.float64)))
    weights = path_weights(n, times)
    between = left_jacobian(path(vectors, times))[..., :, None, :, :]
    later = torch.linalg.inv(left_jacobian(vectors[..., 1:, :]))[..., None, :, :, :]
    turns = weights[:, 1:, None, None] * (between @ later)
    identity = torch.eye(3, dtype=torch.float64, device=rotation.device)
    return torch.cat([identity - turns.sum(-3, keepdim=True), turns], dim=-3)


def _slopes(steps: Tensor) -> Tensor:
    """Return slopes at samples of unit spacing from the steps between them, shape (..., n, c) from (..., n − 1, c)."""
    if steps.shape[-2] == 1:
        return steps.expand(*steps.shape[:-2], 2, steps.shape[-1])
    before, after = steps[..., :-1, :], steps[..., 1:, :]
    together = before * after > 0
    total = torch.where(together, before + after, torch.ones_like(before))
    inner = torch.where(together, 2 * before * after / total, torch.zeros_like(before))
    start = _end_slope(steps[..., :1, :], steps[..., 1:2, :])
    end = _end_slope(steps[..., -1:, :], steps[..., -2:-1, :])
    return torch.cat([start, inner, end], dim=-2)


def _end_slope(outer: Tensor, inner: Tensor) -> Tensor:
    slope = (3 * outer - inner) / 2
    slope = torch.where(slope.sign() != outer.sign(), torch.zeros_like(slope), slope)
    too_steep = (outer.sign() != inner.sign()) & (slope.abs() > 3 * outer.abs())
    return torch.where(too_steep, 3 * outer, slope)
