import numpy as np
import pytest
import torch

from halfmap.simulation import ice
from halfmap.simulation.references import interaction_constant_rad_per_volt_angstrom


@pytest.mark.parametrize("mean", [6.0, 40.0, 300.0])
@pytest.mark.parametrize("efficiency", [1.0, 0.7])
def test_counts_have_the_mean_and_variance_of_a_counting_detector(mean, efficiency):
    counts = ice.detected_counts(torch.full((400, 500), mean), seed=1, uid=4, dqe=efficiency)
    assert (counts == np.round(counts)).all()
    # standard error of the mean √(λ/200000); rounding adds 1/12 to the variance
    assert counts.mean() == pytest.approx(mean, abs=5 * (mean / efficiency / 2e5) ** 0.5)
    assert counts.var() == pytest.approx(mean / efficiency + 1 / 12, rel=0.03)


def test_counts_are_skewed_as_poissons():
    counts = ice.detected_counts(torch.full((1000, 1000), 25.0), seed=2, uid=0).astype(np.float64)
    third = ((counts - counts.mean()) ** 3).mean() / counts.std() ** 3
    assert third == pytest.approx(25**-0.5, rel=0.1)


def test_counts_depend_on_seed_and_micrograph_alone():
    expected = torch.full((20, 30), 50.0)
    first = ice.detected_counts(expected, seed=1, uid=4)
    np.testing.assert_array_equal(first, ice.detected_counts(expected, seed=1, uid=4))
    assert (first != ice.detected_counts(expected, seed=1, uid=5)).any()
    assert (first != ice.detected_counts(expected, seed=2, uid=4)).any()


def test_ice_scatters_most_at_its_diffraction_ring_and_least_at_low_frequency():
    s = torch.linspace(0.001, 0.4, 400)
    factor = ice.structure_factor(s)
    assert 1 / float(s[factor.argmax()]) == pytest.approx(3.7, abs=0.15)
    assert float(factor[0]) == pytest.approx(0.06, abs=0.01)


def test_motion_damps_fine_grain_and_long_exposures():
    s = torch.tensor([0.01, 0.1, 0.27])
    short, long = ice.motion_damping(s, 1.0), ice.motion_damping(s, 50.0)
    assert float(long[0]) > 0.95
    assert (long < short).all()
    assert (torch.diff(long) < 0).all()


def test_motion_damping_is_the_mean_over_pairs_of_moments():
    s, dose = 0.15, 40.0
    moments = np.linspace(0, dose, 1201)
    apart = np.abs(moments[:, None] - moments)
    expected = np.exp(-2 * np.pi**2 * s**2 * apart / 3).mean()
    assert float(ice.motion_damping(torch.tensor([s]), dose)) == pytest.approx(expected, rel=5e-3)


def test_grain_is_weaker_than_shot_noise_in_thin_ice():
    s = torch.linspace(0.005, 0.3, 100)
    power = ice.ice_grain_power(
        s,
        thickness_angstrom=300.0,
        dose_e_per_angstrom2=40.0,
        interaction_rad_per_volt_angstrom=interaction_constant_rad_per_volt_angstrom(300.0),
    )
    # contrast is at most twice the phase; shot noise has a power of 1 / dose
    assert (4 * power < 1.5 / 40).all()
    assert (4 * power).max() > 0.05 / 40


def test_carbon_is_grainier_than_ice():
    assert ice.carbon_to_ice_grain(200.0, 350.0) > 2
