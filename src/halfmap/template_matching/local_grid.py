"""Orientations about a known one: all three ways to turn, in the frame of the image."""

import math

import torch

from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector
from halfmap.tensors import Rotations


def local_rotations(
    *, tilt_range_degrees: float, tilt_step_degrees: float, psi_range_degrees: float, psi_step_degrees: float
) -> Rotations:
    """Return rotations W about the identity; W A is a neighbour of pose A.

    Parameters
    ----------
    tilt_range_degrees, tilt_step_degrees : of tilts out of the plane, about axes in all directions of it: a disc.
    psi_range_degrees, psi_step_degrees : of turns in the plane, to either side.

    Returns
    -------
    float64, shape (R, 3, 3), the identity among them. Steps are made smaller until they divide the ranges.

    Notes
    -----
    W stands on the left of A, so its axes are those of the image: the plane is the image's, whatever the view.
    """
    tilts = _symmetric(tilt_range_degrees, tilt_step_degrees)
    turns = _symmetric(psi_range_degrees, psi_step_degrees)
    x, y, z = torch.meshgrid(tilts, tilts, turns, indexing="ij")
    vectors = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    # the nearest rings that a square lattice leaves outside the range by its corners
    inside = vectors[:, :2].norm(dim=-1) <= tilt_range_degrees * (1 + 1e-9)
    return matrix_from_rotation_vector(torch.deg2rad(vectors[inside]))


def _symmetric(limit: float, step: float) -> torch.Tensor:
    n = math.ceil(limit / step - 1e-9) if limit > 0 else 0
    return torch.linspace(-limit, limit, 2 * n + 1, dtype=torch.float64)


def leopard_rotations(
    *, theta_range_degrees: float, theta_step_degrees: float, psi_range_degrees: float, psi_step_degrees: float
) -> Rotations:
    """Return the rotations that Leopard-EM 1.2 tries; a neighbour of pose A is A W, in the frame of the template.

    Returns
    -------
    float64, shape (R, 3, 3), in its order.

    Notes
    -----
    Its φ is that of a grid on the sphere whose steps widen towards the pole: within these ranges one value for each θ,
    the lowest, and 0 at the pole. So the turns span two directions of three.
    """
    n_theta = math.ceil(2 * theta_range_degrees / theta_step_degrees - 1e-9) + 1
    n_psi = math.floor(2 * psi_range_degrees / psi_step_degrees + 1e-9) + 1
    thetas = torch.arange(n_theta, dtype=torch.float64) * theta_step_degrees - theta_range_degrees
    psis = torch.arange(n_psi, dtype=torch.float64) * psi_step_degrees - psi_range_degrees
    psi, theta = (axis.reshape(-1) for axis in torch.meshgrid(psis, thetas, indexing="ij"))
    pole = theta.abs() < 1e-9
    phi = torch.where(pole, torch.zeros_like(theta), torch.full_like(theta, -psi_range_degrees))
    return matrix_from_euler(phi, theta, psi)
