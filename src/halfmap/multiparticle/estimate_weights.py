"""How much items and images count: scale and B-factor from the agreement of particles with the other half's map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.half_sets import HALVES
from halfmap.data.image_series import ImageSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.errors import InconsistentDataError
from halfmap.fourier import slices
from halfmap.multiparticle.particle_windows import particle_windows
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.weight_params import WeightParams
from halfmap.splines.grids import SplineGrid

Series = TypeVar("Series", bound=ImageSeries)

_EPOCHS = 8
_ROBUST_DEVIATIONS = 2.0
"""Residuals beyond this many deviations count by their size, not its square."""

_MOST_CORRELATED = 0.99

_BEST = 0.9
"""Quantile of units that counts as the best: of many, the very best is so by accident."""

_EXPONENT_RANGE = (-16.0, 8.0)
"""Of B s²/4 at the finest frequency, for a first look."""

_STEPS, _REFINEMENTS = 97, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrelationSums:
    """How particles agree with the map that they had no part in, by image and frequency.

    Parameters
    ----------
    cross, data, model, count : float64, (T, n): Σ Re x m*, |x|², |m|² and number of real components, of data x and the
        CTF times projections m.
    frequency : float64, (n,), of the bins in 1/Å.
    """

    cross: NDArray[np.float64]
    data: NDArray[np.float64]
    model: NDArray[np.float64]
    count: NDArray[np.float64]
    frequency: NDArray[np.float64]

    def correlation(self) -> NDArray[np.float64]:
        """Return the normalised correlation, (T, n); 0 where there is nothing."""
        power = np.sqrt(self.data * self.model)
        return np.divide(self.cross, power, out=np.zeros_like(self.cross), where=power > 0)

    def over_images(self) -> "CorrelationSums":
        """Return the sums over all images, as one, (1, n)."""
        return self._with(self._parts().sum(1, keepdims=True))

    @staticmethod
    def over_items(items: Sequence["CorrelationSums"]) -> "CorrelationSums":
        """Return the sums over items, image by image.

        Raises
        ------
        InconsistentDataError
            Items have unlike numbers of images.
        """
        sizes = sorted({len(item.cross) for item in items})
        if len(sizes) != 1:
            raise InconsistentDataError(
                f"Items whose images share weights must have equally many; got {', '.join(map(str, sizes))}; resolve "
                "items and images instead."
            )
        first, *others = (item._parts() for item in items)
        return items[0]._with(sum(others, start=first))

    @staticmethod
    def one_after_another(items: Sequence["CorrelationSums"]) -> "CorrelationSums":
        """Return the images of all items in one table, those of the first item first."""
        return items[0]._with(np.concatenate([item._parts() for item in items], axis=1))

    def _parts(self) -> NDArray[np.float64]:
        return np.stack([self.cross, self.data, self.model, self.count])

    def _with(self, parts: NDArray[np.float64]) -> "CorrelationSums":
        cross, data, model, count = parts
        return replace(self, cross=cross, data=data, model=model, count=count)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedWeights:
    """Weights of units, the best tenth of them 1, or with a B-factor of 0.

    Parameters
    ----------
    scale : float64, (U,), at most 1.
    b_factor_angstrom2 : float64, (U,), at most 0.
    is_seen : (U,), whether there was anything to tell; others have the mean of those that are.
    """

    scale: NDArray[np.float64]
    b_factor_angstrom2: NDArray[np.float64]
    is_seen: NDArray[np.bool_]


def correlation_sums(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    references: ReferencePair,
) -> CorrelationSums:
    """Correlate particles with projections of the map of the other half-set.

    Parameters
    ----------
    series, source, particles, species : as for `halfmap.multiparticle.reconstruction.accumulate`.
    references : half-maps; particles of half-set 1 are compared with the second.

    Notes
    -----
    Cross-validated, as in M: the noise of a particle is no part of the map that it is compared with.
    """
    side_angstrom = species.box_pixel * species.pixel_size_angstrom
    n = species.box_pixel // 2
    sums = torch.zeros((4, len(series), n), dtype=torch.float64)
    subset = torch.tensor(particles.random_subset)
    for cut in particle_windows(series, source, particles, species, references.resolution_angstrom):
        band = cut.window.band
        place = (band.frequencies.norm(dim=-1) * side_angstrom).round().long().clamp(max=n - 1)
        for half, other in zip(HALVES, reversed(references.halves), strict=True):
            mine = subset[cut.rows] == half
            if not bool(mine.any()):
                continue
            values = cut.values[mine]
            model = slices.extract(other, cut.rotation[mine], band) * cut.ctf[mine]
            rows = torch.stack(
                [
                    (values * model.conj()).real.sum(0),
                    values.abs().square().sum(0),
                    model.abs().square().sum(0),
                    torch.full((len(band),), 2.0 * len(values)),
                ]
            )
            sums[:, cut.image].index_add_(1, place, rows.double())
    cross, data, model_power, count = sums.numpy()
    frequency = np.arange(n) / side_angstrom
    return CorrelationSums(cross=cross, data=data, model=model_power, count=count, frequency=frequency)


def fit_weights(species_sums: Sequence[CorrelationSums], params: WeightParams) -> FittedWeights:
    """Fit scale and B-factor of each unit.

    Parameters
    ----------
    species_sums : of each species, rows are units; all species have the same units.
    params : the settings.

    Raises
    ------
    InconsistentDataError
        No unit has anything to tell.

    Notes
    -----
    A correlation ρ stands for a ratio of signal to noise in amplitude, ρ/√(1 − ρ²); that of unit u is taken to be
    scale_u exp(B_u s²/4) times a curve that all units share and that is fitted in turn. Over c real components it
    varies by 1/√(c (1 − ρ²)); deviations larger than two of these count by their size (Huber). M fits the correlation
    itself, which is the same where it is small, by absolute deviations without regard to errors, has no priors, and
    takes the very best unit for 1.
    """
    correlation, count, frequency = (
        np.concatenate(columns, -1)
        for columns in zip(*((one.correlation(), one.count, one.frequency) for one in species_sums), strict=True)
    )
    used = (frequency >= 1 / params.weight_coarsest_angstrom) & (count.sum(0) > 0)
    is_seen = count[:, used].sum(1) > 0
    if not is_seen.any():
        raise InconsistentDataError(
            "Weights need particles that agree with maps beyond "
            f"{params.weight_coarsest_angstrom:g} Å; got none; give maps of better resolution, or a coarser limit."
        )
    correlation, count = correlation[is_seen][:, used], count[is_seen][:, used]
    noise = 1 - np.minimum(correlation**2, _MOST_CORRELATED**2)
    values, counts = torch.from_numpy(correlation / np.sqrt(noise)), torch.from_numpy(count * noise)
    scale, b_factor = _fit(values, counts, torch.from_numpy(frequency[used].copy()).square() / 4, params)
    scale, b_factor = scale / scale.quantile(_BEST), b_factor - b_factor.quantile(_BEST)
    every_scale, every_b = np.empty(len(is_seen)), np.empty(len(is_seen))
    for every, found in ((every_scale, scale.clamp(max=1)), (every_b, b_factor.clamp(max=0))):
        every[is_seen] = found.numpy()
        every[~is_seen] = float(found.mean())
    return FittedWeights(scale=every_scale, b_factor_angstrom2=every_b, is_seen=is_seen)


def with_image_weights(series: Series, weights: FittedWeights) -> Series:
    """Return a series whose images have weights of their own, one unit for each."""
    scale, b_factor = (
        SplineGrid(values=torch.from_numpy(values.copy()).reshape(-1, 1, 1))
        for values in (weights.scale, weights.b_factor_angstrom2)
    )
    return series.with_values(weights=replace(series.weights, scale=scale, b_factor_angstrom2=b_factor))


def with_series_weight(series: Series, scale: float, b_factor_angstrom2: float) -> Series:
    """Return a series that counts as a whole."""
    return series.with_values(
        weights=replace(series.weights, series_scale=scale, series_b_factor_angstrom2=b_factor_angstrom2)
    )


def without_weights(series: Series) -> Series:
    """Return a series whose images count as they do before any estimate."""
    return series.with_values(weights=type(series.weights)())


def _fit(values: Tensor, counts: Tensor, quarter: Tensor, params: WeightParams) -> tuple[Tensor, Tensor]:
    """Return scale and B of units, (U,), from correlations (U, n); `quarter` is s²/4."""
    n_units = len(values)
    scale, b_factor = torch.ones(n_units, dtype=torch.float64), torch.zeros(n_units, dtype=torch.float64)
    robust = counts.clone()
    for _ in range(_EPOCHS):
        fading = scale[:, None] * torch.exp(b_factor[:, None] * quarter)
        shared = (robust * values * fading).sum(0) / (robust * fading.square()).sum(0).clamp(min=1e-300)
        deviation = (values - fading * shared).abs() * counts.sqrt()
        robust = counts * (_ROBUST_DEVIATIONS / deviation.clamp(min=_ROBUST_DEVIATIONS))
        scale, b_factor = _units(values, robust, shared, quarter, params)
        # what all have in common is the shared curve's
        scale, b_factor = scale / scale.mean(), b_factor - b_factor.mean()
    return scale, b_factor


def _units(
    values: Tensor, weights: Tensor, shared: Tensor, quarter: Tensor, params: WeightParams
) -> tuple[Tensor, Tensor]:
    """Return the best scale and B of each unit by looking at ever finer steps of B."""
    low, high = (end / float(quarter.max()) for end in _EXPONENT_RANGE)
    middle, width = torch.full((len(values),), (low + high) / 2, dtype=torch.float64), (high - low) / 2
    prior_scale, prior_b = 1 / params.scale_spread**2, 1 / params.b_factor_spread_angstrom2**2
    scale = torch.ones_like(middle)
    for _ in range(_REFINEMENTS):
        candidates = middle[:, None] + torch.linspace(-width, width, _STEPS, dtype=torch.float64)
        best = torch.full_like(middle, torch.inf)
        for b in candidates.T:
            model = shared * torch.exp(b[:, None] * quarter)
            fitted = ((weights * values * model).sum(1) + prior_scale) / (
                (weights * model.square()).sum(1) + prior_scale
            )
            fitted = fitted.clamp(min=1e-3)
            cost = (weights * (values - fitted[:, None] * model).square()).sum(1)
            cost = cost + prior_scale * (fitted - 1).square() + prior_b * b.square()
            better = cost < best
            best = torch.where(better, cost, best)
            middle, scale = torch.where(better, b, middle), torch.where(better, fitted, scale)
        width = 2 * width / (_STEPS - 1)
    return scale, middle
