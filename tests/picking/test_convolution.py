import numpy as np
import pytest
import torch

from halfmap.picking.convolution import RoundKernels, smooth_length


@pytest.mark.parametrize(("least", "length"), [(1, 2), (7, 8), (97, 100), (121, 128), (722, 750)])
def test_lengths_have_small_factors(least, length):
    assert smooth_length(least) == length


def kernels(shape=(60, 71), margin=40.0):
    return RoundKernels(shape, margin, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["gaussian", "disc", "sphere"])
def test_kernels_sum_to_one(kind):
    one = kernels((120, 120))
    kernel = one.gaussian(4.0) if kind == "gaussian" else getattr(one, kind)(17.0)
    image = torch.zeros(120, 120)
    image[60, 60] = 1
    out = one.apply(one.forward(image), kernel)
    assert float(out.sum()) == pytest.approx(1, abs=1e-3)  # the ripples of a sharp edge leave the frame


@pytest.mark.parametrize("kind", ["disc", "sphere"])
def test_transforms_are_those_of_the_sampled_shapes(kind):
    one, diameter, finer = kernels((128, 128), 0), 24.0, 9
    axis = (np.arange(128 * finer) - (128 * finer - 1) / 2) / finer
    r2 = axis[:, None] ** 2 + axis**2
    shape = np.sqrt(np.clip(144 - r2, 0, None)) if kind == "sphere" else (r2 <= 144).astype(float)
    shape = shape.reshape(128, finer, 128, finer).mean((1, 3))
    spectrum = np.abs(np.fft.rfft2(shape / shape.sum()))
    # averaging over a pixel damps by at most 3 % where the transforms still count
    near = one.frequency().numpy() < 0.08
    np.testing.assert_allclose(np.abs(getattr(one, kind)(diameter).numpy())[near], spectrum[near], atol=0.012)


def test_nothing_wraps_around():
    one = kernels((60, 71), margin=30)
    image = torch.zeros(60, 71)
    image[:, 0] = 1
    out = one.apply(one.forward(image), one.gaussian(5.0))
    assert float(out[:, -10:].abs().max()) < 1e-5


def test_norm_is_that_of_the_pixels():
    one = kernels((90, 90), 0)
    kernel = one.sphere(20.0) - one.disc(24.0)
    image = torch.zeros(90, 90)
    image[45, 45] = 1
    out = one.apply(one.forward(image), kernel)
    assert one.norm(kernel) == pytest.approx(float(out.norm()), rel=1e-3)
