import numpy as np
import pytest
import torch

from halfmap.picking.convolution import RoundKernels
from halfmap.picking.local_statistics import flatten_background
from support.blob_micrographs import noise

SIGMA = 8.0


def flattened(image, usable):
    return flatten_background(image, usable, RoundKernels(tuple(image.shape), 2 * SIGMA, image.device), SIGMA)


@pytest.fixture
def image():
    return torch.from_numpy(noise((81, 90)).astype(np.float32))


def test_background_of_changing_mean_and_variance_becomes_flat():
    y, x = np.mgrid[:200, :200]
    image = torch.from_numpy(((1 + x / 100) * noise((200, 200)) + 0.1 * y).astype(np.float32))
    everywhere = torch.ones(200, 200, dtype=torch.bool)
    flat = flatten_background(image, everywhere, RoundKernels((200, 200), 40, torch.device("cpu")), 20.0)
    for part in (flat[:, :60], flat[:, 140:], flat[:60], flat[140:]):
        assert float(part.mean()) == pytest.approx(0, abs=0.3)  # half a window's slope remains at the edge
        assert float(part.std()) == pytest.approx(1, abs=0.1)


def test_what_is_left_out_does_not_count(image):
    usable = torch.ones(image.shape, dtype=torch.bool)
    usable[:, 50:] = False
    spoiled = image.clone()
    spoiled[:, 50:] = 1e4
    torch.testing.assert_close(flattened(image, usable), flattened(spoiled, usable))
    assert (flattened(spoiled, usable)[:, 50:] == 0).all()


def test_an_area_without_noise_stays_finite(image):
    image[:40] = 3.0
    assert torch.isfinite(flattened(image, torch.ones(image.shape, dtype=torch.bool))).all()
