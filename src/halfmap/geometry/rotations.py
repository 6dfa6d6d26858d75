"""Rotations as matrices: Euler angles, rotation vectors, distances and random draws.

A rotation A is a (..., 3, 3) float64 tensor that takes a point of the reference to its place in the
image's frame: v lies at (A v)_xy. Vectors have components (x, y, z).
"""

import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.geometry.euler import angles_of_matrix, matrix_of_angles

AnglesLike: TypeAlias = Tensor | ArrayLike
"""Angles in degrees: a number, an array or a tensor."""


def matrix_from_euler(rot_degrees: AnglesLike, tilt_degrees: AnglesLike, psi_degrees: AnglesLike) -> Tensor:
    """Return the rotations of Euler angles (rot, tilt, psi), ZYZ.

    Parameters
    ----------
    rot_degrees, tilt_degrees, psi_degrees : any shapes that broadcast together.

    Returns
    -------
    float64, shape (..., 3, 3)
        A = Z(psi) Y(tilt) Z(rot) in RELION's convention: the third row is the viewing direction
        (sin tilt cos rot, sin tilt sin rot, cos tilt). Differentiable in tensors.

    References
    ----------
    Heymann, Chagoyen, Belnap 2005, "Common conventions for interchange and archiving of
    three-dimensional electron microscopy information", J. Struct. Biol. 151, 196-207.
    """
    angles = torch.broadcast_tensors(*(_radians(angle) for angle in (rot_degrees, tilt_degrees, psi_degrees)))
    matrix: Tensor = matrix_of_angles(torch, *angles)
    return matrix


def euler_from_matrix(rotation: Tensor | NDArray[np.float64]) -> Tensor:
    """Return the Euler angles of rotations, the inverse of `matrix_from_euler`.

    Parameters
    ----------
    rotation : shape (..., 3, 3).

    Returns
    -------
    float64, shape (..., 3)
        (rot, tilt, psi) in degrees: rot and psi in [−180, 180], tilt in [0, 180]. At the poles, where
        only a combination of rot and psi is defined, rot is 0.
    """
    angles: Tensor = angles_of_matrix(torch, _rotation(rotation))
    return angles


def viewing_direction(rotation: Tensor) -> Tensor:
    """Return the beam direction seen from the reference, the third row of A; shape (..., 3), unit length."""
    return rotation[..., 2, :]


