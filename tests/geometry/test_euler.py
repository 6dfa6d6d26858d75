"""Euler angles of arrays and of tensors are the same."""

import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.geometry.rotations import euler_from_matrix, matrix_from_euler

ANGLES = keyed_random.uniform(2, "angles", np.arange(50), size=3) * [360, 180, 360] - [180, 0, 180]
POLES = np.array([[0.0, 0.0, 30.0], [0.0, 180.0, -50.0]])


@pytest.mark.parametrize("angles", [ANGLES, POLES])
def test_arrays_and_tensors_have_the_same_matrices_and_angles(angles):
    matrices = array_from_euler(*angles.T)
    # 2e-15: the two libraries' sines may differ in the last digit
    np.testing.assert_allclose(matrices, matrix_from_euler(*angles.T).numpy(), atol=2e-15)
    np.testing.assert_allclose(euler_from_array(matrices), euler_from_matrix(matrices).numpy(), atol=1e-12)
    np.testing.assert_allclose(euler_from_array(matrices), angles, atol=1e-12)


def test_numbers_spread_over_arrays():
    np.testing.assert_allclose(
        array_from_euler(0, 0, [0, 90]), [np.eye(3), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]], atol=1e-15
    )
