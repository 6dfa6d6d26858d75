"""Expected accuracy of poses: by how much an image must be turned or moved before its likelihood tells."""

import math

import torch
from torch import Tensor

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.tensors import Images

TELLING_NATS = -math.log(0.01)
"""A change of pose is told apart where the expected log-likelihood falls by this much."""

LARGEST_ROTATION_DEGREES = 30.0
LARGEST_OFFSET_PIXEL = 10.0
_STEPS = 48


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
    pixels = torch.logspace(-2, math.log10(LARGEST_OFFSET_PIXEL), _STEPS, dtype=torch.float64)
    moves = pixels * grid.pixel_size_angstrom
    # |1 − e^{iφ}|² = 2 − 2 cos φ, averaged over moves along x and y
    turns = 2 * math.pi * moves[:, None, None] * band.frequencies.cpu()
    told = (2 - 2 * torch.cos(turns)).mean(-1).to(references.device)
    power = turned[:, 0].abs().square().double() * mean
    by_offset = 0.5 * power @ told.T
    empty = ~(mass > 0)
    rotation, offset = _reached(by_angle, angles), _reached(by_offset, moves)
    rotation[empty], offset[empty] = torch.nan, torch.nan
    return rotation, offset


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
