"""Aberrations beyond defocus: Zernike polynomials, beam tilt, anisotropic magnification.

Coefficients are RELION's: angles in radians multiply plain (unnormalised) Zernike polynomials of the
spatial frequency in 1/Å, so the polynomials' unit circle lies at 1 Å.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.units import electron_wavelength_angstrom

Coefficients: TypeAlias = Tensor | ArrayLike
"""Zernike coefficients in radians, shape (n,)."""

_ANGSTROM_PER_MM = 1e7
_AXIAL_COMA = (3, 4)


def zernike(frequencies: Tensor, n: int, m: int) -> Tensor:
    """Evaluate the Zernike polynomial of order n and azimuthal frequency m.

    Parameters
    ----------
    frequencies : shape (..., 2)
        (x, y) in 1/Å.
    n : radial order, not negative.
    m : from −n to n in steps of 2; negative for the sine, else the cosine of the azimuth.

    Returns
    -------
    float64, shape (...)
        R(r) cos(m α) or R(r) sin(|m| α), with R(1) = 1.

    Raises
    ------
    InputError
        There is no polynomial with these indices.

    References
    ----------
    Born and Wolf, "Principles of Optics", section 9.2.1.
    """
    if n < 0 or abs(m) > n or (n - m) % 2:
        raise InputError(f"Zernike indices must satisfy |m| ≤ n with n − m even; got n = {n}, m = {m}.")
    x, y = frequencies.double().unbind(-1)
    squared = x * x + y * y
    order = abs(m)
    radial = torch.zeros_like(squared)
    for k in range((n - order) // 2 + 1):
        weight = (-1) ** k * math.factorial(n - k)
        weight //= math.factorial(k) * math.factorial((n + order) // 2 - k) * math.factorial((n - order) // 2 - k)
        radial = radial + weight * squared ** ((n - order) // 2 - k)
    azimuthal = torch.complex(x, y) ** order
    return radial * (azimuthal.imag if m < 0 else azimuthal.real)


def even_index(i: int) -> tuple[int, int]:
    """Return (n, m) of the i-th even coefficient: n = 0, 2, 4, …, and m = −n, −n + 2, …, n within each."""
    k = math.isqrt(i)
    return 2 * k, 2 * (i - k * k - k)


def odd_index(i: int) -> tuple[int, int]:
    """Return (n, m) of the i-th odd coefficient: n = 1, 3, 5, …, and m = −n, −n + 2, …, n within each."""
    k = (math.isqrt(1 + 4 * i) - 1) // 2
    n = 2 * k + 1
    return n, 2 * (i - k * (k + 1)) - n


def even_phase(frequencies: Tensor, even_zernike: Coefficients) -> Tensor:
    """Return what even aberrations add to γ.

    Parameters
    ----------
    frequencies : shape (..., 2)
        (x, y) in 1/Å.
    even_zernike : shape (n,)
        Radians, in the order of `even_index` (RELION's ``rlnEvenZernike``).

    Returns
    -------
    float64, shape (...)
        Radians.
    """
    return _weighted_sum(frequencies, even_zernike, even_index)


def odd_phase(
    frequencies: Tensor,
    *,
    odd_zernike: Coefficients = (),
    beam_tilt_mrad: tuple[float, float] | Tensor | None = None,
    voltage_kv: float,
    spherical_aberration_mm: float,
) -> Tensor:
    """Return the phase that odd aberrations add to an image's transform.

    Parameters
    ----------
    frequencies : shape (..., 2)
        (x, y) in 1/Å.
    odd_zernike : shape (n,)
        Radians, in the order of `odd_index` (RELION's ``rlnOddZernike``).
    beam_tilt_mrad : (x, y)
        Where given it takes the place of the two axial coma coefficients (n = 3, m = ±1).
    voltage_kv, spherical_aberration_mm : the microscope; used by the beam tilt alone.

    Returns
    -------
    float64, shape (...)
        Radians; odd in the frequency. A clean image's transform times exp(i phase) is the aberrated one.

    Notes
    -----
    A beam tilt b adds −2π Cs λ² s² (s·b). Sign, and that the tilt replaces the coma coefficients, as RELION
    does when its optics table has both.

    References
    ----------
    Zivanov, Nakane, Scheres 2020, "Estimation of high-order aberrations and anisotropic magnification
    from cryo-EM data sets in RELION-3.1", IUCrJ 7, 253-267.
    """
    values = frequencies.double()
    weights = torch.as_tensor(odd_zernike, dtype=torch.float64, device=values.device)
    if beam_tilt_mrad is None:
        return _weighted_sum(frequencies, weights, odd_index)
    others = [i for i in range(weights.shape[-1]) if i not in _AXIAL_COMA]
    rest = _weighted_sum(frequencies, weights[others], lambda i: odd_index(others[i]))
    tilt_rad = torch.as_tensor(beam_tilt_mrad, dtype=torch.float64, device=values.device) * 1e-3
    wavelength = electron_wavelength_angstrom(voltage_kv)
    coma = 2.0 * math.pi * spherical_aberration_mm * _ANGSTROM_PER_MM * wavelength**2
    return rest - coma * values.square().sum(-1) * (values @ tilt_rad)


def odd_zernike_with_tilt(
    odd_zernike: Sequence[float], *, beam_tilt_mrad: Sequence[float], voltage_kv: float, spherical_aberration_mm: float
) -> tuple[float, ...]:
    """Return odd coefficients that hold a beam tilt in place of the axial coma: those of the same `odd_phase`.

    Parameters
    ----------
    odd_zernike : radians, as of `odd_phase`.
    beam_tilt_mrad : (x, y).
    voltage_kv, spherical_aberration_mm : the microscope.

    Notes
    -----
    s² s_x is (Z(3, 1) + 2 Z(1, 1)) / 3.
    """
    weights = [*odd_zernike, *[0.0] * (6 - len(odd_zernike))]
    coma = 2.0 * math.pi * spherical_aberration_mm * _ANGSTROM_PER_MM * electron_wavelength_angstrom(voltage_kv) ** 2
    for axis, (first, third) in enumerate(((1, 4), (0, 3))):
        strength = -coma * beam_tilt_mrad[axis] * 1e-3 / 3.0
        weights[third] = strength
        weights[first] += 2.0 * strength
    return tuple(weights)


def magnify(frequencies: Tensor, magnification: Tensor | ArrayLike) -> Tensor:
    """Return the specimen's frequencies that lie at an image's under anisotropic magnification.

    Parameters
    ----------
    frequencies : shape (..., 2)
        (x, y) of the image as recorded, in 1/Å.
    magnification : shape (2, 2)
        RELION's ``rlnMagMat``: the matrix M in s → M s. Slices, CTF and aberrations are all taken at M s.

    Returns
    -------
    Shape (..., 2), dtype of ``frequencies``.

    Raises
    ------
    ShapeError
        The magnification is not a 2 by 2 matrix.
    """
    matrix = torch.as_tensor(magnification, dtype=frequencies.dtype, device=frequencies.device)
    if tuple(matrix.shape) != (2, 2):
        raise ShapeError(f"A magnification must be a 2 by 2 matrix; got shape {tuple(matrix.shape)}.")
    return frequencies @ matrix.T


def _weighted_sum(frequencies: Tensor, coefficients: Coefficients, index: Callable[[int], tuple[int, int]]) -> Tensor:
    weights = torch.as_tensor(coefficients, dtype=torch.float64, device=frequencies.device)
    if weights.dim() != 1:
        raise ShapeError(f"Zernike coefficients must be one list; got shape {tuple(weights.shape)}.")
    total = torch.zeros(frequencies.shape[:-1], dtype=torch.float64, device=frequencies.device)
    for i, weight in enumerate(weights):
        if weight.requires_grad or weight != 0:
            total = total + weight * zernike(frequencies, *index(i))
    return total
