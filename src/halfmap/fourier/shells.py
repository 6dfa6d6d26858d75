"""Shells of equal spatial frequency: sums and means over them, FSC, and the resolution of a curve.

Shell ``s`` holds the coefficients with ``round(|k|) == s``, where |k| counts multiples of
1 / (larger side x pixel size). On a square or cubic grid that is the usual index; on a non-square
micrograph it keeps one spacing in 1/Å for both axes. The last shell is half the larger side, rounded
down; coefficients in the corners beyond it belong to no shell.
"""

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.tensors import ImagesRfft, VolumesRfft


def n_shells(grid: ImageGrid) -> int:
    """Return the number of shells, DC included: half the larger side, rounded down, plus one."""
    return max(grid.shape) // 2 + 1


def shell_frequencies(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the spatial frequency of each shell in 1/Å, float64, shape (n_shells,)."""
    extent_angstrom = max(grid.shape) * grid.pixel_size_angstrom
    return torch.arange(n_shells(grid), dtype=torch.float64, device=device) / extent_angstrom


def shell_radius(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return |k| of each coefficient of a half transform in units of the shell spacing.

    Returns
    -------
    float64, shape ``grid.rfft_shape``; the same whatever the pixel size.
    """
    larger = max(grid.shape)
    axes = [_whole_frequencies(side, device) * larger / side for side in grid.shape[:-1]]
    halved = grid.shape[-1]
    axes.append(torch.arange(halved // 2 + 1, dtype=torch.float64, device=device) * larger / halved)
    squares = axes[0].square()
    for axis in axes[1:]:
        squares = squares[..., None] + axis.square()
    return squares.sqrt_()


def shell_index(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the shell of each coefficient of a half transform.

    Returns
    -------
    int64, shape ``grid.rfft_shape``. Coefficients in the corners carry their number too, which is
    ``n_shells(grid)`` or more. Exact halves, which only non-square grids have, go up.
    """
    return shell_radius(grid, device=device).add_(0.5 + 1e-9).floor_().to(torch.int64)


def multiplicity(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return how many coefficients of the whole transform each one of a half transform stands for.

    Returns
    -------
    float64, shape (x // 2 + 1,), to be multiplied along the last axis: 2, but 1 for kx = 0 and for
    the Nyquist frequency of an even side.
    """
    side = grid.shape[-1]
    counts = torch.full((side // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    counts[0] = 1.0
    if side % 2 == 0:
        counts[-1] = 1.0
    return counts


def radial_sum(values: Tensor, grid: ImageGrid) -> Tensor:
    """Sum real values of a half transform over the shells of the whole transform.

    Parameters
    ----------
    values : real, shape (..., *grid.rfft_shape).

    Returns
    -------
    float64, shape (..., n_shells).

    Raises
    ------
    ShapeError
        The last axes are not those of a half transform.
    """
    _check(values, grid)
    return _sum_over(values, _bins(grid, values.device), grid)


def shell_counts(grid: ImageGrid, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the number of coefficients of the whole transform in each shell, float64."""
    return radial_sum(torch.ones(grid.rfft_shape, dtype=torch.float64, device=device), grid)


def radial_mean(values: Tensor, grid: ImageGrid) -> Tensor:
    """Average real values of a half transform over the shells of the whole transform.

    Parameters
    ----------
    values : real, shape (..., *grid.rfft_shape).

    Returns
    -------
    float64, shape (..., n_shells).
    """
    return radial_sum(values, grid) / shell_counts(grid, device=values.device)


def power_spectrum(transform: ImagesRfft | VolumesRfft, grid: ImageGrid) -> Tensor:
    """Return the mean of |F|² in each shell.

    Parameters
    ----------
    transform : complex, shape (..., *grid.rfft_shape), of `ImageGrid.rfft`.

    Returns
    -------
    float64, shape (..., n_shells). The variance of one real component is half of it.
    """
    return radial_mean(_real_product(transform, transform), grid)


def spread(curve: Tensor, grid: ImageGrid, *, beyond: float = 0.0) -> Tensor:
    """Give each coefficient of a half transform the value of its shell.

    Parameters
    ----------
    curve : shape (..., n_shells).
    beyond : the value in the corners, which belong to no shell.

    Returns
    -------
    Shape (..., *grid.rfft_shape), dtype of ``curve``.

    Raises
    ------
    ShapeError
        The curve has another number of shells.
    """
    shells = n_shells(grid)
    if curve.shape[-1] != shells:
        raise ShapeError(f"A curve over shells of this grid must have {shells} values; got {curve.shape[-1]}.")
    corner = torch.full((*curve.shape[:-1], 1), beyond, dtype=curve.dtype, device=curve.device)
    return torch.cat([curve, corner], dim=-1)[..., shell_index(grid, device=curve.device).clamp_(max=shells)]


def fsc(first: VolumesRfft, second: VolumesRfft, grid: ImageGrid) -> Tensor:
    """Correlate two transforms shell by shell.

    Parameters
    ----------
    first, second : complex, shape (..., *grid.rfft_shape), of `ImageGrid.rfft`.

    Returns
    -------
    float64, shape (..., n_shells): Σ Re(a b*) / √(Σ|a|² Σ|b|²), 0 where a shell of either is empty.

    Raises
    ------
    ShapeError
        The two transforms have different axes.

    Notes
    -----
    Sums are float64 and count each coefficient of the whole transform once. Shell 0 is DC alone.

    References
    ----------
    Harauz and van Heel 1986, Optik 73, 146.
    """
    if first.shape[-grid.ndim :] != second.shape[-grid.ndim :]:
        raise ShapeError(f"Two transforms must have the same axes; got {tuple(first.shape)} and {tuple(second.shape)}.")
    _check(first, grid)
    bins = _bins(grid, first.device)
    cross = _sum_over(_real_product(first, second), bins, grid)
    norm = torch.sqrt(
        _sum_over(_real_product(first, first), bins, grid) * _sum_over(_real_product(second, second), bins, grid)
    )
    return torch.where(norm > 0, cross / norm.clamp_min(torch.finfo(torch.float64).tiny), torch.zeros_like(cross))


def frc(first: ImagesRfft, second: ImagesRfft, grid: ImageGrid) -> Tensor:
    """Correlate two transforms of images ring by ring; see `fsc`."""
    return fsc(first, second, grid)


def resolution_at_threshold(curve: Tensor, grid: ImageGrid, threshold: float = 0.143) -> float:
    """Return where a correlation curve first falls below a threshold.

    Parameters
    ----------
    curve : shape (n_shells,), of `fsc` or `frc`.
    threshold : usually 0.143 between independent half maps, 0.5 against a known truth.

    Returns
    -------
    Å. The crossing is interpolated linearly in spatial frequency between the last shell above and
    the first below. A curve that never falls below gives the frequency of its last shell; one that
    begins below gives infinity.

    Raises
    ------
    ShapeError
        The curve has another number of shells than the grid.
    InputError
        The threshold is no correlation.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, for 0.143.
    """
    shells = n_shells(grid)
    if tuple(curve.shape) != (shells,):
        raise ShapeError(f"A curve over shells of this grid must have shape ({shells},); got {tuple(curve.shape)}.")
    if not -1.0 < threshold < 1.0:
        raise InputError(f"A correlation threshold must lie between -1 and 1; got {threshold}; use 0.143 or 0.5.")
    values = curve.detach().to("cpu", torch.float64)
    extent_angstrom = max(grid.shape) * grid.pixel_size_angstrom
    below = torch.nonzero(values < threshold).flatten()
    if below.numel() == 0:
        return extent_angstrom / (shells - 1)
    fall = int(below[0])
    if fall == 0:
        return float("inf")
    above, under = float(values[fall - 1]), float(values[fall])
    crossing = fall - 1 + (above - threshold) / (above - under)
    return extent_angstrom / crossing if crossing > 0 else float("inf")


def _whole_frequencies(side: int, device: torch.device | str) -> Tensor:
    k = torch.arange(side, dtype=torch.float64, device=device)
    return torch.where(k < (side + 1) // 2, k, k - side)


def _bins(grid: ImageGrid, device: torch.device) -> Tensor:
    """Return the shell of each coefficient, flat, with all corners in one bin behind the last."""
    return shell_index(grid, device=device).clamp_(max=n_shells(grid)).reshape(-1)


def _sum_over(values: Tensor, bins: Tensor, grid: ImageGrid) -> Tensor:
    shells = n_shells(grid)
    weighted = values.to(torch.float64) * multiplicity(grid, device=values.device)
    flat = weighted.reshape(-1, bins.numel())
    sums = torch.zeros(flat.shape[0], shells + 1, dtype=torch.float64, device=values.device)
    sums.index_add_(1, bins, flat)
    return sums[:, :shells].reshape(*values.shape[: -grid.ndim], shells)


def _real_product(first: Tensor, second: Tensor) -> Tensor:
    return (first.real * second.real + first.imag * second.imag).to(torch.float64)


def _check(values: Tensor, grid: ImageGrid) -> None:
    if tuple(values.shape[-grid.ndim :]) != grid.rfft_shape:
        raise ShapeError(
            f"Values of a half transform must end in the axes {grid.rfft_shape}; got shape {tuple(values.shape)}."
        )
