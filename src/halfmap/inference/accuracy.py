"""Expected accuracy of poses: by how much an image must be turned or moved before its likelihood tells."""

import math

import torch
from torch import Tensor

from halfmap.errors import ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector
from halfmap.grid import ImageGrid
from halfmap.tensors import Images, Rotations

TELLING_NATS = -math.log(0.01)
"""A change of pose is told apart where the expected log-likelihood falls by this much."""

LARGEST_ROTATION_DEGREES = 30.0
LARGEST_OFFSET_PIXEL = 10.0
_STEPS = 48
_STEPS_IN_SPACE = 24
_COEFFICIENTS_AT_ONCE = 4_000_000


def pose_accuracy(
    references: Images, information: Tensor, mass: Tensor, grid: ImageGrid, shell: int
) -> tuple[Tensor, Tensor]:
    """Return the expected error of in-plane angles and offsets for particles of each class.

    Parameters
    ----------
    references : float32, shape (C, side, side): as images are compared with them.
    information : Σ weight · s² C²/σ² in the frame of each reference, float32, shape (C, K).
    mass : Σ weight, shape (C,).
    shell : the last that is compared.

    Returns
    -------
    degrees, angstrom : float64, shape (C,); at most 30° and 10 px; nan for classes without particles.

    Notes
    -----
    The error ε at which ½ Σ C²/σ² |P − P_ε|² reaches −ln 0.01 for the class's average particle, found on a
    logarithmic scale and interpolated; RELION takes the mean of ε over ten particles
    (calculateExpectedAngularErrors).
    """
    band = FourierBand(grid, max_shell=shell, device=references.device)
    mean = torch.where(mass[:, None] > 0, information / mass.clamp(min=1e-30)[:, None], 0.0).double()
    padded = slices.prepare(references, grid)
    angles = torch.logspace(math.log10(0.05), math.log10(LARGEST_ROTATION_DEGREES), _STEPS, dtype=torch.float64)
    zero = torch.zeros(1 + _STEPS, dtype=torch.float64)
    turned = slices.extract(padded, matrix_from_euler(zero, zero, torch.cat([zero[:1], angles])), band)
    difference = turned[:, 1:] - turned[:, :1]
    by_angle = 0.5 * torch.einsum("crk,ck->cr", difference.abs().square().double(), mean)
    power = turned[:, 0].abs().square().double() * mean
    moves, by_offset = _told_by_offsets(power, band)
    empty = ~(mass > 0)
    rotation, offset = _reached(by_angle, angles), _reached(by_offset, moves)
    rotation[empty], offset[empty] = torch.nan, torch.nan
    return rotation, offset


def volume_pose_accuracy(
    transform: slices.PaddedTransform, band: FourierBand, information: Tensor, rotations: Rotations
) -> tuple[float, float]:
    """Return the expected error of rotations and offsets of particles of a map.

    Parameters
    ----------
    transform : of the map, as images are compared with it.
    band : that is compared.
    information : s² C²/σ² of some particles, shape (n, K).
    rotations : of these, float64, shape (n, 3, 3).

    Returns
    -------
    degrees, angstrom : at most 30° and 10 px; nan without particles.

    Raises
    ------
    ShapeError
        There are not as many rows of information as rotations, each of one value for each coefficient.

    Notes
    -----
    The error ε at which ½ Σ s² C²/σ² |P − P_ε|² reaches −ln 0.01, found on a logarithmic scale and interpolated, and
    its mean over particles. Rotations: ε of turns about each of the three axes of the image, one in its plane and two
    out of it, and their mean; offsets: ε at which moves along x and y tell as much in the mean. RELION draws for each
    of 100 particles one Euler angle to change, and one axis to move along (calculateExpectedAngularErrors), which
    comes to much the same, but for the chance.
    """
    n = len(rotations)
    if tuple(information.shape) != (n, len(band)):
        raise ShapeError(
            f"Information must have shape {(n, len(band))}, particles and coefficients; got {tuple(information.shape)}."
        )
    if n == 0:
        return math.nan, math.nan
    device = transform.values.device
    band = band.to(device)
    angles = torch.logspace(
        math.log10(0.02), math.log10(LARGEST_ROTATION_DEGREES), _STEPS_IN_SPACE, dtype=torch.float64
    )
    axes = torch.eye(3, dtype=torch.float64)
    turns = matrix_from_rotation_vector(torch.deg2rad(angles)[:, None] * axes[:, None])
    turns = torch.cat([axes[None], turns.flatten(0, 1)])
    at_once = max(1, _COEFFICIENTS_AT_ONCE // (len(turns) * len(band)))
    by_angle, power = [], []
    for start in range(0, n, at_once):
        weight = information[start : start + at_once].to(device, torch.float32)
        turned = slices.extract(transform, turns @ rotations[start : start + at_once, None].cpu(), band)
        difference = (turned[:, 1:] - turned[:, :1]).abs().square()
        by_angle.append(0.5 * (difference @ weight[..., None])[..., 0].double().cpu())
        power.append((turned[:, 0].abs().square() * weight).double())
    moves, by_offset = _told_by_offsets(torch.cat(power), band)
    degrees = _reached(torch.cat(by_angle).view(3 * n, _STEPS_IN_SPACE), angles)
    return float(degrees.mean()), float(_reached(by_offset, moves).mean())


def _told_by_offsets(power: Tensor, band: FourierBand) -> tuple[Tensor, Tensor]:
    """Return moves in Å, shape (S,), and by how many nats each tells, mean of those along x and y, shape (..., S).

    ``power`` is s² C²/σ² |P|², float64, shape (..., K): |1 − e^{iφ}|² = 2 − 2 cos φ of it changes.
    """
    pixels = torch.logspace(-2, math.log10(LARGEST_OFFSET_PIXEL), _STEPS, dtype=torch.float64)
    moves = pixels * band.grid.pixel_size_angstrom
    turns = 2 * math.pi * moves[:, None, None] * band.frequencies.cpu()
    told = (2 - 2 * torch.cos(turns)).mean(-1).to(power.device)
    return moves, 0.5 * power @ told.T


def _reached(told: Tensor, errors: Tensor) -> Tensor:
    """Return the error at which each row first reaches `TELLING_NATS`, linear in the logarithms between two."""
    result = torch.full((len(told),), float(errors[-1]), dtype=torch.float64)
    for c, row in enumerate(told.cpu()):
        above = torch.nonzero(row >= TELLING_NATS).flatten()
        if len(above) == 0:
            continue
        i = int(above[0])
        if i == 0:
            result[c] = errors[0]
            continue
        low, high = math.log(max(float(row[i - 1]), 1e-300)), math.log(float(row[i]))
        share = (math.log(TELLING_NATS) - low) / max(high - low, 1e-12)
        result[c] = float(errors[i - 1] * (errors[i] / errors[i - 1]) ** share)
    return result
