"""Filters of template matching: curves over the spatial frequency, and micrographs made ready by them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.template_matching.aberrations import Aberrations
from halfmap.template_matching.params import FilterParams

ROUNDING = 1e-6
"""Contrast, relative to the largest value, that float32 leaves of nothing."""

CORNER = math.sqrt(0.5)
"""Frequency of the corner of a transform, in cycles per pixel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterCurves:
    """The filters of a micrograph, as functions of the frequency.

    Parameters
    ----------
    whitening : float64, shape (n,), at n equal steps from 0 to the corner, linear between them.
    params : the other filters.
    """

    whitening: Tensor
    params: FilterParams

    def whitening_at(self, frequency: Tensor) -> Tensor:
        """Return what whitening multiplies by.

        Parameters
        ----------
        frequency : in cycles per pixel, any shape.
        """
        steps = len(self.whitening) - 1
        place = (frequency.to(torch.float64) * (steps / CORNER)).clamp(0, steps)
        below = place.floor().clamp(max=steps - 1).to(torch.int64)
        fraction = place - below
        curve = self.whitening.to(frequency.device)
        return curve[below] * (1 - fraction) + curve[below + 1] * fraction

    def other_at(self, frequency: Tensor) -> Tensor:
        """Return what the pass band and the filter of one's own multiply by; parameters as of `whitening_at`."""
        return bandpass(frequency, self.params) * own_curve(frequency, self.params)

    def at(self, frequency: Tensor) -> Tensor:
        """Return what all filters together multiply by; parameters as of `whitening_at`."""
        return self.whitening_at(frequency) * self.other_at(frequency)


@dataclass(frozen=True, kw_only=True, eq=False)
class FilteredMicrograph:
    """A micrograph in which templates can be looked for.

    Parameters
    ----------
    values : float32, shape (y, x), particles bright. Without other filters than whitening the noise is white with
        variance 1 in each pixel, as far as it lies within the whitened frequencies.
    curves : the filters, which a template needs too.
    root_mean_square : of the values, all frequencies together.
    """

    values: Tensor
    curves: FilterCurves
    root_mean_square: float


def bandpass(frequency: Tensor, params: FilterParams) -> Tensor:
    """Return the pass band: 1 inside, a quarter of a cosine outside.

    Parameters
    ----------
    frequency : in cycles per pixel, any shape.
    """
    low = params.bandpass_low or 0.0
    high = CORNER + 1 if params.bandpass_high is None else params.bandpass_high
    distance = torch.maximum(low - frequency, frequency - high).clamp(min=0).to(torch.float64)
    if not params.bandpass_falloff:
        return (distance == 0).to(torch.float64)
    return torch.cos(math.pi / 2 * (distance / params.bandpass_falloff).clamp(max=1))


def own_curve(frequency: Tensor, params: FilterParams) -> Tensor:
    """Return the user's own filter: linear between the frequencies given, 1 outside them.

    Parameters
    ----------
    frequency : in cycles per pixel, any shape.
    """
    x = torch.tensor(params.filter_frequencies, dtype=torch.float64, device=frequency.device)
    y = torch.tensor(params.filter_amplitudes, dtype=torch.float64, device=frequency.device)
    if len(x) == 0:
        return torch.ones_like(frequency, dtype=torch.float64)
    inside = (frequency >= x[0]) & (frequency <= x[-1])
    if len(x) == 1:
        return torch.where(inside, y[0], 1.0)
    after = torch.searchsorted(x, frequency.to(torch.float64).contiguous()).clamp(1, len(x) - 1)
    fraction = (frequency - x[after - 1]) / (x[after] - x[after - 1])
    return torch.where(inside, y[after - 1] + fraction * (y[after] - y[after - 1]), 1.0)


