"""Cutoffs by expected false positives, and peaks apart from one another."""

import numpy as np
import pytest
import torch

from halfmap.template_matching.global_search.peaks import (
    cutoff_of,
    density_of_highest,
    expected_counts,
    expected_false_positives,
    find_template_peaks,
)


def test_cutoffs_are_those_of_independent_noise():
    # 4096² micrograph, 512 template, 20.6 million correlations; 1024², 128, 1908
    assert cutoff_of(1.0, n_places=3585**2, n_correlations=20_600_000) == pytest.approx(7.77, abs=0.005)
    assert cutoff_of(1.0, n_places=897**2, n_correlations=1908) == pytest.approx(6.07, abs=0.01)


@pytest.mark.parametrize("expected", [0.005, 1.0, 100.0])
def test_what_is_expected_above_a_cutoff_is_what_it_was_made_for(expected):
    z = np.array([cutoff_of(expected, n_places=10**6, n_correlations=10**4)])
    assert expected_false_positives(z, n_places=10**6, n_correlations=10**4)[0] == pytest.approx(expected, rel=1e-6)


def test_models_of_noise_count_everything_once():
    assert expected_counts(np.linspace(-3, 3, 13), 1000).sum() == pytest.approx(1000)
    z = np.linspace(0, 10, 4001)
    assert density_of_highest(z, 5000).sum() * (z[1] - z[0]) == pytest.approx(1.0, abs=1e-6)


def test_lower_peaks_beside_a_higher_one_and_those_below_the_cutoff_are_left_out():
    score = torch.zeros(40, 50)
    score[10, 12], score[12, 14], score[30, 20], score[5, 45] = 9.0, 8.0, 7.0, 5.0
    found = find_template_peaks(score, cutoff=6.0, distance_pixel=5.0)
    assert found.pixel.tolist() == [[12, 10], [20, 30]]
    assert found.height.tolist() == [9.0, 7.0]
