import math
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch
from torch_ctf import calculate_ctf_2d

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.optics.aberrations import magnify
from halfmap.optics.ctf import ctf, phase_aberration

MICROSCOPE = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
DEFOCUS = {"defocus_u_angstrom": 9000.0, "defocus_v_angstrom": 7000.0, "defocus_angle_degrees": 25.0}
POINTS = [(0, 0), (20, 0), (0, 20), (17, 5), (22, -9)]  # (x, y) in pixels of a 64-pixel transform at 1.5 Å


def at_points() -> torch.Tensor:
    return torch.tensor(POINTS, dtype=torch.float64) / 96.0


def even(i: int, value: float) -> list[float]:
    return [value if j == i else 0.0 for j in range(9)]


def test_ctf_at_zero_frequency_is_plus_the_amplitude_contrast():
    value = ctf(torch.zeros(1, 2), **DEFOCUS, **MICROSCOPE, dtype=torch.float64)
    assert value.item() == pytest.approx(0.1, abs=1e-12)


def test_a_phase_plate_of_ninety_degrees_gives_the_cosine_of_the_contrast_angle():
    value = ctf(torch.zeros(1, 2), **DEFOCUS, **MICROSCOPE, phase_shift_degrees=90.0, dtype=torch.float64)
    assert value.item() == pytest.approx(math.sqrt(1 - 0.1**2), abs=1e-12)


def test_underfocus_is_positive_and_starts_with_positive_contrast():
    # 10,000 Å at 300 kV, s = 1/30 Å: γ = −0.687225 (defocus) + 0.000400 (Cs) − 0.100167 (contrast).
    value = ctf(
        torch.tensor([[1 / 30.0, 0.0]], dtype=torch.float64),
        defocus_u_angstrom=10_000.0,
        defocus_v_angstrom=10_000.0,
        **MICROSCOPE,
    )
    assert value.item() == pytest.approx(math.sin(0.686825 + 0.100167), abs=2e-5)


def test_astigmatism_places_defocus_u_along_its_angle():
    direction = torch.tensor([math.cos(math.radians(25.0)), math.sin(math.radians(25.0))], dtype=torch.float64) / 12.0
    across = torch.stack([-direction[1], direction[0]])
    for frequency, defocus in ((direction, 9000.0), (across, 7000.0)):
        round_ctf = ctf(frequency[None], defocus_u_angstrom=defocus, defocus_v_angstrom=defocus, **MICROSCOPE)
        torch.testing.assert_close(ctf(frequency[None], **DEFOCUS, **MICROSCOPE), round_ctf, atol=1e-6, rtol=0)