def rotation_between(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotation R of the image's frame with ``end = R @ start``; shapes (..., 3, 3)."""
    return end @ start.mT


def turn_between_directions(start: Tensor, end: Tensor) -> Tensor:
    """Return the smallest rotation that takes one direction to another.

    Parameters
    ----------
    start, end : shape (..., 3)
        Unit vectors, not opposite to one another.

    Returns
    -------
    Shape (..., 3, 3)
        R with ``R @ start = end``, about the normal of both.
    """
    cross = cross_matrix(torch.linalg.cross(start, end))
    cosine = (start * end).sum(-1)[..., None, None]
    identity = torch.eye(3, dtype=start.dtype, device=start.device)
    return identity + cross + cross @ cross / (1.0 + cosine)


def angular_distance_degrees(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle of the rotation that leads from one orientation to another.

    Parameters
    ----------
    first, second : shape (..., 3, 3), broadcast together.

    Returns
    -------
    float64, shape (...)
        Degrees in [0, 180], accurate to about 1e-6 at both ends of the range.
    """
    relative = rotation_between(_rotation(first), _rotation(second))
    identity = torch.eye(3, dtype=relative.dtype, device=relative.device)
    half_sine = (relative - identity).square().sum((-2, -1)).sqrt() / math.sqrt(8.0)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    half_cosine = (1.0 + trace).clamp_min(0.0).sqrt() / 2.0
    return torch.rad2deg(2.0 * torch.atan2(half_sine, half_cosine))


def matrix_from_rotation_vector(vector: Tensor) -> Tensor:
    """Return the rotation about the direction of a vector by its length in radians (exponential map).

    Parameters
    ----------
    vector : shape (..., 3)
        Radians; right-handed, so (0, 0, π/2) takes the x axis to the y axis.

    Returns
    -------
    shape (..., 3, 3), dtype of ``vector``
        Differentiable everywhere, also at zero.

    Raises
    ------
    ShapeError
        The last axis is not of 3 components.

    References
    ----------
    Rodrigues' formula: exp[w] = 1 + (sin θ / θ) [w] + ((1 − cos θ) / θ²) [w]².
    """
    if vector.shape[-1] != 3:
        raise ShapeError(f"A rotation vector must have 3 components; got shape {tuple(vector.shape)}.")
    squared = vector.square().sum(-1)
    small = squared < 1e-6
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    sine_ratio = torch.where(small, 1.0 - squared / 6.0 + squared.square() / 120.0, angle.sin() / angle)
    half_ratio = (angle / 2.0).sin() / angle
    cosine_ratio = torch.where(small, 0.5 - squared / 24.0 + squared.square() / 720.0, 2.0 * half_ratio.square())
    cross = cross_matrix(vector)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + sine_ratio[..., None, None] * cross + cosine_ratio[..., None, None] * (cross @ cross)


def rotation_vector_from_matrix(rotation: Tensor) -> Tensor:
    """Return the rotation vectors of rotations, the inverse of `matrix_from_rotation_vector`.

    Parameters
    ----------
    rotation : shape (..., 3, 3).

    Returns
    -------
    float64, shape (..., 3)
        Radians, length in [0, π]. Differentiable below π.

    Notes
    -----
    Through the unit quaternion, whose largest component is never below 1/2, so no angle loses digits.
    """
    matrix = _rotation(rotation)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    lower = torch.stack(
        [
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ],
        dim=-1,
    )
    sums = matrix + matrix.mT
    # Each row is the quaternion (w, x, y, z) times four times one of its components.
    candidates = torch.stack(
        [
            torch.cat([1.0 + trace, lower], dim=-1),
            *(
                torch.stack(
                    [
                        lower[..., axis],
                        *(
                            1.0 + 2.0 * diagonal[..., axis] - trace[..., 0] if other == axis else sums[..., axis, other]
                            for other in range(3)
                        ),
                    ],
                    dim=-1,
                )
                for axis in range(3)
            ),
        ],
        dim=-2,
    )
    sizes = torch.cat([1.0 + trace, 1.0 + 2.0 * diagonal - trace], dim=-1)
    best = sizes.argmax(-1)
    chosen = torch.take_along_dim(candidates, best[..., None, None], dim=-2)[..., 0, :]
    chosen = torch.where(chosen[..., :1] < 0, -chosen, chosen)
    scalar, imaginary = chosen[..., 0] / chosen.norm(dim=-1), chosen[..., 1:] / chosen.norm(dim=-1, keepdim=True)
    squared = imaginary.square().sum(-1)
    small = squared < 1e-12
    length = torch.where(small, torch.ones_like(squared), squared).sqrt()
    ratio = torch.where(small, 2.0 / scalar.clamp_min(0.5), 2.0 * torch.atan2(length, scalar) / length)
    return ratio[..., None] * imaginary


def left_jacobian(vector: Tensor) -> Tensor:
    """Return how a rotation turns when its rotation vector changes.

    Parameters
    ----------
    vector : shape (..., 3)
        Radians.

    Returns
    -------
    shape (..., 3, 3)
        J with exp([v + δ]×) = exp([J δ]×) exp([v]×) to first order in δ.
    """
    squared = vector.square().sum(-1)
    small = squared < 1e-6
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    first = torch.where(small, 0.5 - squared / 24.0, (1.0 - angle.cos()) / angle.square())
    second = torch.where(small, 1.0 / 6.0 - squared / 120.0, (angle - angle.sin()) / angle**3)
    cross = cross_matrix(vector)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + first[..., None, None] * cross + second[..., None, None] * (cross @ cross)


def cross_matrix(vector: Tensor) -> Tensor:
    """Return the matrices [v]× with [v]× w = v × w, shape (..., 3, 3) from (..., 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [
        torch.stack([zero, -z, y], dim=-1),
        torch.stack([z, zero, -x], dim=-1),
        torch.stack([-y, x, zero], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def random_rotations(seed: int, purpose: str, uids: ArrayLike, *, iteration: int = 0, draw: int = 0) -> Tensor:
    """Draw rotations uniform over SO(3), one for each uid.

    Parameters
    ----------
    seed, purpose, iteration, draw : as for `halfmap.keyed_random.normal`.
    uids : integers, any shape.

    Returns
    -------
    float64, shape (*uids.shape, 3, 3)

    References
    ----------
    Normalised quaternions of four normal values: Shoemake 1992, "Uniform random rotations".
    """
    four = torch.from_numpy(keyed_random.normal(seed, purpose, uids, iteration=iteration, draw=draw, size=4))
    w, x, y, z = torch.nn.functional.normalize(four, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def _radians(angle: AnglesLike) -> Tensor:
    return torch.deg2rad(torch.as_tensor(angle, dtype=torch.float64))


def _rotation(matrix: Tensor | NDArray[np.float64]) -> Tensor:
    tensor = torch.as_tensor(matrix, dtype=torch.float64)
    if tuple(tensor.shape[-2:]) != (3, 3):
        raise ShapeError(f"A rotation must have shape (..., 3, 3); got {tuple(tensor.shape)}.")
    return tensor
