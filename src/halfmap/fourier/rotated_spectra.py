"""Even real spectra over a band, such as Σ CTF²/σ² of turned images, brought back into the reference's frame."""

from functools import lru_cache

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.kernels import rotated_spectra
from halfmap.tensors import BandValues, Rotations

VALUES_PER_THREAD = 100_000


def rotate_back(values: BandValues, rotations: Rotations, band: FourierBand) -> BandValues:
    """Turn spectra of images into the frame of the reference, and add them up.

    Parameters
    ----------
    values : real, shape (*leading shape, ..., K)
        Spectra ω of images at each rotation, even in k; e.g. Σ CTF²/σ² of the images of a class at a rotation.
    rotations : float64, shape (..., 3, 3)
        In the plane: of each only the upper left 2 by 2 block A₂ counts. A point v of the reference lies at A₂ v in
        the image.
    band : of both.

    Returns
    -------
    Real, shape (*leading shape, K), dtype of ``values``: W(q) = Σ_n ω_n(A₂ q).

    Raises
    ------
    ShapeError
        Shapes do not fit.
    InputError
        The values are complex, or a rotation does not keep lengths in the plane.

    Notes
    -----
    ω is interpolated linearly between its four neighbours on the grid of the band. Those that the band does not hold
    (DC, what lies beyond its first or last shell) are left out and the weights of the others scaled up, so that
    nothing falls off at an edge: a constant stays one, and nothing becomes negative where ω is not. At quarter turns
    points fall on the grid and the result is exact. On a CPU in single precision a compiled kernel does it, else
    plain tensor operations.
    """
    expected = (*rotations.shape[:-2], len(band))
    if tuple(rotations.shape[-2:]) != (3, 3) or tuple(values.shape[values.ndim - len(expected) :]) != expected:
        raise ShapeError(
            f"Spectra must end in the rotations' axes and {len(band)} coefficients, and rotations in (3, 3); "
            f"got {tuple(values.shape)} and {tuple(rotations.shape)}."
        )
    if values.is_complex():
        raise InputError("Spectra must be real; got complex values; take their squared size.")
    turns = rotations.to(values.device, torch.float64).reshape(-1, 3, 3)[:, :2, :2].contiguous()
    stretch = (turns @ turns.mT - torch.eye(2, dtype=torch.float64, device=turns.device)).abs()
    if not bool((stretch < 1e-6).all()):
        raise InputError(
            "Rotations of images must lie in their plane and keep lengths; got some that do not; "
            "check the angles they come from."
        )
    flat = values.detach().reshape(-1, len(turns), len(band))
    if values.device.type == "cpu" and values.dtype == torch.float32:
        sums = torch.from_numpy(
            rotated_spectra.sum_turned(
                flat.contiguous().numpy(),
                turns.numpy(),
                band.wave_numbers.cpu().numpy(),
                _table(band.grid.side, band.min_shell, band.max_shell).numpy(),
                n_threads=max(1, min(torch.get_num_threads(), flat.numel() // VALUES_PER_THREAD)),
            )
        )
    else:
        sums = _sum_turned(flat, turns, band)
    return sums.reshape(*values.shape[: values.ndim - len(expected)], len(band))


def _sum_turned(values: Tensor, turns: Tensor, band: FourierBand) -> Tensor:
    """Return what `halfmap.kernels.rotated_spectra.sum_turned` does, in plain tensor operations."""
    table = _table(band.grid.side, band.min_shell, band.max_shell).to(values.device)
    radius = table.shape[1] - 1
    wave_numbers = band.wave_numbers.to(values.device, torch.float64)
    flat_table = table.reshape(-1).to(torch.int64)
    sums = values.new_zeros(len(values), len(band))
    for n, turn in enumerate(turns):
        points = wave_numbers @ turn.T
        points = torch.where(points[:, :1] < 0, -points, points)
        points[:, 1] += radius
        lower = points.floor()
        x, y = (points - lower).T
        at = lower[:, 1].to(torch.int64) * (radius + 1) + lower[:, 0].to(torch.int64)
        known = torch.stack([flat_table[at + offset] for offset in (0, 1, radius + 1, radius + 2)])
        weight = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y]) * (known >= 0)
        weight = (weight / weight.sum(0)).to(values.dtype)
        sums += (values[:, n].index_select(1, known.clamp_min(0).reshape(-1)).unflatten(1, known.shape) * weight).sum(1)
    return sums


@lru_cache(maxsize=16)
def _table(side: int, min_shell: int, max_shell: int) -> Tensor:
    """Return where coefficients and their mates lie among a band's, int32, shape (2M + 1, M + 1), y from -M; -1: none.

    Notes
    -----
    Depends on the band's shells alone, so one of any pixel size stands for all.
    """
    band = FourierBand(ImageGrid.square(side, 1.0), min_shell=min_shell, max_shell=max_shell)
    radius = band.max_shell + 2
    table = torch.full((2 * radius + 1, radius + 1), -1, dtype=torch.int32)
    kx, ky = band.wave_numbers.T
    numbers = torch.arange(len(band), dtype=torch.int32)
    table[ky + radius, kx] = numbers
    on_axis = kx == 0
    table[radius - ky[on_axis], 0] = numbers[on_axis]
    return table