# Transform of relion_project --ctf (RELION 3.1.3, Debian 3.1.3-2) of a centred point, 64³ at 1.5 Å, at POINTS.
@pytest.mark.oracle
@pytest.mark.parametrize(
    ("even_zernike", "expected"),
    [
        ((), [0.1, -0.644793, 0.381337, -0.250977, -0.602565]),
        (even(0, 1.0), [-0.783223, 0.294801, -0.571849, -0.950142, 0.345986]),
        (even(2, 3.0), [0.041413, 0.29432, 0.010767, 0.564403, 0.136849]),
        (even(3, 3.0), [0.1, -0.540091, 0.498138, -0.333135, -0.492992]),
        (even(4, 30.0), [0.1, -0.644793, 0.381337, -0.281535, -0.688521]),
        (even(5, 30.0), [0.1, -0.644793, 0.381337, 0.971398, 0.235008]),
        (even(8, 30.0), [0.1, -0.60059, 0.328512, -0.264899, -0.600987]),
    ],
)
def test_ctf_agrees_with_relion_at_stated_points(even_zernike, expected):
    values = ctf(at_points(), **DEFOCUS, **MICROSCOPE, even_zernike=even_zernike)
    torch.testing.assert_close(values, torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.oracle
def test_ctf_under_anisotropic_magnification_agrees_with_relion():
    frequencies = magnify(at_points(), [[1.02, 0.01], [0.03, 0.97]])
    values = ctf(frequencies, **DEFOCUS, **MICROSCOPE)
    expected = torch.tensor([0.1, -0.987303, -0.616246, 0.682145, -0.811125])
    torch.testing.assert_close(values, expected, atol=5e-6, rtol=0)


@pytest.mark.oracle
def test_ctf_with_phase_plate_agrees_with_relion_along_x():
    # relion_ctf_toolbox --simulate --angpix 1.5 --box 64 --phase_shift 90 (RELION 3.1.3), row of the centre.
    expected = [0.9949874, 0.98751765, 0.9453531, 0.8127786, 0.5171759, 0.0229204, -0.57496345, -0.97836286]
    frequencies = torch.stack([torch.arange(8) / 96.0, torch.zeros(8)], dim=-1)
    values = ctf(frequencies, **DEFOCUS, **MICROSCOPE, phase_shift_degrees=90.0)
    torch.testing.assert_close(values, torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.oracle
@pytest.mark.parametrize("intact", [False, True])
@pytest.mark.parametrize("phase_shift", [0.0, 35.0])
def test_whole_ctf_image_agrees_with_an_installed_relion(tmp_path, intact, phase_shift):
    if shutil.which("relion_ctf_toolbox") is None:
        pytest.skip("relion_ctf_toolbox is not installed")
    command = "relion_ctf_toolbox --simulate ctf.mrc --angpix 1.5 --box 64 --kV 200 --Q0 0.07 --Cs 1.4 --defU 12000"
    command += f" --defV 15000 --defAng -40 --phase_shift {phase_shift}"
    command += " --ctf_intact_first_peak" if intact else ""
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    image = torch.from_numpy(np.fft.ifftshift(mrcfile.read(tmp_path / "ctf.mrc"))[:, :33])
    values = ctf(
        ImageGrid.square(64, 1.5).frequencies(),
        defocus_u_angstrom=12000.0,
        defocus_v_angstrom=15000.0,
        defocus_angle_degrees=-40.0,
        voltage_kv=200.0,
        spherical_aberration_mm=1.4,
        amplitude_contrast=0.07,
        phase_shift_degrees=phase_shift,
        intact_first_peak=intact,
    )
    # The program leaves the negative Nyquist row and column aside.
    difference = (image - values).abs()[torch.arange(64) != 32, :32]
    assert difference.max() < 1e-4


@pytest.mark.oracle
@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("phase_shift", [0.0, 60.0, 90.0])
def test_ctf_agrees_with_torch_ctf(side, phase_shift):
    values = ctf(
        ImageGrid.square(side, 2.5).frequencies(),
        defocus_u_angstrom=16_000.0,
        defocus_v_angstrom=14_000.0,
        defocus_angle_degrees=35.0,
        phase_shift_degrees=phase_shift,
        **MICROSCOPE,
    )
    theirs = calculate_ctf_2d(
        defocus=torch.tensor(1.5),
        astigmatism=torch.tensor(0.1),
        astigmatism_angle=torch.tensor(35.0),
        # Theirs is the wavelength of newer constants, 6.5e-6 below RELION's at 300 kV: ask for the same wavelength.
        voltage=300.0 * (1.0 - 6.5e-6 / 0.6135),
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
        phase_shift=phase_shift,
        pixel_size=2.5,
        image_shape=(side, side),
        rfft=True,
        fftshift=False,
    )
    # Nyquist of even sides lies at minus their frequency, which astigmatism tells apart: leave it out. Float32 there.
    inside = torch.arange(side) != (side // 2 if side % 2 == 0 else -1)
    assert (values - theirs).abs()[inside, : (side - 1) // 2].max() < 1e-4


def test_b_factor_and_scale_multiply_the_ctf():
    frequencies = at_points()
    plain = ctf(frequencies, **DEFOCUS, **MICROSCOPE)
    damped = ctf(frequencies, **DEFOCUS, **MICROSCOPE, b_factor_angstrom2=80.0, scale=0.9)
    expected = 0.9 * plain * torch.exp(-20.0 * frequencies.square().sum(-1)).float()
    torch.testing.assert_close(damped, expected)


def test_intact_first_peak_is_one_up_to_a_phase_of_ninety_degrees_and_the_ctf_beyond():
    frequencies = torch.stack([torch.linspace(0, 0.2, 400), torch.zeros(400)], dim=-1).double()
    intact = ctf(frequencies, **DEFOCUS, **MICROSCOPE, intact_first_peak=True)
    plain = ctf(frequencies, **DEFOCUS, **MICROSCOPE)
    before = phase_aberration(frequencies, **DEFOCUS, **MICROSCOPE).abs() < math.pi / 2
    assert before[0]
    assert not before[-1]
    assert (intact[before] == 1).all()
    torch.testing.assert_close(intact[~before], plain[~before])


def test_particles_evaluated_together_equal_particles_evaluated_alone():
    parameters = {
        "defocus_u_angstrom": torch.tensor([9000.0, 20_000.0, 5000.0]),
        "defocus_v_angstrom": np.array([8000.0, 21_000.0, 5000.0]),
        "defocus_angle_degrees": [10.0, 80.0, 0.0],
        "phase_shift_degrees": [0.0, 90.0, 30.0],
        "voltage_kv": [300.0, 200.0, 300.0],
        "b_factor_angstrom2": [0.0, 50.0, 100.0],
        "scale": np.array([1.0, 0.5, 2.0]),
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
    }
    frequencies = ImageGrid.square(8, 2.0).frequencies()
    together = ctf(frequencies, **parameters)
    assert together.shape == (3, 8, 5)
    for i in range(3):
        own = {name: value if isinstance(value, float) else float(value[i]) for name, value in parameters.items()}
        torch.testing.assert_close(together[i], ctf(frequencies, **own))


def test_ctf_has_the_gradient_of_finite_differences_in_every_parameter():
    def evaluate(u, v, angle, phase_shift, b_factor, scale):
        return ctf(
            at_points()[1:],
            defocus_u_angstrom=1e4 * u,
            defocus_v_angstrom=1e4 * v,
            defocus_angle_degrees=angle,
            phase_shift_degrees=phase_shift,
            b_factor_angstrom2=b_factor,
            scale=scale,
            dtype=torch.float64,
            **MICROSCOPE,
        )

    values = ([0.9, 1.5], [0.8, 1.6], [20.0, -30.0], [0.0, 45.0], [0.0, 80.0], [1.0, 0.7])
    inputs = tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)
    assert torch.autograd.gradcheck(evaluate, inputs, eps=1e-6, atol=1e-6)


def test_float32_result_keeps_its_digits_at_hundreds_of_radians():
    frequencies = torch.tensor([[0.4, 0.1]], dtype=torch.float64)
    optics = {**MICROSCOPE, "defocus_u_angstrom": 40_000.0, "defocus_v_angstrom": 40_000.0}
    assert phase_aberration(frequencies, **optics).abs() > 300
    single, double = ctf(frequencies, **optics), ctf(frequencies, **optics, dtype=torch.float64)
    assert abs(single.item() - double.item()) < 5e-7


def test_an_amplitude_contrast_of_one_or_more_is_refused():
    with pytest.raises(InputError, match="amplitude contrast must lie in"):
        ctf(at_points(), **DEFOCUS, **{**MICROSCOPE, "amplitude_contrast": 10.0})


def test_frequencies_without_two_components_are_refused():
    with pytest.raises(ShapeError, match="Frequencies must have 2 components"):
        ctf(torch.zeros(4, 3), **DEFOCUS, **MICROSCOPE)
