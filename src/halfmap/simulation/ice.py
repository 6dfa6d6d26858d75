"""Grain of amorphous films and noise of the detector: what a micrograph shows where there is no particle."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.simulation.potential import ICE_MOLECULES_PER_ANGSTROM3, VOLT_ANGSTROM2

CARBON_ATOMS_PER_ANGSTROM3 = 0.1
"""Number density of amorphous carbon at 2.0 g/cm³."""

WATER_MOTION_ANGSTROM2_PER_DOSE = 1.0
"""Mean square displacement of a water molecule under the beam, in three dimensions, per e/Å²."""

ICE_ABSORPTION_LENGTH_ANGSTROM = 3500.0
"""Thickness of ice that lets 1/e of the electrons through into the image at 300 kV: those not scattered out of it."""

CARBON_ABSORPTION_LENGTH_ANGSTROM = 2200.0
"""The same for amorphous carbon."""

_FACTOR_OF_WATER_ANGSTROM = 3.04
_FACTOR_OF_CARBON_ANGSTROM = 2.51


def structure_factor(frequency_per_angstrom: Tensor) -> Tensor:
    """Return how strongly amorphous ice scatters at each frequency, relative to independent molecules.

    Notes
    -----
    0.06 at low frequency, where the compressibility of water rules, a maximum of 1.7 at 1/3.7 Å and 1 beyond:
    1 − 0.94 exp(−(s / 0.24)⁴) + 0.75 exp(−((s − 0.27) / 0.035)²), a sketch of the measured curve.
    """
    s = frequency_per_angstrom
    return 1 - 0.94 * torch.exp(-((s / 0.24) ** 4)) + 0.75 * torch.exp(-(((s - 0.27) / 0.035) ** 2))


def motion_damping(frequency_per_angstrom: Tensor, dose_e_per_angstrom2: float) -> Tensor:
    """Return what is left of the power of ice grain after its molecules have diffused during the exposure.

    Notes
    -----
    With a mean square displacement growing as D·dose along each axis, two moments a dose d apart
    correlate as exp(−2π² s² D d); averaged over all pairs of moments this gives 2 (x − 1 + e⁻ˣ) / x²,
    x = 2π² s² D · dose. Reference: McMullan, Vinothkumar, Henderson 2015, Ultramicroscopy 158 (about 1 Å
    root mean square for each e/Å²).
    """
    along_axis = WATER_MOTION_ANGSTROM2_PER_DOSE / 3
    x = (2 * math.pi**2 * along_axis * dose_e_per_angstrom2 * frequency_per_angstrom**2).clamp(min=1e-4)
    return 2 * (x - 1 + torch.exp(-x)) / x**2


def ice_grain_power(
    frequency_per_angstrom: Tensor,
    *,
    thickness_angstrom: float,
    dose_e_per_angstrom2: float,
    interaction_rad_per_volt_angstrom: float,
) -> Tensor:
    """Return the power spectral density of the phase that amorphous ice adds, in rad² Å².

    Parameters
    ----------
    frequency_per_angstrom : any shape.
    thickness_angstrom : of the ice.
    dose_e_per_angstrom2 : of the exposure, during which molecules move.
    interaction_rad_per_volt_angstrom : `references.interaction_constant_rad_per_volt_angstrom`.

    Notes
    -----
    Scatterers per area × (phase of one)² × structure factor × motion.
    """
    s = frequency_per_angstrom
    per_molecule = interaction_rad_per_volt_angstrom * VOLT_ANGSTROM2 * _FACTOR_OF_WATER_ANGSTROM
    shape = torch.exp(-((s / 0.45) ** 2))  # of the molecule's factor, squared
    areal = ICE_MOLECULES_PER_ANGSTROM3 * thickness_angstrom
    return areal * per_molecule**2 * shape * structure_factor(s) * motion_damping(s, dose_e_per_angstrom2)


def carbon_to_ice_grain(carbon_angstrom: float, ice_angstrom: float) -> float:
    """Return the ratio of the grain's amplitudes of a carbon film and of ice, at low frequency.

    Carbon does not move under the beam, and its structure factor is about 0.25 there.
    """
    carbon = CARBON_ATOMS_PER_ANGSTROM3 * carbon_angstrom * _FACTOR_OF_CARBON_ANGSTROM**2 * 0.25
    ice = ICE_MOLECULES_PER_ANGSTROM3 * ice_angstrom * _FACTOR_OF_WATER_ANGSTROM**2 * 0.06
    return math.sqrt(carbon / ice)


def detected_counts(expected: Tensor, *, seed: int, uid: int, dqe: float = 1.0) -> NDArray[np.float32]:
    """Draw the counts of a detector.

    Parameters
    ----------
    expected : shape (y, x), mean number of electrons in each pixel, not negative.
    seed, uid : key of the draw.
    dqe : below 1 the variance is that much larger than the mean, as if fewer electrons counted.

    Returns
    -------
    float32, shape (y, x): whole numbers with mean ``expected`` and variance ``expected / dqe``.

    Notes
    -----
    The normal approximation of Poisson's distribution with its skewness, λ + √λ z + (z² − 1)/6, rounded: mean,
    variance and third moment agree to a few per cent from about 4 electrons on.
    """
    z = torch.from_numpy(keyed_random.normal(seed, "shot noise", uid, size=tuple(expected.shape))).float()
    deviation = (expected / dqe).sqrt()
    counts = expected + deviation * z + (z * z - 1) * (1 / (6 * dqe))
    return counts.round_().clamp_(min=0.0).numpy()
