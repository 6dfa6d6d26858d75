"""Grids of in-plane shifts: a square lattice within a disc, and its refinements."""

import torch
from torch import Tensor

from halfmap.errors import InputError


def disc(range_angstrom: float, step_angstrom: float) -> Tensor:
    """Return the shifts on a square lattice through zero that lie within a disc.

    Parameters
    ----------
    range_angstrom : radius of the disc, not negative.
    step_angstrom : spacing of the lattice, positive.

    Returns
    -------
    float64, shape (T, 2)
        (x, y) in Å, sorted by length, so zero comes first.

    Raises
    ------
    InputError
        A negative range or a step that is not positive.

    Notes
    -----
    A range of 5 and a step of 2 give 21 shifts.
    """
    if not range_angstrom >= 0:
        raise InputError(f"The range of shifts must not be negative; got {range_angstrom} Å.")
    if not step_angstrom > 0:
        raise InputError(f"The step of shifts must be positive; got {step_angstrom} Å.")
    limit = range_angstrom / step_angstrom + 1e-6
    reach = int(limit)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    lattice = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
    lengths = lattice.norm(dim=-1)
    inside = lattice[lengths <= limit]
    order = torch.argsort(inside.square().sum(-1), stable=True)
    return inside[order] * step_angstrom


def children(shifts_angstrom: Tensor, step_angstrom: float) -> Tensor:
    """Return the four shifts that refine each shift of a lattice.

    Parameters
    ----------
    shifts_angstrom : shape (..., 2)
        Shifts of a lattice.
    step_angstrom : the lattice's spacing.

    Returns
    -------
    Shape (..., 4, 2)
        Centres of the four quarters of each shift's cell; their spacing is half of ``step_angstrom``.
    """
    quarter = step_angstrom / 4.0
    offsets = torch.tensor(
        [[-quarter, -quarter], [quarter, -quarter], [-quarter, quarter], [quarter, quarter]],
        dtype=shifts_angstrom.dtype,
        device=shifts_angstrom.device,
    )
    return shifts_angstrom[..., None, :] + offsets
