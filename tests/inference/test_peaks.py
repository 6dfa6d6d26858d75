import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.inference.peaks import Peaks, apart, compete, find_peaks


def some_peaks(n=300, seed=3):
    drawn = keyed_random.uniform(seed, "peaks", np.arange(n), size=3)
    height = np.sort(drawn[:, 2])[::-1]
    return Peaks(position=100 * drawn[:, :2], pixel=np.rint(100 * drawn[:, :2]).astype(np.int64), height=height)


def test_peaks_of_a_parabola_are_exact_below_the_pixel():
    y, x = np.mgrid[:40, :50]
    score = torch.from_numpy((10 - 0.1 * (x - 20.3) ** 2 - 0.2 * (y - 15.8) ** 2).astype(np.float32))
    peaks = find_peaks(score, torch.ones(40, 50, dtype=torch.bool))
    np.testing.assert_allclose(peaks.position, [[20.3, 15.8]], atol=1e-4)  # float32


def test_peaks_lie_where_they_may_and_fall():
    score = torch.from_numpy(keyed_random.normal(1, "score", np.array([0]), size=(60, 70))[0])
    allowed = torch.zeros(60, 70, dtype=torch.bool)
    allowed[10:30, 20:60] = True
    peaks = find_peaks(score, allowed)
    assert (peaks.pixel[:, 0] >= 20).all()
    assert (peaks.pixel[:, 1] < 30).all()
    assert (np.diff(peaks.height) <= 0).all()
    assert (peaks.height > 0).all()


@pytest.mark.parametrize("distance", [2.0, 9.0, 200.0])
def test_choosing_apart_is_greedy_from_the_highest_down(distance):
    peaks = some_peaks()
    kept: list[int] = []
    for i in range(len(peaks)):
        if all(np.hypot(*(peaks.position[i] - peaks.position[j])) > distance for j in kept):
            kept.append(i)
    np.testing.assert_array_equal(apart(peaks, distance).height, peaks.height[kept])


def test_a_strong_peak_takes_the_mirrored_lobes_beside_it():
    one = Peaks(position=np.array([[50.0, 50.0]]), pixel=np.array([[50, 50]]), height=np.array([9.0]))
    lobes = Peaks(
        position=np.array([[58.0, 50.0], [90.0, 50.0]]),
        pixel=np.array([[58, 50], [90, 50]]),
        height=np.array([4.0, 3.0]),
    )
    np.testing.assert_array_equal(compete(one, lobes, distance_pixel=5, lobe_pixel=10), [9, -3])


def test_competition_is_even_handed():
    positive, negative = some_peaks(seed=3), some_peaks(seed=4)
    there = compete(positive, negative, distance_pixel=6, lobe_pixel=9)
    back = compete(negative, positive, distance_pixel=6, lobe_pixel=9)
    np.testing.assert_array_equal(there, -back)


def test_nothing_yields_nothing():
    none = Peaks(position=np.zeros((0, 2)), pixel=np.zeros((0, 2), dtype=np.int64), height=np.zeros(0))
    assert len(apart(none, 3)) == 0
    assert len(compete(none, none, distance_pixel=3, lobe_pixel=3)) == 0
