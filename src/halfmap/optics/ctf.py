"""The contrast transfer function, −sin γ with underfocus positive.

RELION's definition with its constants: at zero frequency an image of a bright particle is scaled by
plus the amplitude contrast. Odd aberrations (beam tilt, coma, trefoil) are phases of their own in
`halfmap.optics.aberrations`; multiply by exp(i phase).
"""

import math
from typing import TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.optics.aberrations import even_phase
from halfmap.units import electron_wavelength_angstrom

PerParticle: TypeAlias = Tensor | ArrayLike
"""A number for all particles or one for each: a scalar or shape (N,); any shapes that broadcast."""

_ANGSTROM_PER_MM = 1e7


def ctf(
    frequencies: Tensor,
    *,
    defocus_u_angstrom: PerParticle,
    defocus_v_angstrom: PerParticle,
    defocus_angle_degrees: PerParticle = 0.0,
    voltage_kv: PerParticle,
    spherical_aberration_mm: PerParticle,
    amplitude_contrast: PerParticle,
    phase_shift_degrees: PerParticle = 0.0,
    b_factor_angstrom2: PerParticle = 0.0,
    scale: PerParticle = 1.0,
    even_zernike: PerParticle = (),
    intact_first_peak: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Evaluate the CTF of many particles at the same frequencies.

    Parameters
    ----------
    frequencies : shape (..., 2)
        (x, y) in 1/Å: a grid's or a band's; magnified by `aberrations.magnify` where the optics need it.
    defocus_u_angstrom, defocus_v_angstrom : shape (N,) or scalars
        Defocus along and across the astigmatism's axis; underfocus positive.
    defocus_angle_degrees : direction of U, from x to y.
    voltage_kv, spherical_aberration_mm : the microscope.
    amplitude_contrast : fraction in [0, 1).
    phase_shift_degrees : of a phase plate.
    b_factor_angstrom2 : damps by exp(−B s²/4).
    scale : multiplies the result.
    even_zernike : shape (n_coefficients,)
        Radians; order of `aberrations.even_phase`.
    intact_first_peak : whether to put 1 where |γ| < 90°, before the first peak.
    dtype : of the result; the phase itself is always computed in float64.

    Returns
    -------
    shape (N, *frequencies.shape[:-1]), or without N if every parameter is a scalar
        Real, differentiable in every parameter given as a tensor.

    Raises
    ------
    InputError
        An amplitude contrast outside [0, 1).

    Notes
    -----
    γ = −πλ D(s) s² + (π/2) Cs λ³ s⁴ − φ − asin Q + even aberrations, where D(s) is the defocus in the
    direction of s, φ the phase shift and Q the amplitude contrast. Near 300 kV and 3 Å γ is hundreds
    of radians; it is folded into [−π, π] before the sine is taken in ``dtype``.

    References
    ----------
    Wade 1992, "A brief look at imaging and contrast transfer", Ultramicroscopy 46; constants and sign as in RELION.
    """
    phase = phase_aberration(
        frequencies,
        defocus_u_angstrom=defocus_u_angstrom,
        defocus_v_angstrom=defocus_v_angstrom,
        defocus_angle_degrees=defocus_angle_degrees,
        voltage_kv=voltage_kv,
        spherical_aberration_mm=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        phase_shift_degrees=phase_shift_degrees,
        even_zernike=even_zernike,
    )
    folded = (phase - 2.0 * math.pi * torch.round(phase / (2.0 * math.pi))).to(dtype)
    values = -folded.sin()
    if intact_first_peak:
        values = torch.where(phase.abs() < math.pi / 2, torch.ones_like(values), values)
    n_axes = frequencies.dim() - 1
    if _is_set(b_factor_angstrom2, neutral=0.0):
        squared = frequencies.double().square().sum(-1)
        damping = torch.exp(_expanded(b_factor_angstrom2, frequencies, n_axes) * squared / -4.0)
        values = values * damping.to(dtype)
    if _is_set(scale, neutral=1.0):
        values = values * _expanded(scale, frequencies, n_axes).to(dtype)
    return values


def phase_aberration(
    frequencies: Tensor,
    *,
    defocus_u_angstrom: PerParticle,
    defocus_v_angstrom: PerParticle,
    defocus_angle_degrees: PerParticle = 0.0,
    voltage_kv: PerParticle,
    spherical_aberration_mm: PerParticle,
    amplitude_contrast: PerParticle,
    phase_shift_degrees: PerParticle = 0.0,
    even_zernike: PerParticle = (),
) -> Tensor:
    """Return γ, whose negative sine is the CTF; parameters as for `ctf`.

    Returns
    -------
    float64, shape (N, *frequencies.shape[:-1])
        Radians.

    Raises
    ------
    ShapeError
        The frequencies' last axis is not (x, y).
    InputError
        An amplitude contrast lies outside [0, 1).

    Notes
    -----
    The frequency's part and the particle's part factorise, so one (N, 5) by (5, K) product serves all.
    """
    if frequencies.shape[-1] != 2:
        raise ShapeError(f"Frequencies must have 2 components; got shape {tuple(frequencies.shape)}.")
    u, v, angle, voltage, cs_mm, contrast, phase_shift = torch.broadcast_tensors(
        *(
            _as_tensor(value, frequencies)
            for value in (
                defocus_u_angstrom,
                defocus_v_angstrom,
                defocus_angle_degrees,
                voltage_kv,
                spherical_aberration_mm,
                amplitude_contrast,
                phase_shift_degrees,
            )
        )
    )
    if bool(((contrast < 0) | (contrast >= 1)).any()):
        raise InputError(
            f"An amplitude contrast must lie in [0, 1); got {contrast.min():g} to {contrast.max():g}; "
            "give a fraction such as 0.1."
        )
    wavelength = _wavelength(voltage)
    double_angle = 2.0 * torch.deg2rad(angle)
    mean, half_difference = (u + v) / 2.0, (u - v) / 2.0
    quadratic = -math.pi * wavelength
    coefficients = torch.stack(
        [
            quadratic * mean,
            quadratic * half_difference * double_angle.cos(),
            quadratic * half_difference * double_angle.sin(),
            math.pi / 2.0 * cs_mm * _ANGSTROM_PER_MM * wavelength**3,
            -torch.deg2rad(phase_shift) - torch.asin(contrast),
        ],
        dim=-1,
    )
    x, y = frequencies.double().reshape(-1, 2).unbind(-1)
    squared = x * x + y * y
    basis = torch.stack([squared, x * x - y * y, 2.0 * x * y, squared * squared, torch.ones_like(x)])
    phase = (coefficients @ basis).reshape(*u.shape, *frequencies.shape[:-1])
    if len(torch.as_tensor(even_zernike)) > 0:
        phase = phase + even_phase(frequencies, even_zernike)
    return phase


def _wavelength(voltage_kv: Tensor) -> Tensor:
    voltages, which = voltage_kv.detach().unique(return_inverse=True)
    table = [electron_wavelength_angstrom(value) for value in voltages.tolist()]
    return torch.tensor(table, dtype=torch.float64, device=voltage_kv.device)[which]


def _as_tensor(value: PerParticle, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=like.device)


def _expanded(value: PerParticle, like: Tensor, n_axes: int) -> Tensor:
    tensor = _as_tensor(value, like)
    return tensor.reshape(*tensor.shape, *(1,) * n_axes)


def _is_set(value: PerParticle, *, neutral: float) -> bool:
    return isinstance(value, Tensor) or not isinstance(value, int | float) or value != neutral
