"""Sharpening: the Guinier plot, the B-factor, the detector's MTF, FSC weighting, the low-pass filter."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.postprocessing.params import SharpeningParams
from halfmap.tensors import VolumesRfft

FEWEST_FITTED_SHELLS = 8
"""Shells that a fit to the Guinier plot needs at least: of fewer, the fall at the end of the band makes the slope."""

_FIT_FROM_ANGSTROM, _FIT_FROM_RESOLUTIONS = 10.0, 1.5
_WEIGHTED_FROM_FSC = 1e-4
_LOWEST_MTF = 0.01  # what a detector does not transfer cannot be brought back


@dataclass(frozen=True, kw_only=True, eq=False)
class MtfCurve:
    """The modulation transfer function of a detector.

    Parameters
    ----------
    frequency_per_pixel : rising, 0.5 is the Nyquist frequency of the detector; float64, shape (n,).
    value : above 0, about 1 at frequency 0; float64, shape (n,).

    Raises
    ------
    InputError
        The curve has fewer than two points, its frequencies do not rise, or its values are no contrast.
    """

    frequency_per_pixel: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        frequency, value = self.frequency_per_pixel, self.value
        if frequency.ndim != 1 or frequency.shape != value.shape or len(frequency) < 2:
            raise InputError(
                f"An MTF must be a curve of at least two points; got shapes {tuple(frequency.shape)} and "
                f"{tuple(value.shape)}; name the detector's table."
            )
        if not bool((frequency.diff() > 0).all()) or float(frequency[0]) < 0:
            raise InputError("The frequencies of an MTF must rise from 0 on; got others; sort the table.")
        if not bool(((value >= 0) & (value <= 2)).all()):
            raise InputError(
                f"The values of an MTF must lie between 0 and 2, with 1 at frequency 0; got {float(value.min()):g} to "
                f"{float(value.max()):g}; name the detector's table."
            )

    def at(self, frequency_per_angstrom: Tensor, pixel_size_angstrom: float) -> Tensor:
        """Return the contrast at spatial frequencies in 1/Å, for a detector pixel of so many Å.

        Returns
        -------
        float64, shape of the frequencies; interpolated linearly, the last value beyond the curve, never below 0.01.
        """
        wanted = (frequency_per_angstrom * pixel_size_angstrom).cpu().numpy()
        found = np.interp(wanted, self.frequency_per_pixel.numpy(), self.value.numpy())
        return torch.from_numpy(found).to(frequency_per_angstrom.device).clamp_min(_LOWEST_MTF)


@dataclass(frozen=True, kw_only=True, eq=False)
class GuinierPlot:
    """Logarithms of mean amplitudes against the square of the spatial frequency, and the line fitted to them.

    Parameters
    ----------
    resolution_squared : 1/d², in 1/Å²; float64, shape (n_shells,).
    original, mtf_corrected, weighted, sharpened : ln of the mean amplitude in each shell at that stage; NaN where there
        is none; float64, shape (n_shells,). Stages follow in this order; one that was left out equals the one before.
    is_fitted : whether a shell took part in the fit; bool, shape (n_shells,).
    slope_angstrom2, intercept, correlation : of the fitted line; NaN where too few shells could be fitted.
    """

    resolution_squared: Tensor
    original: Tensor
    mtf_corrected: Tensor
    weighted: Tensor
    sharpened: Tensor
    is_fitted: Tensor
    slope_angstrom2: float
    intercept: float
    correlation: float

    @property
    def b_factor_angstrom2(self) -> float:
        """Four times the slope: with this B-factor the fitted line becomes flat. NaN where nothing was fitted."""
        return 4 * self.slope_angstrom2


@dataclass(frozen=True, kw_only=True, eq=False)
class SharpenedMap:
    """A sharpened map and how it was made.

    Parameters
    ----------
    volume : float32.
    guinier : amplitudes at each stage.
    b_factor_angstrom2 : that was used; 0 where none was given and none could be fitted.
    low_pass_angstrom : of the low-pass filter; None where there was none.
    """

    volume: Volume
    guinier: GuinierPlot
    b_factor_angstrom2: float
    low_pass_angstrom: float | None


def fsc_weight(curve: Tensor) -> Tensor:
    """Return the weight of each shell of a mean of two half maps.

    Parameters
    ----------
    curve : FSC of the halves, float64, shape (n_shells,).

    Returns
    -------
    float64, shape of ``curve``: √(2 FSC / (1 + FSC)), the expected correlation of the mean with the truth; 0 from the
    first shell on whose FSC is below 0.0001, as in RELION.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, equation 16.
    """
    positive = curve.clamp(0, 1)
    weight = torch.sqrt(2 * positive / (1 + positive))
    ended = (curve < _WEIGHTED_FROM_FSC).cumsum(0) > 0
    return torch.where(ended, torch.zeros_like(weight), weight)


def log_amplitudes(transform: VolumesRfft, grid: ImageGrid) -> Tensor:
    """Return ln of the mean amplitude in each shell, NaN where it is 0; float64, shape (n_shells,)."""
    return _log(shells.radial_mean(transform.abs(), grid))


def guinier_fit(
    resolution_squared: Tensor, log_amplitude: Tensor, *, from_angstrom: float, to_angstrom: float
) -> tuple[Tensor, float, float, float]:
    """Fit a line to ln of amplitudes against 1/d².

    Parameters
    ----------
    resolution_squared : 1/d² in 1/Å²; float64, shape (n_shells,).
    log_amplitude : float64, shape (n_shells,); what is not finite does not take part.
    from_angstrom, to_angstrom : lowest and highest resolution of the fit, both included.

    Returns
    -------
    is_fitted : bool, shape (n_shells,).
    slope_angstrom2, intercept, correlation : NaN where fewer than `FEWEST_FITTED_SHELLS` took part.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, after Guinier.
    """
    low, high = from_angstrom**-2 * (1 - 1e-9), to_angstrom**-2 * (1 + 1e-9)
    is_fitted = torch.isfinite(log_amplitude) & (resolution_squared >= low) & (resolution_squared <= high)
    if int(is_fitted.sum()) < FEWEST_FITTED_SHELLS:
        return torch.zeros_like(is_fitted), math.nan, math.nan, math.nan
    x, y = resolution_squared[is_fitted], log_amplitude[is_fitted]
    away_x, away_y = x - x.mean(), y - y.mean()
    slope = float((away_x * away_y).sum() / away_x.square().sum())
    spread = float(torch.sqrt(away_x.square().sum() * away_y.square().sum()))
    correlation = float((away_x * away_y).sum()) / spread if spread else 0.0
    return is_fitted, slope, float(y.mean() - slope * x.mean()), correlation


def sharpen(
    half1: Volume,
    half2: Volume,
    curve: Tensor,
    resolution_angstrom: float,
    params: SharpeningParams | None = None,
    *,
    mtf: MtfCurve | None = None,
) -> SharpenedMap:
    """Sharpen and weight the mean of two half maps.

    Parameters
    ----------
    half1, half2 : on one grid.
    curve : corrected FSC, float64, shape (n_shells,).
    resolution_angstrom : of the maps.
    mtf : of the detector; None leaves amplitudes as they are.

    Returns
    -------
    SharpenedMap

    Notes
    -----
    In RELION's order: mean, divided by the MTF, times `fsc_weight`, B-factor from the weighted amplitudes, times
    exp(−B s²/4), low-pass. Coefficients beyond the last shell become 0. The low-pass filter is applied where it is
    asked for, or at the resolution where there is no FSC weighting.
    """
    params = params or SharpeningParams()
    grid = half1.grid
    transform = grid.rfft((half1.values.double() + half2.values.double()) / 2)
    frequencies = shells.shell_frequencies(grid)
    resolution_squared = frequencies.square()

    amplitude = shells.radial_mean(transform.abs(), grid)
    weight = torch.ones_like(frequencies)
    original = _log(amplitude)
    if mtf is not None:
        weight = weight / mtf.at(frequencies, params.mtf_pixel_size_angstrom or grid.pixel_size_angstrom)
    mtf_corrected = _log(amplitude * weight)
    if params.fsc_weighting:
        weight = weight * fsc_weight(curve)
    weighted = _log(amplitude * weight)

    start = params.fit_from_angstrom or _FIT_FROM_ANGSTROM
    if params.fit_from_angstrom is None and math.isfinite(resolution_angstrom):
        start = max(start, _FIT_FROM_RESOLUTIONS * resolution_angstrom)
    end = params.fit_to_angstrom or 2 * grid.pixel_size_angstrom
    is_fitted, slope, intercept, correlation = guinier_fit(
        resolution_squared, weighted, from_angstrom=start, to_angstrom=end
    )
    b_factor = params.b_factor_angstrom2
    if b_factor is None:
        b_factor = 4 * slope if math.isfinite(slope) else 0.0
    low_pass = params.low_pass_angstrom
    if low_pass is None and not params.fsc_weighting and math.isfinite(resolution_angstrom):
        low_pass = resolution_angstrom

    multiplier = shells.spread(weight, grid) * filters.b_factor(grid, b_factor, dtype=torch.float64)
    if low_pass is not None:
        multiplier = multiplier * filters.low_pass(grid, low_pass, params.edge_width, dtype=torch.float64)
    transform = transform * multiplier
    return SharpenedMap(
        volume=Volume(values=grid.irfft(transform).float(), grid=grid),
        guinier=GuinierPlot(
            resolution_squared=resolution_squared,
            original=original,
            mtf_corrected=mtf_corrected,
            weighted=weighted,
            sharpened=log_amplitudes(transform, grid),
            is_fitted=is_fitted,
            slope_angstrom2=slope,
            intercept=intercept,
            correlation=correlation,
        ),
        b_factor_angstrom2=b_factor,
        low_pass_angstrom=low_pass,
    )


def _log(amplitude: Tensor) -> Tensor:
    return torch.where(amplitude > 0, amplitude.clamp_min(1e-300).log(), torch.full_like(amplitude, math.nan))
