import math

import numpy as np
import pytest
import torch

from halfmap.ctf_estimation import quality
from halfmap.ctf_estimation.rings import rings_of
from support.thon_rings import TITAN, lens, thon_spectra

STEP = 1 / (512 * 1.5)


def rings(spectra, finest=3.2):
    return rings_of(spectra, min_resolution_angstrom=30.0, max_resolution_angstrom=finest)


def test_mean_defocus_has_the_same_phase_at_the_equivalent_frequency():
    truth = lens(12_000, astigmatism=900, angle_degrees=50, phase_shift_degrees=30)
    one = rings(thon_spectra(truth, box=128))
    s = quality.mean_defocus_frequency(one.frequencies, TITAN, truth, torch.tensor([300.0], dtype=torch.float64))[0]
    along = torch.stack([s, torch.zeros_like(s)], dim=-1)
    zero = torch.zeros(1, dtype=torch.float64)
    expected = truth.gamma(one.frequencies, TITAN, zero + 300.0)
    torch.testing.assert_close(lens(12_000, phase_shift_degrees=30).gamma(along, TITAN, zero), expected)


def test_profile_along_equal_phases_keeps_the_rings_that_a_circular_mean_blurs():
    truth = lens(20_000, astigmatism=3_000, angle_degrees=20)
    one = rings(thon_spectra(truth, n_windows=1000, b_factor=0.0))
    along, around = (quality.ring_profile(one, TITAN, way, step=STEP) for way in (truth, lens(20_000)))
    fine = along.s > 0.15
    assert np.corrcoef(along.data[fine], along.model[fine])[0, 1] > 0.9
    assert abs(np.corrcoef(around.data[fine], around.model[fine])[0, 1]) < 0.4


def test_resolution_is_where_the_rings_end():
    truth = lens(15_000)
    s = np.arange(30, 240) * STEP
    gamma = truth.gamma(torch.from_numpy(np.stack([s, 0 * s], axis=-1)), TITAN, torch.zeros(1, dtype=torch.float64))
    model = gamma.sin().square()[0].numpy()
    noise = np.random.default_rng(2).normal(size=len(s))
    data = np.where(s < 0.18, model, 0.4 * noise)
    profile = quality.RingProfile(s=s, data=data, model=model, counts=np.ones(len(s)))
    resolution, _ = quality.fit_resolution(profile, TITAN, truth)
    assert 1 / resolution == pytest.approx(0.18, abs=9 * STEP)  # half a window


def test_noise_has_no_resolution_or_a_poor_one():
    profile = quality.ring_profile(rings(thon_spectra(lens(15_000), depth=0.0)), TITAN, lens(15_000), step=STEP)
    resolution, _ = quality.fit_resolution(profile, TITAN, lens(15_000))
    assert resolution > 6.0


def test_equal_lenses_agree_and_others_do_not():
    limits = (1 / 30, 1 / 5)
    assert quality.lens_agreement(lens(15_000), lens(15_000), TITAN, limits) == pytest.approx(1)
    assert quality.lens_agreement(lens(15_000), lens(15_030), TITAN, limits) > 0.9
    assert abs(quality.lens_agreement(lens(15_000), lens(18_000), TITAN, limits)) < 0.3


def test_ring_of_crystalline_ice_is_measured():
    spectra = thon_spectra(lens(15_000))
    clean = quality.ice_ring_density(rings(spectra, finest=3.05))
    x = torch.fft.rfftfreq(512, d=1.5, dtype=torch.float64)
    y = torch.fft.fftfreq(512, d=1.5, dtype=torch.float64)
    s = torch.hypot(*torch.meshgrid(x, y, indexing="xy"))
    spectra.power[0][(s > 0.255) & (s < 0.275)] *= 2
    assert abs(clean) < 0.1
    assert quality.ice_ring_density(rings(spectra, finest=3.05)) == pytest.approx(2 / 3, abs=0.3)
    assert math.isnan(quality.ice_ring_density(rings(spectra, finest=5.0)))


def test_rings_alone_are_the_data_where_rings_are_all_there_is():
    truth = lens(15_000)
    profile = quality.ring_profile(rings(thon_spectra(truth, n_windows=1e6)), TITAN, truth, step=STEP)
    data, model = quality.rings_alone(profile, (1 / 30, 1 / 5))
    fitted = np.isfinite(model)
    assert profile.s[fitted].max() < 0.2 < profile.s.max()
    # pixels average over a part of a ring, and the fall was divided out by a polynomial
    np.testing.assert_allclose(data[fitted], model[fitted], atol=0.1)
    assert np.quantile(model[fitted], 0.95) == pytest.approx(1)
