"""The noise of images by shell, from few and from many components."""

import pytest
import torch

from halfmap.errors import InputError
from halfmap.multiparticle.noise import PRIOR_COUNT, noise_variance, residual_variance


def test_many_components_speak_for_themselves_and_few_for_the_mean():
    shape = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    count = torch.tensor([[1e6, 1e6, 1e6], [1e6, 1e6, 1e6], [4.0, 4.0, 4.0]], dtype=torch.float64)
    level = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    power = count * shape * level[:, None]
    power[2] = count[2] * torch.tensor([0.5, 9.0, 3.0])  # an accident of four components
    found = noise_variance(power, count)
    torch.testing.assert_close(found[:2], shape * level[:2, None], rtol=1e-3, atol=0)
    mean = 2 * shape * (power[2].sum() / (count[2] * 2 * shape).sum())
    torch.testing.assert_close(found[2], (power[2] + PRIOR_COUNT * mean) / (4 + PRIOR_COUNT), rtol=1e-5, atol=0)


def test_images_without_particles_get_the_mean():
    count = torch.tensor([[100.0, 100.0], [0.0, 0.0]], dtype=torch.float64)
    found = noise_variance(count * torch.tensor([2.0, 5.0]).double(), count)
    torch.testing.assert_close(found, torch.tensor([[2.0, 5.0], [2.0, 5.0]]).double())


def test_models_at_their_scale_are_taken_off():
    # |x - a m|² = 10 - 2·0.5·4 + 0.25·8
    sums = torch.tensor([[[10.0], [4.0], [8.0], [8e5]]], dtype=torch.float64)
    found = residual_variance(sums, torch.tensor([0.5]).double())
    assert float(found) == pytest.approx(8 / 8e5, rel=1e-3)


def test_images_of_nothing_are_refused():
    with pytest.raises(InputError, match="noise in every shell"):
        noise_variance(torch.zeros(2, 3).double(), torch.ones(2, 3).double())
    with pytest.raises(InputError, match="finite"):
        noise_variance(torch.full((2, 3), torch.nan).double(), torch.ones(2, 3).double())
