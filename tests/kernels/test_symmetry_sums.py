import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.geometry.symmetry import operators
from halfmap.kernels.symmetry_sums import sum_rotated_half, sum_rotated_spline

IDENTITY = np.eye(3)[None]


def some_values(*shape: int) -> np.ndarray:
    return keyed_random.normal(1, "values", 0, size=shape).astype(np.float32)


@pytest.mark.parametrize("side", [8, 9])
def test_a_spline_of_equal_coefficients_is_constant_everywhere(side):
    ones = np.ones((2 * side,) * 3, dtype=np.float32)
    np.testing.assert_allclose(sum_rotated_spline(ones, IDENTITY, side), 1.0, atol=1e-6)


@pytest.mark.parametrize("side", [8, 9])
def test_a_single_coefficient_gives_the_samples_of_the_cubic_spline(side):
    coefficients = np.zeros((2 * side,) * 3, dtype=np.float32)
    coefficients[side, side, side + 1] = 1.0
    row = sum_rotated_spline(coefficients, IDENTITY, side)[side // 2, side // 2]
    expected = np.zeros(side)
    expected[side // 2 : side // 2 + 2] = (1 / 6) * (2 / 3) ** 2
    np.testing.assert_allclose(row, expected, atol=1e-7)


def test_the_identity_returns_a_half_volume_within_its_sphere():
    values = some_values(9, 9, 5, 3)
    z, y, x = np.meshgrid(np.arange(-4, 5), np.arange(-4, 5), np.arange(5), indexing="ij")
    inside = (x * x + y * y + z * z <= 16)[..., None]
    np.testing.assert_allclose(sum_rotated_half(values, IDENTITY), values * inside, atol=1e-6)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_sums_are_the_same_bit_for_bit_whatever_the_threads(n_threads):
    matrices = operators("T").numpy()
    half, spline = some_values(9, 9, 5, 3), some_values(12, 12, 12)
    np.testing.assert_array_equal(
        sum_rotated_half(half, matrices, n_threads=n_threads), sum_rotated_half(half, matrices)
    )
    np.testing.assert_array_equal(
        sum_rotated_spline(spline, matrices, 6, n_threads=n_threads), sum_rotated_spline(spline, matrices, 6)
    )
