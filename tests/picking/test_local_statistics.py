import numpy as np
import pytest
import torch

from halfmap.picking.convolution import RoundKernels
from halfmap.picking.local_statistics import local_statistics
from support.blob_micrographs import noise


@pytest.fixture
def image():
    return torch.from_numpy((3 + 2 * noise((61, 70))).astype(np.float32))


def statistics(image, usable, diameter=12.0):
    kernels = RoundKernels(tuple(image.shape), 2 * diameter, image.device)
    return local_statistics(image, usable, kernels, kernels.disc(diameter))


def test_mean_and_deviation_are_those_of_the_disc(image):
    found = statistics(image, torch.ones(image.shape, dtype=torch.bool))
    y, x = np.mgrid[:61, :70]
    for row, column in ((20, 30), (40, 25)):
        inside = image.numpy()[np.hypot(y - row, x - column) <= 6]
        assert float(found.mean[row, column]) == pytest.approx(inside.mean(), abs=0.15)  # the disc's edge is not binary
        assert float(found.deviation[row, column]) == pytest.approx(inside.std(), rel=0.1)


def test_what_is_left_out_does_not_count(image):
    usable = torch.ones(image.shape, dtype=torch.bool)
    usable[:, 40:] = False
    spoiled = image.clone()
    spoiled[:, 40:] = 1e4
    first, second = statistics(image, usable), statistics(spoiled, usable)
    torch.testing.assert_close(first.mean[usable], second.mean[usable])
    torch.testing.assert_close(first.deviation[usable], second.deviation[usable])


def test_an_even_area_has_a_deviation_that_can_be_divided_by(image):
    image[:30] = 3.0
    found = statistics(image, torch.ones(image.shape, dtype=torch.bool))
    assert (found.deviation > 0).all()