def whitening_curve(
    transform: Tensor, shape: tuple[int, int], params: FilterParams, *, as_leopard: bool = False
) -> Tensor:
    """Measure the curve that makes the noise of a micrograph white.

    Parameters
    ----------
    transform : half transform of the micrograph, any scale; its value at zero frequency is left out.
    shape : of the micrograph, (y, x).
    params : the settings.
    as_leopard : count the value at zero frequency, and go to 1 beyond the whitened frequencies, as Leopard-EM does.

    Returns
    -------
    float64, shape (n,): `FilterCurves.whitening`; 1 at most within the whitened frequencies, constant beyond them.

    Notes
    -----
    The spectrum is a mean over each ring; every coefficient is shared between the two nearest rings by its distance.

    References
    ----------
    The whitening filter of Leopard-EM 1.2.
    """
    n = params.whitening_bins or int((max(shape[0], shape[1] // 2 + 1) // 2 + 1) * math.sqrt(2) + 1)
    if not params.whitening:
        return torch.ones(n, dtype=torch.float64)
    frequency = frequencies(shape, device=transform.device)
    strength = transform.abs().to(torch.float64)
    strength = strength.clone() if params.whiten_by_amplitude else strength.square()
    strength[0, 0] = 0.0
    place = frequency * ((n - 1) / CORNER)
    below = place.floor().clamp(max=n - 2).to(torch.int64)
    fraction = place - below
    sums = torch.zeros((2, n), dtype=torch.float64, device=transform.device)
    counted = torch.ones_like(fraction)
    counted[0, 0] = float(as_leopard)
    for ring, weight in ((below, (1 - fraction) * counted), (below + 1, fraction * counted)):
        sums[0].index_add_(0, ring.flatten(), (strength * weight).flatten())
        sums[1].index_add_(0, ring.flatten(), weight.flatten())
    mean = (sums[0] / sums[1].clamp(min=1e-12)).cpu()
    amplitude = mean if params.whiten_by_amplitude else mean.sqrt()
    curve = torch.where(amplitude > 0, 1 / amplitude.clamp(min=1e-300), 0.0)
    ring_frequency = torch.arange(n, dtype=torch.float64) * (CORNER / (n - 1))
    limit = CORNER if params.whitening_max_frequency is None else params.whitening_max_frequency
    inside = ring_frequency <= limit
    if not bool((curve[inside] > 0).any()):
        raise InputError("A micrograph must have some contrast to be whitened; got a constant one; leave it out.")
    # beyond the limit as at it: a step there would colour the noise of the last ring
    highest = curve[inside].max()
    return torch.where(inside, curve, highest if as_leopard else curve[inside][-1]) / highest


class OddPhases(NamedTuple):
    """Odd aberrations of which a micrograph is freed.

    Attributes
    ----------
    aberrations : of its optics group.
    pixel_size_angstrom : of the micrograph.
    """

    aberrations: Aberrations
    pixel_size_angstrom: float


def filter_micrograph(
    micrograph: Tensor,
    params: FilterParams,
    *,
    seed: int = 1,
    key: int = 0,
    as_leopard: bool = False,
    odd: OddPhases | None = None,
) -> FilteredMicrograph:
    """Whiten and filter a micrograph, and bring it onto the scale of its noise.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark.
    params : the settings.
    seed, key : of random phases, where they are asked for; the key tells micrographs apart.
    as_leopard : as of `whitening_curve`.
    odd : odd aberrations that are taken off the phases, so that projections need none.

    Raises
    ------
    ShapeError
        It is no image.
    InputError
        It has no contrast, or the filters leave none.

    Notes
    -----
    The scale is that of the whitened micrograph before any other filter: coefficients up to the Nyquist frequency
    have a mean power of 1 for each pixel. So with template P the score Σ values · P / |P| of pure noise has a
    standard deviation of 1, whatever the sides of the micrograph.
    """
    if micrograph.dim() != 2 or min(micrograph.shape) < 4:
        raise ShapeError(f"A micrograph must have two sides of at least 4 px; got shape {tuple(micrograph.shape)}.")
    shape = (micrograph.shape[0], micrograph.shape[1])
    if float(micrograph.max() - micrograph.min()) <= ROUNDING * float(micrograph.abs().max()):
        raise InputError("A micrograph must have some contrast to be whitened; got a constant one; leave it out.")
    transform = torch.fft.rfft2(-micrograph.to(torch.float32), norm="ortho")
    transform[0, 0] = 0
    frequency = frequencies(shape, device=micrograph.device)
    curves = FilterCurves(whitening=whitening_curve(transform, shape, params, as_leopard=as_leopard), params=params)
    transform = transform * curves.whitening_at(frequency).to(torch.float32)
    inside = (frequency <= 0.5) & (frequency > 0)
    power = transform.abs().square().to(torch.float64)
    transform = transform * (float((power * inside).sum() / inside.sum()) ** -0.5)
    transform = transform * curves.other_at(frequency).to(torch.float32)
    if odd is not None and odd.aberrations.is_odd:
        transform = transform * _undone(odd, shape).to(transform.device)
    if params.randomise_phases_from is not None:
        transform = _with_random_phases(transform, frequency, shape, params.randomise_phases_from, seed, key)
    if not bool(transform.any()):
        raise InputError(
            "The filters must let some frequencies of a micrograph pass; got none that pass; widen the pass band, "
            "which is in cycles per pixel."
        )
    values = torch.fft.irfft2(transform, s=shape, norm="ortho")
    return FilteredMicrograph(
        values=values, curves=curves, root_mean_square=float(values.to(torch.float64).square().mean().sqrt())
    )


def frequencies(shape: tuple[int, int], *, device: torch.device | str = "cpu") -> Tensor:
    """Return the frequency of each coefficient of a half transform, in cycles per pixel, shape (y, x // 2 + 1)."""
    y = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)
    x = torch.fft.rfftfreq(shape[1], dtype=torch.float64, device=device)
    return (y[:, None].square() + x.square()).sqrt()


def _undone(odd: OddPhases, shape: tuple[int, int]) -> Tensor:
    """Return the factors that undo odd aberrations, complex64, shape (y, x // 2 + 1)."""
    y = torch.fft.fftfreq(shape[0], d=odd.pixel_size_angstrom, dtype=torch.float64)
    x = torch.fft.rfftfreq(shape[1], d=odd.pixel_size_angstrom, dtype=torch.float64)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    phase = odd.aberrations.odd_phase(torch.stack([columns, rows], dim=-1))
    return torch.polar(torch.ones((), dtype=torch.float64), -phase).to(torch.complex64)


def _with_random_phases(
    transform: Tensor, frequency: Tensor, shape: tuple[int, int], limit: float, seed: int, key: int
) -> Tensor:
    """Turn the phases beyond a frequency, those of white noise in place of them: a real image stays real."""
    noise = keyed_random.normal(seed, "template matching: phases", key, size=shape)
    phases = torch.fft.rfft2(torch.from_numpy(noise).to(transform.device, torch.float32))
    return torch.where(frequency > limit, transform.abs() * phases / phases.abs().clamp(min=1e-20), transform)
