"""How far, and how surely, the rings of a power spectrum follow a fitted CTF."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.ctf_estimation.fit import N_BACKGROUND, N_ENVELOPE, Fit, Lens
from halfmap.ctf_estimation.rings import Microscope, Rings, polynomials
from halfmap.units import electron_wavelength_angstrom

CORRELATION_LIMIT = 0.5
"""Correlation of data and model at which rings count as lost, as in CTFFIND."""

_ANGSTROM_PER_MM = 1e7
_LEAST_BINS = 8
_LEAST_BINS_PER_RING = 2.5
_ICE_RING = (0.25, 0.28)
_BESIDE_ICE_RING = ((0.215, 0.24), (0.29, 0.315))


@dataclass(frozen=True, kw_only=True, eq=False)
class RingProfile:
    """A power spectrum averaged along lines of equal CTF phase.

    Parameters
    ----------
    s : float64, shape (n,): frequency, 1/Å, at which the mean defocus has the phase.
    data, model : flattened power and CTF² of the mean defocus, shape (n,).
    counts : pixels in each bin.
    """

    s: NDArray[np.float64]
    data: NDArray[np.float64]
    model: NDArray[np.float64]
    counts: NDArray[np.float64]


def ring_profile(rings: Rings, microscope: Microscope, lens: Lens, *, step: float) -> RingProfile:
    """Average a power spectrum along lines of equal phase, so that astigmatism blurs nothing.

    Parameters
    ----------
    rings : of one image.
    microscope, lens : its CTF.
    step : width of the bins, 1/Å.
    """
    k1, k2, constant = _radial_phase(microscope, lens)
    s = mean_defocus_frequency(rings.frequencies, microscope, lens, rings.offset_angstrom).flatten()
    low, high = rings.limits
    n = int((high - low) / step)
    bins = torch.floor((s - low) / step).long()
    inside = (bins >= 0) & (bins < n)
    counts = torch.bincount(bins[inside], minlength=n).double()
    sums = torch.bincount(bins[inside], weights=rings.values.flatten()[inside], minlength=n)
    model = _radial_ctf_squared(k1, k2, constant, low + (torch.arange(n, dtype=torch.float64) + 0.5) * step)
    full = counts > 0
    middles = low + (torch.arange(n, dtype=torch.float64) + 0.5) * step
    return RingProfile(
        s=middles[full].numpy(),
        data=(sums[full] / counts[full]).numpy(),
        model=model[full].numpy(),
        counts=counts[full].numpy(),
    )


def mean_defocus_frequency(frequencies: Tensor, microscope: Microscope, lens: Lens, offset_angstrom: Tensor) -> Tensor:
    """Return at which frequency the mean defocus has the phase that the lens has at each, 1/Å, shape (k, p).

    Parameters
    ----------
    frequencies : shape (p, 2).
    microscope, lens : the CTF.
    offset_angstrom : shape (k,), added to the defocus.
    """
    k1, k2, constant = _radial_phase(microscope, lens)
    phase = constant - lens.gamma(frequencies, microscope, offset_angstrom)  # grows with s
    root = (k1 * k1 - 4 * k2 * phase).clamp(min=0).sqrt()
    return (2 * phase / (k1 + root)).clamp(min=0).sqrt()  # the smaller solution, without cancellation


def rings_alone(profile: RingProfile, limits: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a profile less its background, and the model of its rings, both as parts of the rings' height.

    Parameters
    ----------
    profile : of a fitted CTF.
    limits : lowest and highest frequency that were fitted, 1/Å; the model is NaN outside them.

    Returns
    -------
    data, model : shape (n,). The height is that which nineteen in twenty points of the model stay below.
    """
    inside = (profile.s >= limits[0]) & (profile.s <= limits[1])
    s = torch.from_numpy(profile.s[inside])
    background = polynomials(s, limits, N_BACKGROUND).numpy()
    strength = polynomials(s, limits, N_ENVELOPE).numpy() * profile.model[inside, None]
    columns = np.concatenate([background, strength], axis=1)
    root = np.sqrt(profile.counts[inside])
    solved = np.linalg.lstsq(columns * root[:, None], profile.data[inside] * root, rcond=None)[0]
    model = np.full(len(profile.s), np.nan)
    model[inside] = strength @ solved[N_BACKGROUND:]
    level = np.interp(profile.s, profile.s[inside], background @ solved[:N_BACKGROUND])
    height = max(float(np.quantile(model[inside], 0.95)), np.finfo(np.float32).tiny)
    return (profile.data - level) / height, model / height


