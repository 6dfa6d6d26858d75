import numpy as np
import pytest
import torch

from halfmap.ctf_estimation.estimate import estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import given_spectrum, power_spectra, windows_of
from halfmap.errors import InputError
from support.thon_rings import TITAN, lens, thon_micrograph, thon_spectra


def noise(shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(10, 3, size=shape).astype(np.float32))


def test_windows_cover_the_image_and_stay_inside():
    windows = windows_of((700, 901), 1.5, 256)
    covered = np.zeros((700, 901), dtype=bool)
    for x, y in windows.corners:
        covered[y : y + 256, x : x + 256] = True
        assert y + 256 <= 700
        assert x + 256 <= 901
    assert covered.all()


def test_power_of_white_noise_is_flat():
    image = noise((1024, 1024))
    spectra = power_spectra(image, windows_of((1024, 1024), 1.5, 128), pixel_size_angstrom=1.5)
    power = spectra.power[0][2:-2, 2:-2]
    rows = power.reshape(4, -1, power.shape[1]).mean(dim=(1, 2))
    assert float(rows.std() / rows.mean()) < 0.02  # of 225 windows


def test_fine_pixels_are_binned_in_the_spectrum():
    image = noise((800, 800))
    spectra = power_spectra(image, windows_of((800, 800), 0.7, 256), pixel_size_angstrom=0.7)
    assert spectra.grid.shape == (256, 256)
    assert spectra.grid.pixel_size_angstrom == pytest.approx(1.4)


def test_binned_rings_lie_where_those_of_the_whole_spectrum_do():
    truth = lens(12_000, astigmatism=500, angle_degrees=35)
    image = torch.from_numpy(thon_micrograph(truth, shape=(1100, 1100), pixel_size=0.9, depth=2.0))
    spectra = power_spectra(image, windows_of((1100, 1100), 0.9, 384), pixel_size_angstrom=0.9)
    found = estimate(spectra, TITAN, CtfEstimationParams())
    assert found.lens.defocus_angstrom == pytest.approx(12_000, abs=50)  # Å
    assert found.lens.angle_degrees == pytest.approx(35, abs=5)  # degrees: rows and columns are not swapped


def test_bright_spots_do_not_raise_the_noise():
    image = noise((600, 600))
    windows = windows_of((600, 600), 1.5, 256)
    clean = power_spectra(image, windows, pixel_size_angstrom=1.5).power
    hot = image.clone()
    hot[::50, ::50] = 1e4
    spoilt = power_spectra(hot, windows, pixel_size_angstrom=1.5).power
    assert float((spoilt / clean.clamp(min=1e-9)).median()) == pytest.approx(1.0, abs=0.02)


def test_constant_image_is_refused():
    with pytest.raises(InputError, match="must vary"):
        power_spectra(torch.full((300, 300), 7.0), windows_of((300, 300), 1.5, 256), pixel_size_angstrom=1.5)


def test_image_smaller_than_a_window_is_refused():
    with pytest.raises(InputError, match="smaller --box"):
        windows_of((400, 600), 1.5, 512)


def test_given_amplitudes_have_the_same_ctf_as_the_power_they_are_the_root_of():
    spectra = thon_spectra(lens(14_000, astigmatism=400, angle_degrees=60))
    half = spectra.power[0]
    rows = -torch.arange(512) % 512
    whole = torch.cat([half, half[rows][:, 1:256].flip(1)], dim=1)
    amplitudes = torch.fft.fftshift(whole.sqrt(), dim=(0, 1))
    given = given_spectrum(amplitudes, pixel_size_angstrom=1.5)
    torch.testing.assert_close(given.power[0][1:], half[1:])
    with pytest.raises(InputError, match="square"):
        given_spectrum(amplitudes[:100], pixel_size_angstrom=1.5)
