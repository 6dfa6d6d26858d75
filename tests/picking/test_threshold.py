import math

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.inference.peaks import find_peaks
from halfmap.picking.convolution import RoundKernels
from halfmap.picking.threshold import (
    automatic_threshold,
    background_sigma,
    gaussian_threshold,
    middle_and_spread,
    mirrored_threshold,
    sign_threshold,
    two_populations,
)
from support.blob_micrographs import noise


@pytest.mark.parametrize(
    ("heights", "threshold"),
    [
        (np.arange(1.0, 20.0), math.inf),  # 19 without a mirrored one: too few to tell
        (np.arange(1.0, 21.0), 1.0),  # 20 are enough
        (np.concatenate([np.arange(2.0, 31.0), [-1.0]]), 2.0),  # 29 with a mirrored one below them
        (np.concatenate([np.arange(2.0, 31.0), [-40.0]]), math.inf),  # 29 do not outweigh one above them
        (np.concatenate([np.arange(2.0, 32.0), [-40.0]]), 2.0),  # 30 do
        (-np.arange(1.0, 100.0), math.inf),
        (np.zeros(0), math.inf),
    ],
)
def test_mirrored_threshold_bounds_the_share_of_false_peaks(heights, threshold):
    assert mirrored_threshold(heights) == threshold


def test_mirrored_threshold_finds_nothing_in_symmetric_heights():
    for seed in range(40):
        heights = keyed_random.normal(seed, "heights", np.array([0]), size=500)[0]
        assert mirrored_threshold(heights) == math.inf


def test_gaussian_threshold_lets_the_expected_number_of_noise_peaks_through():
    kernels = RoundKernels((400, 400), 0, torch.device("cpu"))
    everywhere = torch.ones(400, 400, dtype=torch.bool)
    n_above = 0
    for seed in range(12):
        field = torch.from_numpy(noise((400, 400), seed=seed).astype(np.float32))
        field = kernels.apply(kernels.forward(field), kernels.gaussian(4.0))
        threshold = gaussian_threshold(field, everywhere, float(field.std()), false_peaks=5.0)
        n_above += int((find_peaks(field, everywhere).height > threshold).sum())
    # 60 expected; Poisson scatter is 8
    assert n_above == pytest.approx(60, abs=25)


def test_background_sigma_is_the_deviation_of_noise():
    field = torch.from_numpy(3 * noise((200, 200)))
    everywhere = torch.ones(200, 200, dtype=torch.bool)
    assert background_sigma(field, everywhere) == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(("n_noise", "n_particles"), [(300, 30), (50, 300), (1000, 1000)])
@pytest.mark.parametrize("first", [4.5, 7.5])
def test_two_populations_part_between_their_means(n_noise, n_particles, first):
    draws = keyed_random.normal(7, "populations", np.array([0]), size=n_noise + n_particles)[0]
    heights = np.concatenate([2 + 0.8 * draws[:n_noise], 7 + draws[n_noise:]])
    threshold = two_populations(heights, first)
    wrong = (heights[:n_noise] >= threshold).sum() + (heights[n_noise:] < threshold).sum()
    assert wrong <= 0.02 * len(heights)


def test_too_few_peaks_leave_the_first_guess():
    assert two_populations(np.array([1.0, 2.0, 9.0]), 5.0) == 5.0


def test_spread_of_picks_is_robust_and_at_least_that_of_noise():
    assert middle_and_spread(np.array([5.0, 5.1, 4.9, 50.0])) == (pytest.approx(5.05), 1.0)
    assert middle_and_spread(np.zeros(0)) == (-math.inf, 1.0)


def test_weak_peaks_beside_a_tight_population_are_none_of_its_kind():
    heights = np.concatenate([20 + 0.01 * np.arange(40), 8 + 0.01 * np.arange(6), 2 + 0.01 * np.arange(10)])
    field = torch.from_numpy(noise((100, 100)))
    everywhere = torch.ones(100, 100, dtype=torch.bool)
    found = automatic_threshold(field, everywhere, height=np.sort(heights)[::-1], rivals=np.sort(heights)[::-1])
    assert 9 < found.value < 20


def test_particles_are_seen_beside_a_few_strong_negative_things():
    particles, strange = np.linspace(5, 12, 60), -np.linspace(6, 15, 9)
    values = np.concatenate([particles, strange, np.linspace(-3, 3, 100)])
    assert np.isinf(mirrored_threshold(values))
    assert sign_threshold(values) <= 5  # below all particles


@pytest.mark.parametrize("seed", range(20))
def test_signs_of_noise_peaks_are_no_lottery_won(seed):
    values = keyed_random.normal(seed, "noise peaks", np.arange(400), size=1)[:, 0]
    assert np.isinf(sign_threshold(values))
