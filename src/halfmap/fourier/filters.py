"""Filters: real multipliers over a half transform, with soft edges."""

import math

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.shells import n_shells, shell_radius
from halfmap.grid import ImageGrid

_LARGEST_EXPONENT = 80.0  # float32 ends at e^88


def low_pass(
    grid: ImageGrid,
    resolution_angstrom: float,
    width_shells: float = 2.0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a low-pass filter with a raised-cosine edge.

    Parameters
    ----------
    resolution_angstrom : where the filter falls through one half; beyond Nyquist it changes nothing
        but the corners.
    width_shells : width of the edge, from 1 to 0, in shells of the larger side; 0 cuts sharply.

    Returns
    -------
    Shape ``grid.rfft_shape``.

    Raises
    ------
    InputError
        The resolution is not positive or the width negative.

    Notes
    -----
    The edge is centred on a whole shell, round(n x pixel size / resolution), as in RELION's image
    handler; within it the filter is ½ + ½ cos π(|k| − low)/(high − low).
    """
    centre = _edge_shell(grid, resolution_angstrom, width_shells)
    k = shell_radius(grid, device=device)
    return _falling_edge(k, centre - width_shells / 2, centre + width_shells / 2).to(dtype)


def high_pass(
    grid: ImageGrid,
    resolution_angstrom: float,
    width_shells: float = 2.0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return a high-pass filter, one minus `low_pass`.

    Returns
    -------
    Shape ``grid.rfft_shape``.
    """
    return 1 - low_pass(grid, resolution_angstrom, width_shells, device=device, dtype=dtype)


def b_factor(
    grid: ImageGrid,
    b_factor_angstrom2: float,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return exp(−B s²/4), s in 1/Å: positive dampens, negative sharpens.

    Returns
    -------
    Shape ``grid.rfft_shape``; zero in the corners beyond the Nyquist frequency, as in RELION, so that
    sharpening cannot blow them up.

    Raises
    ------
    InputError
        The B-factor is not finite, or sharpens beyond what a number can hold.
    """
    if not math.isfinite(b_factor_angstrom2):
        raise InputError(f"A B-factor must be finite; got {b_factor_angstrom2} Å²; give a number in Å².")
    strongest = -4 * _LARGEST_EXPONENT * (2 * grid.pixel_size_angstrom) ** 2
    if b_factor_angstrom2 < strongest:
        raise InputError(
            f"A B-factor must leave amplitudes that a map can hold; got {b_factor_angstrom2:g} Å², which multiplies "
            f"those at the Nyquist frequency by more than e^{_LARGEST_EXPONENT:g}; give one above {strongest:.3g} Å²."
        )
    s = grid.frequencies(device=device).norm(dim=-1)
    inside = s <= 0.5 / grid.pixel_size_angstrom * (1 + 1e-9)
    return torch.where(inside, torch.exp(-0.25 * b_factor_angstrom2 * s * s), torch.zeros_like(s)).to(dtype)


def apply_filter(array: Tensor, grid: ImageGrid, multiplier: Tensor) -> Tensor:
    """Filter real images or volumes.

    Parameters
    ----------
    array : real, shape (..., *grid.shape).
    multiplier : shape (..., *grid.rfft_shape), of this module or a product of several.

    Returns
    -------
    Real, shape of ``array``.
    """
    return grid.irfft(grid.rfft(array) * multiplier)


def _edge_shell(grid: ImageGrid, resolution_angstrom: float, width_shells: float) -> int:
    if not resolution_angstrom > 0:
        raise InputError(f"A filter's resolution must be positive; got {resolution_angstrom} Å; give it in Å.")
    if not width_shells >= 0:
        raise InputError(f"A filter's edge must not be narrower than 0 shells; got {width_shells}; 2 is usual.")
    shell = max(grid.shape) * grid.pixel_size_angstrom / resolution_angstrom
    # far beyond the corners every filter is the same
    return math.floor(min(shell, 4.0 * n_shells(grid) + width_shells) + 0.5)


def _falling_edge(k: Tensor, low: float, high: float) -> Tensor:
    if high <= low:
        return (k <= low).to(k.dtype)
    fraction = ((k - low) / (high - low)).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(math.pi * fraction)
