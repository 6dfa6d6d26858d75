import threading

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from halfmap.kernels import slice_extraction, slice_insertion

RADIUS = 9
SHAPE = (2 * RADIUS + 1, 2 * RADIUS + 1, RADIUS + 1)


def problem(n: int = 6, k: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    planes = np.ascontiguousarray(Rotation.random(n, random_state=0).as_matrix()[:, :2])
    coordinates = random.uniform(-8, 8, size=(k, 2))
    values = random.normal(size=(n, k, 2)).astype(np.float32)
    weights = random.uniform(size=(n, k)).astype(np.float32)
    return planes, coordinates, values, weights


def inserted(n_threads: int = 1, *, weighted: bool = True) -> tuple[np.ndarray, np.ndarray]:
    planes, coordinates, values, weights = problem()
    data = np.zeros((*SHAPE, 2), np.float32)
    weight = np.zeros(SHAPE if weighted else 0, np.float32)
    slice_insertion.insert_slices(
        data,
        weight,
        planes,
        coordinates,
        values,
        weights if weighted else np.zeros(0, np.float32),
        n_threads=n_threads,
    )
    return data, weight


def test_insertion_is_the_transpose_of_extraction() -> None:
    planes, coordinates, values, _ = problem()
    volume = np.random.default_rng(3).normal(size=(*SHAPE, 2)).astype(np.float32)
    data, _ = inserted()
    in_slices = float(np.vdot(slice_extraction.extract_slices(volume, planes, coordinates), values))
    scale = float(np.linalg.norm(values) * np.linalg.norm(volume))
    assert abs(float(np.vdot(volume.astype(np.float64), data)) - in_slices) < 1e-6 * scale  # float32 rounding


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_sums_do_not_depend_on_the_number_of_threads(n_threads: int) -> None:
    for one, many in zip(inserted(), inserted(n_threads), strict=True):
        assert np.array_equal(one, many)


def test_weights_spread_like_values_of_their_size() -> None:
    planes, coordinates, _, weights = problem()
    _, weight = inserted()
    data = np.zeros((*SHAPE, 2), np.float32)
    real = np.stack([weights, np.zeros_like(weights)], axis=-1)
    slice_insertion.insert_slices(data, np.zeros(0, np.float32), planes, coordinates, real, np.zeros(0, np.float32))
    assert np.allclose(data[..., 0], weight, atol=1e-6)
    inside = ((coordinates @ planes) ** 2).sum(-1) < (RADIUS - 1e-6) ** 2
    assert float(weight.sum(dtype=np.float64)) == pytest.approx(float(weights[inside].sum(dtype=np.float64)), rel=1e-5)


def test_values_do_not_depend_on_whether_weights_are_inserted_too() -> None:
    assert np.allclose(inserted()[0], inserted(weighted=False)[0], atol=1e-6)  # compiled apart: float32 rounding


def test_insertion_adds_to_what_is_there() -> None:
    planes, coordinates, values, weights = problem()
    data, weight = inserted()
    twice_data, twice_weight = data.copy(), weight.copy()
    slice_insertion.insert_slices(twice_data, twice_weight, planes, coordinates, values, weights)
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
