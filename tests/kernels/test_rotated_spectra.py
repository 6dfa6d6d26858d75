import numpy as np
import pytest

from halfmap.kernels import rotated_spectra

# a ring of known coefficients around DC, which is unknown: (1, 0), (0, 1), (1, 1), (1, -1), numbered in this order
WAVE_NUMBERS = np.array([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=np.int64)
TABLE = np.full((7, 4), -1, dtype=np.int32)
for number, (kx, ky) in enumerate(WAVE_NUMBERS):
    TABLE[ky + 3, kx] = number
TABLE[-1 + 3, 0] = 1


def turn(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def test_weights_of_known_neighbours_sum_to_one() -> None:
    values = np.array([[[1.0, 2.0, 4.0, 8.0]]], dtype=np.float32)
    found = rotated_spectra.sum_turned(values, turn(30.0)[None], WAVE_NUMBERS, TABLE)
    # (1, 0) goes to (x, y) = (cos 30°, -sin 30°), between DC, (1, 0), (0, -1), which is the mate of (0, 1), and (1, -1)
    x, y = np.cos(np.pi / 6), 0.5
    expected = (x * (1 - y) * 1.0 + (1 - x) * y * 2.0 + x * y * 8.0) / (1 - (1 - x) * (1 - y))
    assert found[0, 0] == pytest.approx(expected, rel=1e-6)  # float32


def test_points_without_known_neighbours_are_zero() -> None:
    found = rotated_spectra.sum_turned(np.ones((1, 1, 4), np.float32), turn(20.0)[None], WAVE_NUMBERS, TABLE * 0 - 1)
    assert np.array_equal(found, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_sums_do_not_depend_on_the_number_of_threads(n_threads: int) -> None:
    random = np.random.default_rng(0)
    values = random.uniform(size=(5, 9, 4)).astype(np.float32)
    turns = np.stack([turn(degrees) for degrees in random.uniform(-180, 180, size=9)])
    one = rotated_spectra.sum_turned(values, turns, WAVE_NUMBERS, TABLE)
    assert np.array_equal(one, rotated_spectra.sum_turned(values, turns, WAVE_NUMBERS, TABLE, n_threads=n_threads))
