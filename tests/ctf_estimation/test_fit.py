import dataclasses

import pytest
import torch

from halfmap import keyed_random
from halfmap.ctf_estimation.fit import Lens, _Problem, fit
from halfmap.ctf_estimation.rings import rings_of
from support.thon_rings import TITAN, lens, thon_spectra

NAMES = ["defocus_angstrom", "astigmatism_x_angstrom", "astigmatism_y_angstrom", "phase_shift_degrees"]
LIMITS = {"min_resolution_angstrom": 30.0, "max_resolution_angstrom": 5.0}


def test_lens_is_read_back_from_its_defoci():
    one = lens(20_000, astigmatism=600, angle_degrees=150)
    assert (one.defocus_u_angstrom, one.defocus_v_angstrom) == pytest.approx((20_300, 19_700))
    assert one.angle_degrees == pytest.approx(150)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_the_derivatives_of_the_phase(name):
    rings = rings_of(thon_spectra(lens(15_000), box=128), **LIMITS)
    problem = _Problem(rings, TITAN, NAMES)
    at = lens(15_000, astigmatism=500, angle_degrees=25, phase_shift_degrees=40)
    zero = torch.zeros(1, dtype=torch.float64)
    by = 0.01
    above, below = (
        dataclasses.replace(at, **{name: getattr(at, name) + side * by}).gamma(rings.frequencies, TITAN, zero)[0]
        for side in (1, -1)
    )
    slope = (above - below) / (2 * by)
    torch.testing.assert_close(problem.slopes[:, NAMES.index(name)], slope, rtol=1e-5, atol=1e-8)


def test_fit_of_noiseless_rings_is_exact():
    truth = lens(15_000, astigmatism=500, angle_degrees=25)
    spectra = thon_spectra(truth, box=256, n_windows=1e12)
    found = fit(rings_of(spectra, **LIMITS), TITAN, lens(15_080, astigmatism=400, angle_degrees=30))
    assert found.is_converged
    # the background's few polynomials leave a part in ten thousand of the power
    assert found.lens.defocus_angstrom == pytest.approx(15_000, abs=3)
    assert found.lens.half_astigmatism_angstrom * 2 == pytest.approx(500, abs=3)


def test_spots_of_crystals_do_not_move_the_fit():
    spectra = thon_spectra(lens(15_000), box=256)
    spots = torch.from_numpy(keyed_random.permutation(1, "spots", 256 * 129)[:300])
    spoilt = spectra.power.clone().reshape(-1)
    spoilt[spots] *= 20
    start = lens(15_100)
    found = [
        fit(
            rings_of(dataclasses.replace(spectra, power=power.reshape(1, 256, 129)), **LIMITS), TITAN, start
        ).lens.defocus_angstrom
        for power in (spectra.power, spoilt)
    ]
    assert found[1] == pytest.approx(found[0], abs=15)  # Å, a third of what is promised


def test_what_is_not_fitted_stays():
    start = lens(15_050, astigmatism=300, angle_degrees=10, phase_shift_degrees=5)
    rings = rings_of(thon_spectra(lens(15_000)), **LIMITS)
    found = fit(rings, TITAN, start, astigmatism=False).lens
    assert found == Lens(**{**dataclasses.asdict(start), "defocus_angstrom": found.defocus_angstrom})
