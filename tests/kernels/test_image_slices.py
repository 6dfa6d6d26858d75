import threading

import numpy as np
import pytest

from halfmap.kernels import image_slices
from halfmap.kernels.image_slices import BLOCK

RADIUS = 9
SHAPE = (3, 2 * RADIUS + 1, RADIUS + 1)


def half_planes(seed: int = 0) -> np.ndarray:
    """Random values of three images, Hermitian on kx = 0."""
    values = np.random.default_rng(seed).normal(size=(*SHAPE, 2))
    values[:, :, 0] += values[:, ::-1, 0] * [1, -1]
    return values.astype(np.float32)


def planes(n: int, seed: int = 0) -> np.ndarray:
    angle = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=n)
    rows = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), -1, 0))


def problem(n: int = 6, k: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    # some points lie beyond the range
    coordinates = random.uniform(-8, 8, size=(k, 2))
    values = random.normal(size=(3, n, k, 2)).astype(np.float32)
    weights = random.uniform(size=(3, n, k)).astype(np.float32)
    return planes(n), coordinates, values, weights


def inserted(n_threads: int = 1, *, weighted: bool = True) -> tuple[np.ndarray, np.ndarray]:
    turns, coordinates, values, weights = problem()
    data = np.zeros((*SHAPE, 2), np.float32)
    weight = np.zeros(SHAPE if weighted else 0, np.float32)
    weights = weights if weighted else np.zeros(0, np.float32)
    image_slices.insert_slices(data, weight, turns, coordinates, values, weights, n_threads=n_threads)
    return data, weight


def linear_at(values: np.ndarray, point: np.ndarray) -> complex:
    """Interpolate one point (x, y) over its four neighbours, from the definition."""
    total = 0j
    for corner in np.ndindex(2, 2):
        cell = np.floor(point).astype(int) + corner
        weight = np.prod(np.where(corner, point - np.floor(point), 1 - point + np.floor(point)))
        mate = cell[0] < 0
        x, y = -cell if mate else cell
        real, imag = values[y + RADIUS, x]
        total += weight * complex(real, -imag if mate else imag)
    return total


def test_points_are_interpolated_between_their_four_neighbours() -> None:
    values, turns = half_planes(), planes(5)
    coordinates = np.random.default_rng(1).uniform(-6, 6, size=(11, 2))
    found = image_slices.extract_slices(values, turns, coordinates)
    for c, n, k in np.ndindex(3, 5, 11):
        expected = linear_at(values[c], coordinates[k] @ turns[n])
        assert complex(*found[c, n, k]) == pytest.approx(expected, abs=2e-6)  # float32 weights


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK // 2])
def test_blocks_of_any_length_give_the_same_values(count: int) -> None:
    values, turns = half_planes(), planes(2)
    coordinates = np.random.default_rng(1).uniform(-6, 6, size=(3 * BLOCK // 2, 2))
    found = image_slices.extract_slices(values, turns, coordinates[:count])
    assert np.array_equal(found, image_slices.extract_slices(values, turns, coordinates)[:, :, :count])


def test_points_on_the_rim_and_beyond_are_zero_and_never_read_outside() -> None:
    identity = np.eye(2)[None].copy()
    rim = np.array([[0, RADIUS], [RADIUS, 0], [0, -RADIUS], [-RADIUS, 0], [1e9, -1e9], [0, RADIUS - 0.5]])
    found = image_slices.extract_slices(half_planes(), identity, rim.astype(np.float64))
    assert np.array_equal(found[:, 0, :5], np.zeros((3, 5, 2), np.float32))
    assert np.all(found[:, 0, 5] != 0)


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_results_do_not_depend_on_the_number_of_threads(n_threads: int) -> None:
    turns, coordinates, _, _ = problem()
    one, many = (image_slices.extract_slices(half_planes(), turns, coordinates, n_threads=n) for n in (1, n_threads))
    assert np.array_equal(one, many)
    for one, many in zip(inserted(), inserted(n_threads), strict=True):
        assert np.array_equal(one, many)


def test_insertion_is_the_transpose_of_extraction() -> None:
    turns, coordinates, values, _ = problem()
    images = np.random.default_rng(3).normal(size=(*SHAPE, 2)).astype(np.float32)
    data, _ = inserted()
    taken = image_slices.extract_slices(images, turns, coordinates)
    in_slices = (taken.astype(np.float64) * values).sum((1, 2, 3))
    in_images = (images.astype(np.float64) * data).sum((1, 2, 3))
    assert np.allclose(in_images, in_slices, rtol=0, atol=1e-6 * np.linalg.norm(values) * np.linalg.norm(images))


def test_weights_spread_like_values_of_their_size() -> None:
    turns, coordinates, _, weights = problem()
    _, weight = inserted()
    data = np.zeros((*SHAPE, 2), np.float32)
    real = np.stack([weights, np.zeros_like(weights)], axis=-1)
    nothing = np.zeros(0, np.float32)
    image_slices.insert_slices(data, nothing, turns, coordinates, real, nothing)
    assert np.allclose(data[..., 0], weight, atol=1e-6)
    inside = ((coordinates @ turns) ** 2).sum(-1) < (RADIUS - 1e-6) ** 2
    assert not inside.all()
    assert np.allclose(weight.sum((1, 2)), (weights * inside).sum((1, 2)), rtol=1e-5)  # float32 sums


def test_insertion_adds_to_what_is_there() -> None:
    turns, coordinates, values, weights = problem()
    data, weight = inserted()
    twice_data, twice_weight = data.copy(), weight.copy()
    image_slices.insert_slices(twice_data, twice_weight, turns, coordinates, values, weights)
    assert np.allclose(twice_data, 2 * data, atol=1e-5)
    assert np.allclose(twice_weight, 2 * weight, atol=1e-5)


def test_several_python_threads_may_call_kernels_at_once() -> None:
    expected, found = inserted()[0], [None] * 4

    def call(index: int) -> None:
        found[index] = inserted(2)[0]

    callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.array_equal(result, expected) for result in found)
