import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.extraction.normalisation import (
    CONSTANT_BELOW,
    _inverse_gram,
    _normalise_tensors,
    background_mask,
    background_statistics,
    normalise,
    remove_dust,
)


def noise(n: int, side: int) -> torch.Tensor:
    return torch.as_tensor(keyed_random.normal(3, "test", np.arange(n), size=(side, side)), dtype=torch.float32)


@pytest.mark.parametrize("side", [32, 33, 64])
def test_normalised_background_has_mean_zero_and_deviation_one(side):
    mask = background_mask(side, 0.375 * side)
    y = torch.arange(side)[:, None] / side
    images, deviation = normalise(37.0 * noise(5, side) + 4000.0 + 200.0 * y, mask)
    values = images[:, mask].double().numpy()
    np.testing.assert_allclose(deviation.numpy(), 37, rtol=0.15)  # a sample deviation of some hundred pixels
    # float32 arithmetic on a pedestal of 4000
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=1e-5)


def test_background_is_what_lies_strictly_beyond_the_circle():
    mask = background_mask(8, 2)
    assert not mask[4, 6]
    assert mask[4, 7]
    assert mask[0, 0]


def test_a_plane_is_removed_whole():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    mask = background_mask(40, 15)
    plain, deviation = normalise(noise(1, 40), mask)
    sloping, with_slope = normalise(noise(1, 40) + 0.3 * x - 0.2 * y + 50, mask)
    np.testing.assert_allclose(sloping, plain, atol=1e-4)  # float32 on values near 50
    np.testing.assert_allclose(with_slope, deviation, rtol=1e-4)


def test_without_ramp_the_slope_stays_and_the_mean_goes():
    _, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    mask = background_mask(40, 15)
    images, _ = normalise((0.3 * x + 50)[None], mask, ramp=False)
    assert abs(float(images[:, mask].mean())) < 1e-5
    assert float(images[0, 0, -1] - images[0, 0, 0]) > 2


def test_ramp_is_fitted_to_the_background_alone():
    mask = background_mask(40, 15)
    background = noise(1, 40)
    plain, _ = normalise(background.clone(), mask)
    with_particle, _ = normalise(background + torch.where(mask, 0.0, 7.0), mask)
    np.testing.assert_allclose(with_particle[:, mask], plain[:, mask], atol=1e-5)


@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("side", [32, 33])
def test_kernel_and_tensors_agree(side, ramp):
    mask = background_mask(side, 0.4 * side)
    images = 37 * noise(4, side) + 4000
    inverse_gram = _inverse_gram(mask, ramp=ramp)
    expected, deviation = _normalise_tensors(images.double(), mask, inverse_gram, -1.0)
    found, of_kernel = normalise(images.clone(), mask, ramp=ramp, invert=True)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(of_kernel, deviation, rtol=1e-6)


def test_constant_background_is_said_and_left_unscaled():
    images = torch.stack([torch.full((16, 16), 5.0), noise(1, 16)[0]])
    images, deviation = normalise(images, background_mask(16, 6))
    np.testing.assert_array_equal(deviation.numpy() < CONSTANT_BELOW, [True, False])
    assert images.isfinite().all()


def test_dust_is_replaced_on_the_side_asked_for_and_nowhere_else():
    images = noise(3, 32)
    images[0, 16, 16] = 50.0
    images[1, 2, 3] = -50.0
    mask = background_mask(32, 12)
    white = remove_dust(images, mask, np.arange(3), white=6, black=None, seed=1)
    assert white[0, 16, 16].abs() < 6
    assert white[1, 2, 3] == -50
    both = remove_dust(images, mask, np.arange(3), white=6, black=6, seed=1)
    changed = both != images
    assert changed.sum() == 2
    # the mean and deviation of the background include the dust itself
    statistics = background_statistics(both, mask)
    np.testing.assert_allclose(statistics.deviation.numpy(), 1, atol=0.1)


def test_replacement_noise_belongs_to_the_particle_not_to_its_place_in_the_batch():
    images = noise(4, 32)
    images[:, 16, 16] = 50.0
    mask = background_mask(32, 12)
    uid = np.array([11, 12, 13, 14])
    together = remove_dust(images, mask, uid, white=6, black=None, seed=1)
    alone = remove_dust(images[2:3], mask, uid[2:3], white=6, black=None, seed=1)
    assert torch.equal(together[2], alone[0])
