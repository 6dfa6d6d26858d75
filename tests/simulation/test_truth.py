import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.geometry.rotations import viewing_direction
from halfmap.simulation import truth

UIDS = np.arange(20_000)


def test_views_without_preference_are_uniform():
    directions = viewing_direction(truth.views(3, "views", UIDS)).numpy()
    # standard error of a mean of 20,000: 0.004; of a mean square: 0.002
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.015)
    np.testing.assert_allclose((directions**2).mean(axis=0), 1 / 3, atol=0.008)


@pytest.mark.parametrize("preference", [-6.0, -1.0, 0.5, 8.0])
def test_preferred_views_follow_their_density(preference):
    cosine = viewing_direction(truth.views(3, "views", UIDS, preference=preference)).numpy()[:, 2]
    grid = np.linspace(-1, 1, 20_001)
    density = np.exp(preference * grid**2)
    assert (cosine**2).mean() == pytest.approx((grid**2 * density).sum() / density.sum(), abs=0.01)
    assert cosine.mean() == pytest.approx(0, abs=0.025)


def test_a_view_depends_on_its_uid_alone():
    together = truth.views(1, "views", np.array([7, 8, 9]), preference=2.0)
    alone = truth.views(1, "views", np.array([8]), preference=2.0)
    np.testing.assert_array_equal(together[1], alone[0])


def test_defocus_lies_within_its_limits_and_astigmatism_too():
    lens = truth.defocus(2, UIDS, minimum_angstrom=8e3, maximum_angstrom=2e4, astigmatism_angstrom=500.0)
    mean = (lens.u_angstrom + lens.v_angstrom) / 2
    assert 8e3 <= mean.min() < 8.1e3
    assert 1.99e4 < mean.max() <= 2e4
    difference = lens.u_angstrom - lens.v_angstrom
    assert 0 <= difference.min() < 5
    assert 495 < difference.max() <= 500


def test_classes_come_in_the_shares_asked_for():
    quantile = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount(truth.class_of_quantile(quantile, 3, (2.0, 1.0, 1.0)), minlength=4)
    assert counts.tolist() == [0, 500, 250, 250]


def test_as_many_fractions_as_classes_are_needed():
    with pytest.raises(InputError, match="one class fraction for each of 3"):
        truth.class_of_quantile(np.array([0.5]), 3, (0.5, 0.5))
