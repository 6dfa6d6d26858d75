"""How radiation damage fades an image: critical exposure and exposure weights."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from halfmap.errors import InputError

_A, _B, _C = 0.24499, -1.6649, 2.8141
_VOLTAGE_STEP_KV = 100.0
_FACTOR_PER_STEP = 0.8


def critical_exposure(frequency: Tensor, voltage_kv: float = 300.0) -> Tensor:
    """Return the exposure at which the signal at a frequency has fallen to 1/e.

    Parameters
    ----------
    frequency : any shape
        Length of the spatial frequency in 1/Å, not negative.
    voltage_kv : acceleration voltage.

    Returns
    -------
    Shape of ``frequency``, e/Å²; infinite at zero frequency.

    Raises
    ------
    InputError
        The voltage is outside 80 to 300 kV, where the scaling was measured or is extrapolated at most once.

    Notes
    -----
    0.24499 s^−1.6649 + 2.8141 at 300 kV; times 0.8 for every 100 kV less, which meets the
    published 0.8 at 200 kV.

    References
    ----------
    Grant and Grigorieff 2015, eLife 4, e06980, equation 3 and the section on voltage.
    """
    if not 80.0 <= voltage_kv <= 300.0:
        raise InputError(
            f"The voltage must be 80 to 300 kV for exposure weights; got {voltage_kv:g} kV; check the optics group."
        )
    factor = _FACTOR_PER_STEP ** ((300.0 - voltage_kv) / _VOLTAGE_STEP_KV)
    return factor * (_A * frequency**_B + _C)


def mean_exposure_weight(
    frequency: Tensor, start_e_per_angstrom2: float, end_e_per_angstrom2: float, voltage_kv: float
) -> Tensor:
    """Return what is left of the signal's amplitude in a plain sum of frames.

    Parameters
    ----------
    frequency : any shape
        Length of the spatial frequency in 1/Å.
    start_e_per_angstrom2, end_e_per_angstrom2 : accumulated exposure before the first and after the last frame.
    voltage_kv : acceleration voltage.

    Returns
    -------
    Shape of ``frequency``
        The mean of exp(−N / (2 Nc)) over exposures N from start to end; 1 at zero frequency.

    Raises
    ------
    InputError
        A negative exposure, or an end before the start.
    """
    if not 0 <= start_e_per_angstrom2 <= end_e_per_angstrom2:
        raise InputError(
            "Exposures must grow from 0 or more; got "
            f"{start_e_per_angstrom2:g} to {end_e_per_angstrom2:g} e/Å²; swap them."
        )
    rate = 1.0 / (2.0 * critical_exposure(frequency, voltage_kv))
    span = (end_e_per_angstrom2 - start_e_per_angstrom2) * rate
    faded = torch.where(span > 1e-6, -torch.expm1(-span) / span.clamp(min=1e-6), 1.0 - span / 2)
    return torch.exp(-start_e_per_angstrom2 * rate) * faded


def exposure_weights(frequency: Tensor, exposure_e_per_angstrom2: Tensor | ArrayLike, voltage_kv: float) -> Tensor:
    """Return what is left of the signal's amplitude after exposures.

    Parameters
    ----------
    frequency : shape (...)
        Length of the spatial frequency in 1/Å.
    exposure_e_per_angstrom2 : shape (F,) or a scalar
        Accumulated at the middle of each frame or tilt.
    voltage_kv : acceleration voltage.

    Returns
    -------
    Shape (F, *frequency.shape)
        exp(−N / (2 Nc)), the optimal amplitude filter of Grant and Grigorieff; 1 at zero frequency.

    Raises
    ------
    InputError
        A negative exposure.
    """
    exposure = torch.as_tensor(exposure_e_per_angstrom2, dtype=frequency.dtype, device=frequency.device)
    if bool((exposure < 0).any()):
        raise InputError(f"An exposure must not be negative; got {exposure.min():g} e/Å².")
    exposure = exposure.reshape(*exposure.shape, *(1,) * frequency.dim())
    return torch.exp(-exposure / (2.0 * critical_exposure(frequency, voltage_kv)))
