"""Optics of a whole source: exact where all is linear, and better than any single series can tell."""

import dataclasses

import numpy as np
import pytest
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.multiparticle import solve
from halfmap.multiparticle.normal_equations import minimum
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.shared_optics import (
    changed_optics,
    choice_of_optics,
    mean_optics,
    optics_quadratic,
    together,
    with_optics,
    without_optics,
)
from support.tilt_windows import scene, tilt_series

N_SERIES = 8
MAGNIFICATION = np.array([[1.01, 0.004], [0.004, 0.99]])
CHOICE = ParameterChoice(positions=True, angles=True, image_warp="1x1", magnification=True)


@pytest.fixture(scope="module")
def fits():
    optics = SeriesOptics(pixel_size_angstrom=4.0, magnification=MAGNIFICATION)
    schedule = Schedule(sub_iterations=2, first_fraction=1.0, steps=2)
    drawn = [
        scene(n=6, n_tilts=5, snr=0.3, turn=1.0, move=1.0, seed=seed, true_series=tilt_series(5, optics=optics))
        for seed in range(1, N_SERIES + 1)
    ]
    return [one.fit(CHOICE, schedule) for one in drawn]


@pytest.fixture(scope="module")
def quadratics(fits):
    return [optics_quadratic(fit) for fit in fits]


def test_optics_of_many_series_are_known_better_than_those_of_each(quadratics):
    shared, true = together(quadratics), (MAGNIFICATION - np.eye(2)).ravel()
    # priors of 0.02 add next to nothing to error bars of 0.004 to 0.007
    ratio = shared.deviation / shared.deviation_of_one
    np.testing.assert_allclose(ratio, N_SERIES**-0.5, rtol=0.15)
    assert (np.abs(shared.change - true) < 3 * shared.deviation).all()
    # a turn of all frequencies is nearly one of the particles, so only the symmetric part is told well
    own = np.sqrt(np.mean([_stretch(one.change - true) ** 2 for one in quadratics], axis=0))
    assert np.linalg.norm(_stretch(shared.change - true)) < 0.6 * np.linalg.norm(own)
    assert shared.n_series == N_SERIES
    assert 0.5 < shared.disagreement < 1.6  # χ² of 28 degrees of freedom divided by them: 1 ± 0.27


def _stretch(magnification):
    return np.array([magnification[0], magnification[3], (magnification[1] + magnification[2]) / 2])


def test_series_of_other_optics_disagree(quadratics):
    odd = dataclasses.replace(quadratics[0], change=quadratics[0].change + 0.05)
    assert together([odd, *quadratics[1:]]).disagreement > 3


def test_a_single_series_keeps_its_own_optics(fits, quadratics):
    visited, prior = fits[0].visited, fits[0].comparison.prior
    whole = solve.with_prior(visited.equations, prior, visited.parameters.shared, visited.parameters.own)
    layout = fits[0].comparison.layouts[0]
    mine = [number for number, name in enumerate(layout.names) if name.startswith("magnification")]
    expected = (visited.parameters.shared + minimum(whole)[0])[mine].numpy()
    shared = together(quadratics[:1])
    np.testing.assert_allclose(shared.change, expected, atol=1e-9)
    posterior = solve.posterior(visited.equations, prior)
    np.testing.assert_allclose(shared.deviation, posterior.shared_deviation[mine], rtol=1e-6)
    assert np.isnan(shared.disagreement)


def test_a_fit_without_optics_says_nothing_of_them(fits):
    nothing = scene(n=3, n_tilts=3, box=24, snr=0.5, turn=1.0, move=1.0).fit(
        ParameterChoice(positions=True), Schedule(sub_iterations=1, steps=1)
    )
    assert optics_quadratic(nothing) is None


def test_only_what_one_microscope_has_is_shared():
    choice = ParameterChoice(defocus=True, spherical_aberration=True, magnification=True, odd_zernike_order=3)
    tilts = tilt_series(3)
    frames = FrameSeries(
        name="movie",
        image_size_angstrom=(1000.0, 1000.0),
        dose_e_per_angstrom2=np.arange(3.0),
        is_used=np.ones(3, dtype=bool),
        optics=tilts.optics,
    )
    assert choice_of_optics(choice, tilts) == dataclasses.replace(choice, defocus=False)
    assert without_optics(choice, tilts) == ParameterChoice(defocus=True)
    # of frame series it varies over the image
    assert without_optics(choice, frames) == ParameterChoice(defocus=True, spherical_aberration=True)


def test_series_begin_at_the_mean_of_their_optics_and_end_with_the_same():
    choice = ParameterChoice(magnification=True, spherical_aberration=True, image_warp="2x2")
    one = with_optics(tilt_series(3), {"spherical_aberration_mm": 2.6})
    other = with_optics(tilt_series(3), {"magnification": MAGNIFICATION})
    start = mean_optics([one, other], choice)
    assert start["spherical_aberration_mm"] == pytest.approx(2.65)
    np.testing.assert_allclose(start["magnification"], (np.eye(2) + MAGNIFICATION) / 2)
    same = mean_optics([other] * 3, choice)
    assert (same["magnification"] == MAGNIFICATION).all()  # to the last bit
    after = changed_optics(one, choice, start, np.array([0.1, 0.01, 0.0, 0.0, 0.02]))
    assert after["spherical_aberration_mm"] == pytest.approx(2.75)
    np.testing.assert_allclose(after["magnification"] - start["magnification"], [[0.01, 0], [0, 0.02]], atol=1e-12)
    assert torch.equal(with_optics(one, after).movement_x_angstrom.values, one.movement_x_angstrom.values)
