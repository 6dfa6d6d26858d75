"""Weights of items and images: recovered where they are known, told by the other half alone."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesWeights
from halfmap.errors import InconsistentDataError
from halfmap.fourier import slices
from halfmap.multiparticle.estimate_weights import (
    CorrelationSums,
    correlation_sums,
    fit_weights,
    with_image_weights,
    with_series_weight,
    without_weights,
)
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.weight_params import WeightParams
from halfmap.splines.grids import SplineGrid
from support.series_scenes import scenes, species, tilt_series, volume

N_TILTS = 9
SCALE = np.array([0.4, 0.6, 0.9, 1.0, 0.5, 0.8, 0.7, 0.45, 0.55])
B_FACTOR = -np.array([250.0, 60, 180, 0, 120, 30, 220, 90, 150])


def references(first=None, second=None) -> ReferencePair:
    halves = [slices.prepare(half.values, half.grid, 2) for half in (first or volume(), second or volume())]
    return ReferencePair(halves=(halves[0], halves[1]), resolution_angstrom=8.5, signal=torch.ones(1))


def per_image(values) -> SplineGrid:
    return SplineGrid(values=torch.from_numpy(np.array(values, dtype=float)).reshape(-1, 1, 1))


@lru_cache(maxsize=1)
def sums_of_images() -> list[CorrelationSums]:
    found = scenes(
        3,
        noise=0.3,
        n_tilts=N_TILTS,
        tilt_angle_degrees=np.linspace(-32, 32, N_TILTS),
        dose_e_per_angstrom2=np.zeros(N_TILTS),
        weights=SeriesWeights(scale=per_image(SCALE), b_factor_angstrom2=per_image(B_FACTOR)),
    )
    return [correlation_sums(one.series, one.source, one.particles, species(), references()) for one in found]


def test_scale_and_b_factor_of_images_are_recovered():
    found = fit_weights([CorrelationSums.over_items(sums_of_images())], WeightParams(weight_coarsest_angstrom=40))
    assert found.scale.max() == 1
    assert found.b_factor_angstrom2.max() == 0
    differences = found.b_factor_angstrom2 - B_FACTOR
    # of 27 particles of 80 Å to 8.5 Å, at a ratio of signal to noise of about 0.1
    assert np.std(differences) < 50
    assert np.sqrt(np.mean((found.scale - SCALE) ** 2)) < 0.12


def test_items_and_images_together_are_recovered_more_coarsely():
    """Each unit has nine particles; what all items share still shows in their mean."""
    params = WeightParams(weight_coarsest_angstrom=40)
    found = [fit_weights([one], params) for one in sums_of_images()]
    mean = np.mean([one.scale for one in found], axis=0)
    assert np.corrcoef(mean, SCALE)[0, 1] > 0.9


def test_item_of_weaker_signal_counts_less():
    strong, *_ = sums_of_images()
    whole = strong.over_images()
    rho = whole.correlation()
    half = 0.5 * rho / np.sqrt(1 - rho**2)  # of the ratio of signal to noise
    weak = CorrelationSums(
        cross=half / np.sqrt(1 + half**2) * np.sqrt(whole.data * whole.model),
        data=whole.data,
        model=whole.model,
        count=whole.count,
        frequency=whole.frequency,
    )
    units = CorrelationSums(
        **{
            name: np.concatenate([getattr(whole, name), getattr(weak, name)])
            for name in ("cross", "data", "model", "count")
        },
        frequency=whole.frequency,
    )
    found = fit_weights([units], WeightParams(weight_coarsest_angstrom=40))
    assert found.scale[0] == 1
    assert found.scale[1] / found.scale[0] == pytest.approx(0.5, abs=0.05)
    assert np.abs(found.b_factor_angstrom2).max() < 25


def test_particles_are_told_by_the_other_half_alone():
    (one,) = scenes(1, noise=0.1, n_tilts=3)
    other = volume(seed=7)
    sums = correlation_sums(one.series, one.source, one.particles, species(), references(volume(), other))
    both = correlation_sums(one.series, one.source, one.particles, species(), references())
    halves = []
    for subset in (1, 2):
        mine = one.particles.take(one.particles.random_subset == subset)
        halves.append(correlation_sums(one.series, one.source, mine, species(), references(volume(), other)))
    assert np.allclose(sums.cross, halves[0].cross + halves[1].cross)
    # half-set 1 meets the other molecule, half-set 2 its own
    assert halves[0].correlation()[:, 5:12].mean() < 0.15
    assert halves[1].correlation()[:, 5:12].mean() > 0.9 * both.correlation()[:, 5:12].mean()


def test_units_without_particles_get_the_mean_of_the_others():
    total = CorrelationSums.over_items(sums_of_images())
    parts = {name: getattr(total, name).copy() for name in ("cross", "data", "model", "count")}
    for values in parts.values():
        values[4] = 0
    found = fit_weights(
        [CorrelationSums(**parts, frequency=total.frequency)], WeightParams(weight_coarsest_angstrom=40)
    )
    assert not found.is_seen[4]
    assert found.scale[4] == pytest.approx(found.scale[found.is_seen].mean())
    nothing = CorrelationSums(**{name: 0 * values for name, values in parts.items()}, frequency=total.frequency)
    with pytest.raises(InconsistentDataError, match="got none"):
        fit_weights([nothing], WeightParams())


def test_a_single_wild_bin_does_not_move_the_weights():
    total = CorrelationSums.over_items(sums_of_images())
    params = WeightParams(weight_coarsest_angstrom=40)
    wild = total.cross.copy()
    wild[2, 8] *= -3
    before = fit_weights([total], params)
    after = fit_weights(
        [CorrelationSums(cross=wild, data=total.data, model=total.model, count=total.count, frequency=total.frequency)],
        params,
    )
    assert np.abs(after.scale - before.scale).max() < 0.2


def test_items_with_unlike_numbers_of_images_share_no_images():
    one = sums_of_images()[0]
    with pytest.raises(InconsistentDataError, match="equally many; got 1, 9"):
        CorrelationSums.over_items([one, one.over_images()])


def test_weights_go_into_series_and_out_again():
    series = tilt_series(n_tilts=N_TILTS)
    found = fit_weights([sums_of_images()[0]], WeightParams(weight_coarsest_angstrom=40))
    weighted = with_series_weight(with_image_weights(series, found), 0.7, -20.0)
    assert weighted.weights.scale.values.flatten().tolist() == found.scale.tolist()
    assert (weighted.weights.series_scale, weighted.weights.series_b_factor_angstrom2) == (0.7, -20.0)
    assert without_weights(weighted).weights.scale.values.numel() == 1
