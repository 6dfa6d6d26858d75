import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from halfmap.kernels import slice_extraction
from halfmap.kernels.threads import part_of

RADIUS = 7


def half_volume(seed: int = 0) -> np.ndarray:
    """Random values, Hermitian on kx = 0."""
    values = np.random.default_rng(seed).normal(size=(2 * RADIUS + 1, 2 * RADIUS + 1, RADIUS + 1, 2))
    plane = values[:, :, 0]
    plane += plane[::-1, ::-1] * [1, -1]
    return values.astype(np.float32)


def planes(n: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(Rotation.random(n, random_state=seed).as_matrix()[:, :2])


def linear_at(values: np.ndarray, point: np.ndarray) -> complex:
    """Interpolate one point (x, y, z) over its eight neighbours, from the definition."""
    total = 0j
    for corner in np.ndindex(2, 2, 2):
        cell = np.floor(point).astype(int) + corner
        weight = np.prod(np.where(corner, point - np.floor(point), 1 - point + np.floor(point)))
        mate = cell[0] < 0
        x, y, z = -cell if mate else cell
        real, imag = values[z + RADIUS, y + RADIUS, x]
        total += weight * complex(real, -imag if mate else imag)
    return total


def test_points_are_interpolated_between_their_eight_neighbours() -> None:
    values, turns = half_volume(), planes(5)
    coordinates = np.random.default_rng(1).uniform(-4.5, 4.5, size=(11, 2))
    found = slice_extraction.extract_slices(values, turns, coordinates)
    for n, k in np.ndindex(5, 11):
        expected = linear_at(values, coordinates[k] @ turns[n])
        assert complex(*found[n, k]) == pytest.approx(expected, abs=2e-6)  # float32 weights


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_blocks_of_any_length_give_the_same_values(count: int) -> None:
    values, turns = half_volume(), planes(2)
    coordinates = np.random.default_rng(1).uniform(-4.5, 4.5, size=(600, 2))
    found = slice_extraction.extract_slices(values, turns, coordinates[:count])
    assert np.array_equal(found, slice_extraction.extract_slices(values, turns, coordinates)[:, :count])


def test_points_on_the_rim_and_beyond_are_zero_and_never_read_outside() -> None:
    values = half_volume()
    identity = np.eye(3)[None, :2].copy()
    coordinates = np.array([[0, RADIUS], [RADIUS, 0], [0, -RADIUS], [-RADIUS, 0], [1e9, -1e9], [0, RADIUS - 0.5]])
    found = slice_extraction.extract_slices(values, identity, coordinates.astype(np.float64))
    assert np.array_equal(found[0, :5], np.zeros((5, 2), np.float32))
    assert np.all(found[0, 5] != 0)


def test_threads_do_not_change_the_result() -> None:
    values, turns = half_volume(), planes(7)
    coordinates = np.random.default_rng(1).uniform(-4.5, 4.5, size=(50, 2))
    gradients = np.random.default_rng(2).normal(size=(7, 50, 2)).astype(np.float32)
    for n_threads in (2, 3, 16):
        assert np.array_equal(
            slice_extraction.extract_slices(values, turns, coordinates, n_threads=n_threads),
            slice_extraction.extract_slices(values, turns, coordinates),
        )
        assert np.array_equal(
            slice_extraction.plane_gradient(values, turns, coordinates, gradients, n_threads=n_threads),
            slice_extraction.plane_gradient(values, turns, coordinates, gradients),
        )


def test_plane_gradient_agrees_with_differences_of_the_slices() -> None:
    values, turns = half_volume(), planes(3)
    coordinates = np.random.default_rng(1).uniform(-4.5, 4.5, size=(9, 2))
    gradients = np.random.default_rng(2).normal(size=(3, 9, 2)).astype(np.float32)
    found = slice_extraction.plane_gradient(values, turns, coordinates, gradients)
    step = 1e-4
    for n, row, column in np.ndindex(3, 2, 3):
        offset = np.zeros_like(turns)
        offset[n, row, column] = step
        up = slice_extraction.extract_slices(values, turns + offset, coordinates).astype(np.float64)
        down = slice_extraction.extract_slices(values, turns - offset, coordinates)
        # float32 slices over a step of 1e-4 wave numbers
        assert found[n, row, column] == pytest.approx(((up - down) * gradients).sum() / (2 * step), abs=0.15)


def test_parts_cover_everything_once() -> None:
    for n_items, n_parts in [(10, 3), (2, 5), (0, 2)]:
        shares = [range(n_items)[part_of(n_items, part, n_parts)] for part in range(n_parts)]
        assert [item for share in shares for item in share] == list(range(n_items))


def test_slopes_of_slices_are_those_of_the_volume_along_the_image_axes() -> None:
    values = half_volume()
    rotations = Rotation.random(3, random_state=4).as_matrix()
    coordinates = np.random.default_rng(3).uniform(-4.5, 4.5, size=(40, 2))
    found = slice_extraction.extract_sloping_slices(values, rotations, coordinates)
    plain = np.ascontiguousarray(rotations[:, :2])
    np.testing.assert_allclose(found[0], slice_extraction.extract_slices(values, plain, coordinates), atol=2e-6)
    points = np.einsum("nid,ki->nkd", plain, coordinates)
    for n, k, axis in np.ndindex(3, 40, 3):
        step = 1e-3 * rotations[n, axis]
        if not np.array_equal(np.floor(points[n, k] - step), np.floor(points[n, k] + step)):
            continue  # the step crosses a face of the cell, where interpolation has a kink
        # a point of the slice is any point: a plane through it
        planes_through = [np.stack([points[n, k] + way * step, np.zeros(3)])[None] for way in (1, -1)]
        ahead, behind = (
            slice_extraction.extract_slices(values, plane, np.array([[1.0, 0.0]])) for plane in planes_through
        )
        np.testing.assert_allclose(found[1 + axis, n, k], (ahead - behind)[0, 0] / 2e-3, atol=3e-3)


def test_a_cube_reaches_into_the_corners_and_no_further() -> None:
    values = half_volume()
    values[-1], values[:, -1] = 0, 0
    turns = planes(4, seed=2)
    coordinates = np.random.default_rng(5).uniform(-8, 8, size=(300, 2))
    found = slice_extraction.extract_slices(values, turns, coordinates, cubic=True)
    for n, k in np.ndindex(4, 300):
        point = coordinates[k] @ turns[n]
        point = -point if point[0] < 0 else point
        inside = point[0] <= RADIUS and np.all((point[1:] >= -RADIUS) & (point[1:] <= RADIUS - 1))
        mate = (coordinates[k] @ turns[n])[0] < 0
        expected = linear_at(values, point) if inside else 0j
        assert complex(*found[n, k]) == pytest.approx(np.conj(expected) if mate else expected, abs=1e-5)
