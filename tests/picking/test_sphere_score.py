from itertools import pairwise

import numpy as np
import pytest
import torch

from halfmap.picking.sphere_score import score_spheres, trial_diameters
from support.blob_micrographs import density, noise


def score(image, usable=None, shortest=100.0, longest=140.0):
    values = torch.from_numpy(image.astype(np.float32))
    usable = torch.ones(values.shape, dtype=torch.bool) if usable is None else usable
    return score_spheres(values, usable, pixel_size_angstrom=10.0, shortest_angstrom=shortest, longest_angstrom=longest)


def test_diameters_are_geometric_steps_of_at_most_15_percent():
    diameters = trial_diameters(100, 200)
    assert (diameters[0], diameters[-1]) == (100, pytest.approx(200))
    assert max(b / a for a, b in pairwise(diameters)) <= 1.15
    assert trial_diameters(130, 130) == (130,)


def test_score_is_standard_normal_in_white_noise():
    found = score(noise((300, 320)), shortest=120, longest=120).positive
    inner = found[20:-20, 20:-20]
    assert float(inner.mean()) == pytest.approx(0, abs=0.1)  # some 700 independent discs
    assert float(inner.std()) == pytest.approx(1, abs=0.1)


def test_gain_and_offset_do_not_matter():
    image = noise((80, 90))
    torch.testing.assert_close(
        score(image).positive, score(1e3 * image - 5e3).positive, atol=1e-2, rtol=0
    )  # float32 of the larger numbers


def test_negative_is_the_positive_of_the_inverted_micrograph():
    image = noise((80, 90))
    torch.testing.assert_close(score(image).negative, score(-image).positive, atol=1e-4, rtol=0)


@pytest.mark.parametrize("hollow", [False, True])
def test_the_peak_lies_in_the_middle_of_balls_and_shells(hollow):
    image = density((101, 101), np.array([[50.0, 50.0]]), 12.0, hollow=hollow) + 0.02 * noise((101, 101))
    found = score(image).positive
    assert int(found.argmax()) == 50 * 101 + 50


def test_the_diameter_that_fits_wins():
    for diameter in (100.0, 150.0, 200.0):
        image = density((121, 121), np.array([[60.0, 60.0]]), diameter / 10) + 0.02 * noise((121, 121))
        found = score(image, shortest=90, longest=220)
        best = found.diameters_angstrom[int(found.diameter_index[60, 60])]
        assert best == pytest.approx(diameter, rel=0.32)  # two steps: the score is flat in the diameter


def test_what_lies_in_masked_areas_has_no_influence():
    image = noise((100, 100))
    usable = torch.ones(100, 100, dtype=torch.bool)
    usable[:, 70:] = False
    other = image.copy()
    other[:, 70:] = 1e4
    torch.testing.assert_close(score(image, usable).positive, score(other, usable).positive, atol=1e-3, rtol=0)
    assert float(score(other, usable).positive[:, 70:].abs().max()) == 0
