"""Filters: white noise of the right scale whatever the image, and every filter really applied."""

import math

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.shells import power_spectrum
from halfmap.grid import ImageGrid
from halfmap.template_matching.filters import CORNER, filter_micrograph, frequencies
from halfmap.template_matching.model import BoxModel
from halfmap.template_matching.params import FilterParams
from halfmap.template_matching.projection import edge_weights, padded_moments, square_sum
from support import template_particles


def coloured_noise(shape, seed=1):
    white = torch.from_numpy(keyed_random.normal(seed, "test", 1, size=shape)).to(torch.float32)
    fall = 1 / (0.05 + frequencies(shape))
    return torch.fft.irfft2(torch.fft.rfft2(white) * fall.to(torch.float32), s=shape) + 3


@pytest.mark.parametrize("shape", [(512, 512), (601, 400), (512, 451)])
@pytest.mark.parametrize("params", [FilterParams(), FilterParams(bandpass_low=0.05, bandpass_high=0.3)])
def test_scores_of_pure_noise_have_mean_0_and_deviation_1_for_every_image_and_box(shape, params):
    filtered = filter_micrograph(coloured_noise(shape), params)
    for side in (48, 96):
        # one fixed template, at every position of the micrograph
        grid = ImageGrid.square(side, 1.0)
        radius = torch.from_numpy(np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]))
        image = torch.exp(-40 * radius**2) * torch.cos(25 * radius)
        radial = frequencies(grid.shape)
        template = grid.irfft(grid.rfft(image) * filtered.curves.at(radial))
        energy = (grid.rfft(template).abs() ** 2 * filtered.curves.other_at(radial) ** 2).double()
        energy[:, 1:-1] *= 2
        kernel = torch.zeros(shape, dtype=torch.float64)
        kernel[:side, :side] = template / math.sqrt(float(energy.sum()) * side**2)
        product = torch.fft.rfft2(filtered.values.double()) * torch.fft.rfft2(kernel).conj()
        scores = torch.fft.irfft2(product, s=shape)
        assert abs(float(scores.mean())) < 0.01
        # of one realisation, whose own spectrum the whitening has measured
        assert float(scores.std()) == pytest.approx(1, abs=0.01)


def test_whitening_leaves_a_flat_spectrum_below_the_nyquist_frequency_and_positive_particles():
    micrograph = coloured_noise((256, 256))
    filtered = filter_micrograph(micrograph, FilterParams())
    grid = ImageGrid.square(256, 1.0)
    power = power_spectrum(grid.rfft(filtered.values), grid)[20:127] * 256**2
    assert power.numpy() == pytest.approx(np.ones(107), rel=0.1)
    assert float(torch.corrcoef(torch.stack([micrograph.flatten(), filtered.values.flatten()]))[0, 1]) < -0.1


def test_each_filter_multiplies_by_what_it_says():
    params = FilterParams(
        whitening=False,
        bandpass_low=0.1,
        bandpass_high=0.3,
        bandpass_falloff=0.1,
        filter_frequencies=(0.15, 0.25),
        filter_amplitudes=(1.0, 3.0),
    )
    curves = filter_micrograph(coloured_noise((64, 64)), params).curves
    at = torch.tensor([0.0, 0.05, 0.12, 0.2, 0.25, 0.28, 0.35, 0.45])
    assert curves.at(at).tolist() == pytest.approx([0, math.cos(math.pi / 4), 1, 2, 3, 1, math.cos(math.pi / 4), 0])


def test_random_phases_leave_amplitudes_and_all_that_lies_below():
    micrograph = coloured_noise((128, 96))
    plain = filter_micrograph(micrograph, FilterParams())
    control = filter_micrograph(micrograph, FilterParams(randomise_phases_from=0.2), seed=3)
    first, second = (torch.fft.rfft2(one.values.double()) for one in (plain, control))
    radial = frequencies((128, 96))
    below = radial <= 0.2
    assert torch.allclose(first[below], second[below], atol=1e-3)
    assert torch.allclose(first.abs(), second.abs(), atol=1e-2)
    beyond = ~below & (radial < CORNER)
    coherence = (first[beyond] * second[beyond].conj()).sum().abs() / (first[beyond].abs() ** 2).sum()
    assert float(coherence) < 0.05


def test_the_moments_of_a_padded_projection_follow_from_its_transform():
    grid, padded = ImageGrid.square(32, 1.0), (40, 44)
    band = FourierBand(grid)
    noise = torch.from_numpy(keyed_random.normal(5, "test", 1, size=(3, 32, 32)))
    values = band.gather(grid.rfft(noise))
    images = grid.irfft(band.scatter(values))
    squares = square_sum(values, torch.ones(1, len(band)), 32)[0]
    assert squares.tolist() == pytest.approx(images.square().sum((1, 2)).tolist())
    weights = band.gather(edge_weights(grid)).to(torch.complex128)
    edge = 2 * 32**2 * (values @ weights.conj()).real
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert edge.tolist() == pytest.approx(images[:, border].mean(1).tolist(), abs=1e-6)
    moments = padded_moments(edge, squares, side=32, padded_shape=padded)
    ratio = 32 * 32 / (40 * 44)
    for image, e, total in zip(images, edge, moments.square_sum, strict=True):
        mean = (image - e).mean() * ratio**2
        expected = (image - e - mean).square().sum() + (40 - 32) * (44 - 32) * mean**2
        assert float(total) == pytest.approx(float(expected))


def test_what_cannot_be_filtered_is_refused_with_the_reason():
    noise = torch.from_numpy(keyed_random.normal(1, "noise", 1, size=(64, 64)))
    with pytest.raises(InputError, match="must let some frequencies of a micrograph pass"):
        filter_micrograph(noise, FilterParams(bandpass_high=0.001))
    curves = filter_micrograph(noise, FilterParams(bandpass_high=0.02)).curves
    with pytest.raises(InputError, match="must let some frequencies of a box of 32 px pass"):
        BoxModel.of(template_particles.template(), curves, ImageGrid.square(32, template_particles.PIXEL))
    with pytest.raises(ShapeError, match="two sides"):
        filter_micrograph(torch.zeros(3, 64), FilterParams())
    with pytest.raises(InputError, match="contrast"):
        filter_micrograph(torch.ones(64, 64), FilterParams())
    with pytest.raises(InputError, match="must ascend"):
        FilterParams(filter_frequencies=(0.2, 0.1), filter_amplitudes=(1, 1))