def fit_resolution(profile: RingProfile, microscope: Microscope, lens: Lens) -> tuple[float, NDArray[np.float64]]:
    """Return to what resolution rings follow the model, in Å, and the correlation about each bin.

    The correlation is that of data and model in a window of one and a half rings, 17 bins or more, both freed of a
    straight line. The resolution is where it first falls below a half; infinite where it never rises above; the
    correlation ends where rings become too narrow for the bins.
    """
    wavelength = electron_wavelength_angstrom(microscope.voltage_kv)
    step = profile.s[1] - profile.s[0]
    correlation = np.full(len(profile.s), np.nan)
    for index, s in enumerate(profile.s):
        bins_per_ring = 1 / (2 * wavelength * abs(lens.defocus_angstrom) * s * step)
        if bins_per_ring < _LEAST_BINS_PER_RING:
            break
        half = max(_LEAST_BINS, math.ceil(0.75 * bins_per_ring))
        window = slice(max(index - half, 0), index + half + 1)
        correlation[index] = _correlation(
            _detrended(profile.data[window]), _detrended(profile.model[window]), profile.counts[window]
        )
    above = np.flatnonzero(correlation > CORRELATION_LIMIT)
    if not len(above):
        return math.inf, correlation
    lost = np.flatnonzero(~(correlation[above[0] :] > CORRELATION_LIMIT))
    last = above[0] + lost[0] - 1 if len(lost) else len(profile.s) - 1
    return 1 / float(profile.s[last]), correlation


def predicted_correlation(fitted: Fit, other: Rings, microscope: Microscope, *, step: float) -> float:
    """Return how well a fit predicts rings that it has not seen: their correlation along the profile.

    Parameters
    ----------
    fitted : to one half of the directions.
    other : the other half.
    microscope, step : as of `ring_profile`.
    """
    profile = ring_profile(other, microscope, fitted.lens, step=step)
    background, strength = _isotropic(fitted, profile, other.limits)
    rest = profile.data - background - strength / 2
    return _correlation(rest, strength * (profile.model - 0.5), profile.counts)


def lens_agreement(first: Lens, second: Lens, microscope: Microscope, limits: tuple[float, float]) -> float:
    """Return the correlation of two lenses' CTF² over the frequencies that are fitted."""
    s = torch.linspace(*limits, 512, dtype=torch.float64)
    curves = [_radial_ctf_squared(*_radial_phase(microscope, lens), s).numpy() for lens in (first, second)]
    return float(np.corrcoef(curves)[0, 1])


def ice_ring_density(rings: Rings) -> float:
    """Return by how much the power between 4.0 and 3.6 Å exceeds that beside it; NaN where the pixels are too large.

    Crystalline ice diffracts there; the measure's range is RELION's.
    """
    s = rings.s
    if rings.limits[1] < _BESIDE_ICE_RING[1][0] + 0.005:
        return math.nan
    values = rings.values.mean(dim=0)
    ring = values[(s >= _ICE_RING[0]) & (s <= _ICE_RING[1])].mean()
    beside = torch.cat([values[(s >= low) & (s <= high)] for low, high in _BESIDE_ICE_RING]).mean()
    return float(ring / beside) - 1


def ring_depth(fitted: Fit, rings: Rings) -> float:
    """Return the height of the rings over the background, median over the frequencies that are fitted."""
    return float((fitted.strength_at(rings) / fitted.background_at(rings).clamp(min=1e-6)).median())


def _isotropic(
    fitted: Fit, profile: RingProfile, limits: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return background and strength of a fit along a profile, without what depends on the direction."""
    s = torch.from_numpy(profile.s).clamp(*limits)
    background = polynomials(s, limits, len(fitted.background) - 2) @ fitted.background[:-2]
    strength = polynomials(s, limits, len(fitted.strength)) @ fitted.strength
    return background.numpy(), strength.numpy()


def _radial_phase(microscope: Microscope, lens: Lens) -> tuple[float, float, float]:
    """Return k₁, k₂ and c of γ = c − k₁ q + k₂ q², q = s², at the mean defocus."""
    wavelength = electron_wavelength_angstrom(microscope.voltage_kv)
    cs = microscope.spherical_aberration_mm * _ANGSTROM_PER_MM
    constant = -math.radians(lens.phase_shift_degrees) - math.asin(microscope.amplitude_contrast)
    return math.pi * wavelength * lens.defocus_angstrom, math.pi / 2 * cs * wavelength**3, constant


def _radial_ctf_squared(k1: float, k2: float, constant: float, s: Tensor) -> Tensor:
    q = s * s
    return (constant - k1 * q + k2 * q * q).sin().square()


def _detrended(values: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean()
    flat: NDArray[np.float64] = centred - x * (x @ centred) / (x @ x)
    return flat


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    w = weights / weights.sum()
    a, b = a - w @ a, b - w @ b
    norm = math.sqrt((w @ (a * a)) * (w @ (b * b)))
    return float(w @ (a * b)) / norm if norm > 0 else 0.0
