import dataclasses
import math

import pytest

from halfmap.ctf_estimation.estimate import estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.errors import InputError
from support.thon_rings import TITAN, frequencies, lens, thon_spectra

PARAMS = CtfEstimationParams(min_defocus_angstrom=3500)


def vector(one):
    return complex(one.astigmatism_x_angstrom, one.astigmatism_y_angstrom) * 2


@pytest.mark.parametrize(
    ("defocus", "astigmatism", "angle"), [(4_000, 300, 20), (15_000, 600, 75), (40_000, 400, 160), (20_000, 2_600, 110)]
)
def test_defocus_and_astigmatism_are_found(defocus, astigmatism, angle):
    truth = lens(defocus, astigmatism=astigmatism, angle_degrees=angle)
    found = estimate(thon_spectra(truth), TITAN, PARAMS)
    assert found.failure == ""
    assert found.lens.defocus_angstrom == pytest.approx(defocus, abs=50)  # Å, what a user may expect
    assert abs(vector(found.lens) - vector(truth)) < 0.05 * astigmatism
    assert found.figure_of_merit > 0.7
    assert found.max_resolution_angstrom < 5.5  # at 4 µm rings become too narrow for the box at 5.1 Å


def test_phase_shift_is_told_from_defocus():
    truth = lens(8_000, astigmatism=300, angle_degrees=30, phase_shift_degrees=70)
    found = estimate(thon_spectra(truth), TITAN, dataclasses.replace(PARAMS, phase_shift=True))
    assert found.lens.phase_shift_degrees == pytest.approx(70, abs=5)  # degrees
    assert found.lens.defocus_angstrom == pytest.approx(8_000, abs=50)  # Å


def test_known_phase_shift_stays():
    truth = lens(8_000, phase_shift_degrees=90)
    found = estimate(thon_spectra(truth), TITAN, PARAMS, phase_shift_degrees=90)
    assert found.lens.phase_shift_degrees == 90
    assert found.lens.defocus_angstrom == pytest.approx(8_000, abs=50)  # Å


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spectrum_without_rings_is_a_failure(seed):
    found = estimate(thon_spectra(lens(10_000), box=256, depth=0.0, seed=seed), TITAN, PARAMS)
    assert "no rings" in found.failure


def test_rings_of_crystalline_ice_are_not_taken_for_those_of_the_ctf():
    spectra = thon_spectra(lens(10_000), box=256, depth=0.0)
    s = frequencies(256, 1.5).norm(dim=-1)
    for spacing_angstrom in (3.90, 3.67, 3.44):  # of hexagonal ice
        spectra.power[0][(s - 1 / spacing_angstrom).abs() < 0.004] *= 4
    found = estimate(spectra, TITAN, PARAMS)
    assert "no rings" in found.failure
    assert found.ice_ring_density > 0.3


def test_spectra_of_known_offsets_are_fitted_together():
    truth = lens(20_000, astigmatism=400, angle_degrees=40)
    offsets = (-1_200.0, 0.0, 1_200.0)
    spectra = thon_spectra(truth, box=256, depth=0.15, n_windows=30, offsets=offsets)
    found = estimate(spectra, TITAN, PARAMS, offset_angstrom=offsets)
    assert found.failure == ""
    assert found.lens.defocus_angstrom == pytest.approx(20_000, abs=50)  # Å


def test_fewer_rings_are_followed_where_they_fade_sooner():
    reached = [
        estimate(thon_spectra(lens(12_000), box=256, b_factor=b), TITAN, PARAMS).max_resolution_angstrom
        for b in (60, 600)
    ]
    assert reached[0] < reached[1] < math.inf


def test_resolution_beyond_the_pixels_is_refused():
    with pytest.raises(InputError, match="--max-resolution must be"):
        estimate(thon_spectra(lens(12_000), pixel_size=3.0, box=256), TITAN, PARAMS)
