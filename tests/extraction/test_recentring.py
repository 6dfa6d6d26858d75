import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.extraction.recentring import recentred
from halfmap.geometry.rotations import matrix_from_euler


def test_position_minus_offset_stays_where_it_is():
    position = np.array([[100.0, 200.0], [50.0, 60.0]])
    origin = np.array([[4.0, -7.3], [0.2, 0.0]])
    moved, left = recentred(position, origin, None, centre_angstrom=(0, 0, 0), micrograph_pixel_size_angstrom=1.5)
    np.testing.assert_allclose(moved - left / 1.5, position - origin / 1.5)
    assert np.abs(left).max() <= 0.75
    np.testing.assert_array_equal(moved, np.rint(moved))


def test_window_moves_to_where_the_rotated_point_lies():
    rotation = matrix_from_euler(np.array([30.0]), np.array([60.0]), np.array([-45.0])).numpy()
    point = (10.0, -20.0, 35.0)
    moved, left = recentred(
        np.array([[100.0, 200.0]]), np.zeros((1, 2)), rotation, centre_angstrom=point, micrograph_pixel_size_angstrom=2
    )
    expected = np.array([100.0, 200.0]) + (rotation[0] @ np.array(point))[:2] / 2
    np.testing.assert_allclose((moved - left / 2)[0], expected)


def test_fractions_of_a_position_that_was_already_extracted_are_cut_off():
    moved, left = recentred(
        np.array([[100.9, 200.2]]), np.zeros((1, 2)), None, centre_angstrom=(0, 0, 0), micrograph_pixel_size_angstrom=1
    )
    np.testing.assert_array_equal(moved, [[100, 200]])
    np.testing.assert_array_equal(left, 0)


def test_a_point_off_the_centre_needs_angles():
    with pytest.raises(InputError, match="refined angles"):
        recentred(np.zeros((1, 2)), np.zeros((1, 2)), None, centre_angstrom=(0, 0, 5), micrograph_pixel_size_angstrom=1)
