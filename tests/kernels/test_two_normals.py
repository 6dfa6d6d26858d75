import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.kernels.two_normals import fit_two_normals


def fit(values, mean, spread=(1.0, 1.0), share=(0.5, 0.5)):
    guess = [np.array(share), np.array(mean, dtype=np.float64), np.array(spread)]
    alive = fit_two_normals(values, *guess, least_spread=1e-3, fewest=2.0, rounds=500, settled=1e-9)
    return alive, *guess


def test_two_populations_are_recovered():
    draws = keyed_random.normal(1, "populations", np.arange(3000), size=1)[:, 0]
    values = np.where(np.arange(3000) < 1000, 2 + 0.5 * draws, 6 + draws)
    alive, share, mean, spread = fit(values, (1.0, 7.0))
    assert alive
    np.testing.assert_allclose(share, [1 / 3, 2 / 3], atol=0.02)
    np.testing.assert_allclose(mean, [2, 6], atol=0.08)
    np.testing.assert_allclose(spread, [0.5, 1], atol=0.05)


@pytest.mark.parametrize("swap", [False, True])
def test_populations_keep_the_order_of_the_guess(swap):
    values = np.concatenate([np.linspace(-1, 1, 50), np.linspace(9, 11, 50)])
    _, _, mean, _ = fit(values, (9.0, 0.0) if swap else (0.0, 9.0))
    np.testing.assert_allclose(mean, [10, 0] if swap else [0, 10], atol=1e-3)


def test_population_without_members_is_said_to_be_dead():
    values = np.linspace(-1, 1, 100)
    alive, *_ = fit(values, (0.0, 1000.0))
    assert not alive
