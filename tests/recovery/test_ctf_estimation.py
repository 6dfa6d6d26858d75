"""The CTF of whole micrographs, simulated and real."""

import numpy as np
import pytest
import torch

from halfmap.ctf_estimation.estimate import estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import power_spectra, windows_of
from halfmap.ctf_estimation.rings import Microscope
from halfmap.io import relion
from halfmap.io.images import read_micrograph
from halfmap.simulation.layout import lay_out
from halfmap.simulation.micrographs import micrograph
from halfmap.simulation.params import MicrographSimulationParams
from support.shared_data import shared_data
from support.simulations import references

UNRELIABLE = "May08_06.09.02"
DEFOCUS = ("u_angstrom", "v_angstrom", "angle_degrees")


def estimated(image, pixel_size, amplitude_contrast, **settings):
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=amplitude_contrast)
    spectra = power_spectra(values, windows_of(tuple(values.shape), pixel_size, 512), pixel_size_angstrom=pixel_size)
    return estimate(spectra, microscope, CtfEstimationParams(**settings))


@pytest.mark.slow
@pytest.mark.parametrize(("dose", "phase_shift"), [(40.0, 0.0), (20.0, 0.0), (40.0, 70.0)])
def test_ctf_of_simulated_micrographs_is_recovered(dose, phase_shift):
    params = MicrographSimulationParams(
        number=3,
        size_pixel=(1600, 1600),
        min_defocus_angstrom=4_000.0,
        max_defocus_angstrom=15_000.0 if phase_shift else 40_000.0,
        astigmatism_angstrom=800.0,
        dose_e_per_angstrom2=dose,
        phase_shift_degrees=phase_shift,
    )
    made = references("compact-d2-120", 1.5)
    for number in range(params.number):
        layout = lay_out(number, params, made.diameters_angstrom)
        counts = micrograph(layout, made, params).counts
        found = estimated(counts, 1.5, 0.1, min_defocus_angstrom=3_500.0, phase_shift=phase_shift > 0)
        u, v, angle = (float(getattr(layout.defocus, name)[0]) for name in DEFOCUS)
        assert found.failure == ""
        assert found.lens.defocus_angstrom == pytest.approx((u + v) / 2, abs=50)  # Å
        assert found.lens.phase_shift_degrees == pytest.approx(phase_shift, abs=5)  # degrees
        true = (u - v) * np.exp(2j * np.radians(angle))
        vector = 2 * complex(found.lens.astigmatism_x_angstrom, found.lens.astigmatism_y_angstrom)
        assert abs(vector - true) < max(0.05 * abs(true), 20)  # Å: 5 %, or what small ones are known to


def real_table():
    folder = shared_data("apoferritin")
    table = relion.read_micrographs(folder / "micrographs_ctf.star")
    names = [str(name) for name in table["micrograph_name"]]
    return folder, dict(zip(names, table["defocus_u_angstrom"].tolist(), strict=True))


def check_real(name, folder, known):
    found = estimated(read_micrograph(folder / name), 1.5, 0.07)
    if UNRELIABLE in name:
        assert "no rings" in found.failure
        return
    assert found.failure == ""
    assert found.lens.defocus_angstrom == pytest.approx(known, abs=300)  # Å: the table is a fit without astigmatism
    assert found.max_resolution_angstrom < 5.5
    assert found.figure_of_merit > 0.75


def test_ctf_of_a_real_micrograph_agrees_with_its_table_and_the_unreliable_one_is_told():
    folder, known = real_table()
    for name in [name for name in known if UNRELIABLE in name or "05.55.31" in name]:
        check_real(name, folder, known[name])


@pytest.mark.slow
def test_ctf_of_all_real_micrographs_agrees_with_their_table():
    folder, known = real_table()
    for name, defocus in known.items():
        check_real(name, folder, defocus)
