import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesOptics, SeriesWeights
from halfmap.errors import InputError
from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.deformation import views
from halfmap.imaging.series_transfer import (
    CTF_PARAMETERS,
    ctf_gamma_derivative,
    ctf_values,
    image_ctf,
    image_weights,
    odd_basis,
    odd_phase_factors,
    phase_basis,
    weights_of_images,
)
from halfmap.splines.grids import SplineGrid
from support.plain_series import ODD, ctf_of, spline, zernike_sum
from support.series_models import frame_series, particles_in, plain_frame_series, plain_tilt_series, tilt_series

RANDOM = np.random.default_rng(8)
FREQUENCIES = RANDOM.uniform(-0.2, 0.2, (25, 2))
OPTICS = SeriesOptics(
    pixel_size_angstrom=1.5,
    voltage_kv=200.0,
    spherical_aberration_mm=2.1,
    amplitude_contrast=0.08,
    even_zernike=RANDOM.normal(scale=3, size=8),
    odd_zernike=RANDOM.normal(scale=3, size=12),
)
TILT_CTF = {
    "defocus_angstrom": RANDOM.normal(25000, 400, (5, 1, 1)),
    "astigmatism_angstrom": RANDOM.normal(300, 50, (5, 1, 1)),
    "astigmatism_angle_degrees": RANDOM.normal(40, 10, (5, 1, 1)),
    "phase_shift_degrees": RANDOM.normal(60, 10, (5, 1, 1)),
}
FRAME_CTF = {
    "defocus_angstrom": RANDOM.normal(12000, 400, (1, 4, 4)),
    "astigmatism_angstrom": RANDOM.normal(300, 50, (1, 3, 3)),
    "astigmatism_angle_degrees": RANDOM.normal(40, 10, (1, 3, 3)),
    "phase_shift_degrees": RANDOM.normal(60, 10, (1, 1, 1)),
    "doming_angstrom": RANDOM.normal(0, 30, (6, 3, 3)),
    "spherical_aberration_offset_mm": RANDOM.normal(0, 0.1, (1, 3, 3)),
}


def grids(values):
    return {name: SplineGrid(values=torch.from_numpy(nodes)) for name, nodes in values.items()}


def tilts(**fields):
    return tilt_series(plain_tilt_series(), optics=OPTICS, **{**grids(TILT_CTF), **fields})


def frames(**fields):
    return frame_series(plain_frame_series(), optics=OPTICS, **{**grids(FRAME_CTF), **fields})


def seen_in(series, size, n_particles=3, n_samples=2):
    positions = particles_in(size, n_particles, n_samples)
    turned = random_rotations(1, "test", np.arange(n_particles))[:, None].expand(n_particles, n_samples, 3, 3)
    return positions, views(series, positions, turned)


def frequencies():
    return torch.from_numpy(FREQUENCIES)


def test_ctf_of_tilts_is_that_of_the_plain_formula():
    series = tilts()
    positions, seen = seen_in(series, (4000, 3600, 1500))
    values = ctf_values(series, image_ctf(series, positions, seen), frequencies())
    for p in range(3):
        for t in range(5):
            expected = ctf_of(
                FREQUENCIES,
                defocus=TILT_CTF["defocus_angstrom"][t, 0, 0] + seen.depth_angstrom[p, t].item(),
                astigmatism=TILT_CTF["astigmatism_angstrom"][t, 0, 0],
                angle=TILT_CTF["astigmatism_angle_degrees"][t, 0, 0],
                phase_shift=TILT_CTF["phase_shift_degrees"][t, 0, 0],
                cs_mm=2.1,
                voltage_kv=200,
                contrast=0.08,
                even=OPTICS.even_zernike,
            )
            np.testing.assert_allclose(values[p, t], expected, atol=1e-6)


def test_ctf_of_frames_follows_place_height_and_doming():
    series = frames()
    positions, seen = seen_in(series, (4100, 3900, 400), n_samples=1)
    values = ctf_values(series, image_ctf(series, positions, seen), frequencies())
    for p in range(3):
        x, y, z = (positions[p, 0] / torch.tensor([4100.0, 3900.0, 1.0])).tolist()
        for f in range(6):

            def at(name, where=(x, y, f / 5)):
                return spline(FRAME_CTF[name], *where)

            expected = ctf_of(
                FREQUENCIES,
                defocus=at("defocus_angstrom") + at("doming_angstrom") + z,
                astigmatism=at("astigmatism_angstrom"),
                angle=at("astigmatism_angle_degrees"),
                phase_shift=at("phase_shift_degrees"),
                cs_mm=2.1 + at("spherical_aberration_offset_mm"),
                voltage_kv=200,
                contrast=0.08,
                even=OPTICS.even_zernike,
            )
            np.testing.assert_allclose(values[p, f], expected, atol=1e-6)


def test_a_deeper_particle_is_more_defocused():
    series = tilts()
    positions, seen = seen_in(series, (4000, 3600, 1500))
    table = image_ctf(series, positions, seen)
    mean = (table.defocus_u_angstrom + table.defocus_v_angstrom) / 2
    middle = torch.from_numpy(TILT_CTF["defocus_angstrom"][:, 0, 0])
    torch.testing.assert_close(mean - middle, seen.depth_angstrom)


def test_parameters_of_the_ctf_move_it_by_their_basis():
    """Finite differences of steps that turn phases by some 1e-3; the error is of second order in them."""
    series = tilts()
    positions, seen = seen_in(series, (4000, 3600, 1500), n_particles=2)
    table = image_ctf(series, positions, seen)
    slope = ctf_gamma_derivative(series, table, frequencies()).double()
    angle = torch.deg2rad(2 * table.defocus_angle_degrees)
    delta = table.defocus_u_angstrom - table.defocus_v_angstrom
    mean = (table.defocus_u_angstrom + table.defocus_v_angstrom) / 2

    def moved(name, step):
        a, b = delta * angle.cos(), delta * angle.sin()
        a, b = a + step * (name == "astigmatism_a"), b + step * (name == "astigmatism_b")
        even = OPTICS.even_zernike.copy()
        if name.startswith("even_zernike_"):
            even[int(name[-1])] += step
        half, centre = torch.hypot(a, b) / 2, mean + step * (name == "defocus")
        return [
            ctf_of(
                FREQUENCIES,
                defocus=centre[p, t].item(),
                astigmatism=2 * half[p, t].item(),
                angle=np.rad2deg(torch.atan2(b, a)[p, t].item() / 2),
                phase_shift=(table.phase_shift_degrees[p, t] + np.rad2deg(step) * (name == "phase_shift")).item(),
                cs_mm=2.1 + step * (name == "spherical_aberration"),
                voltage_kv=200,
                contrast=0.08,
                even=even,
            )
            for p in range(2)
            for t in range(5)
        ]

    for name in CTF_PARAMETERS:
        basis = phase_basis(series, name, frequencies())
        step = 1e-4 / basis.abs().max().item()
        change = (np.array(moved(name, step)) - np.array(moved(name, -step))) / (2 * step)
        expected = (slope * basis).reshape(10, -1)
        np.testing.assert_allclose(change, expected, atol=2e-6 * basis.abs().max().item(), err_msg=name)


def test_ctf_is_differentiable_in_the_grids_of_defocus():
    positions, seen = seen_in(tilts(), (4000, 3600, 1500), n_particles=2)

    def defoci(nodes, astigmatism):
        series = tilts(defocus_angstrom=SplineGrid(values=nodes), astigmatism_angstrom=SplineGrid(values=astigmatism))
        return image_ctf(series, positions, seen).defocus_u_angstrom

    nodes = [torch.from_numpy(TILT_CTF[name]) for name in ("defocus_angstrom", "astigmatism_angstrom")]
    assert torch.autograd.gradcheck(defoci, [values.requires_grad_() for values in nodes])


def test_odd_aberrations_turn_what_is_recorded_by_their_sum():
    phase = zernike_sum(OPTICS.odd_zernike, ODD, FREQUENCIES)
    factors = odd_phase_factors(tilts(), frequencies())
    np.testing.assert_allclose(factors, np.exp(1j * phase), atol=1e-6)
    basis = sum(c * odd_basis(i, frequencies()) for i, c in enumerate(OPTICS.odd_zernike))
    np.testing.assert_allclose(basis, phase, atol=1e-12)
    plain = tilt_series(plain_tilt_series())
    assert odd_phase_factors(plain, frequencies()) is None


def test_unknown_parameters_of_the_ctf_are_refused():
    with pytest.raises(InputError, match="got 'beam_tilt'"):
        phase_basis(tilts(), "beam_tilt", frequencies())


def weights_of(series, **options):
    size = (4000, 3600, 1500) if hasattr(series, "tilt_angle_degrees") else (4100, 3900, 400)
    return image_weights(series, seen_in(series, size)[1], frequencies(), **options).double().numpy()


SQUARED = (FREQUENCIES**2).sum(-1)


def test_tilts_count_by_the_cosine_of_their_angle_and_by_their_dose():
    model = plain_tilt_series()
    expected = np.cos(np.deg2rad(model["tilt"]))[:, None] * np.exp(-np.outer(model["dose"], SQUARED))
    np.testing.assert_allclose(weights_of(tilts()), expected, rtol=1e-5)


def test_frames_count_by_the_dose_until_their_middle():
    expected = np.exp(-np.outer(1.2 * (np.arange(6) + 0.5), SQUARED))
    np.testing.assert_allclose(weights_of(frames()), expected, rtol=1e-5)


def test_estimated_weights_replace_the_defaults_but_no_weaker_than_dose():
    scale, b_factor = np.array([0.4, 0.8, 1.0, 0.9, 0.5]), np.array([-60.0, -10.0, -1.0, -30.0, -1.0])
    node = {"scale": scale, "b_factor_angstrom2": b_factor}
    weights = SeriesWeights(**grids({name: values[:, None, None] for name, values in node.items()}))
    used = np.minimum(b_factor, -3 * np.array(plain_tilt_series()["dose"]))
    assert used.tolist() == [-60, -18, -1, -30, -27]
    expected = scale[:, None] * np.exp(np.outer(used, SQUARED) / 4)
    np.testing.assert_allclose(weights_of(tilts(weights=weights)), expected, rtol=1e-5)


def test_anisotropic_b_factors_damp_along_their_angle():
    weights = SeriesWeights(
        b_factor_difference_angstrom2=SplineGrid.constant(-20.0), b_factor_angle_degrees=SplineGrid.constant(30.0)
    )
    alpha = np.arctan2(FREQUENCIES[:, 1], FREQUENCIES[:, 0])
    expected = np.exp(-20 * np.cos(2 * (alpha - np.deg2rad(30))) * SQUARED / 4)
    ratio = weights_of(tilts(weights=weights)) / weights_of(tilts())
    np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), rtol=1e-5)


def test_weights_of_places_count_where_particles_lie():
    series = frames(
        weights=SeriesWeights(
            scale_of_place=SplineGrid(values=torch.tensor([[[0.5, 1.0]]])),
            b_factor_of_place_angstrom2=SplineGrid(values=torch.tensor([[[0.0], [-40.0]]])),
        )
    )
    seen = seen_in(series, (4100, 3900, 400))[1]
    x, y = (seen.position_angstrom / torch.tensor([4100.0, 3900.0])).numpy().transpose(2, 0, 1)[..., None]
    expected = (0.5 + 0.5 * x) * np.exp(-40 * y * SQUARED / 4) * weights_of(frames())
    np.testing.assert_allclose(weights_of(series), expected, rtol=1e-5)
    some = weights_of_images(series, seen).of_image(4, frequencies(), torch.tensor([1, 0]))
    np.testing.assert_allclose(some, expected[[1, 0], 4], rtol=1e-5)


def test_unused_images_count_a_ten_thousandth_and_the_series_counts_only_if_asked():
    used = np.array([True, False, True, True, True])
    weights = SeriesWeights(series_scale=0.5, series_b_factor_angstrom2=-10.0)
    without = weights_of(tilts()) * np.where(used, 1, 1e-4)[:, None]
    series = tilts(weights=weights).with_values(is_used=used)
    np.testing.assert_allclose(weights_of(series), without, rtol=1e-5)
    expected = without * 0.5 * np.exp(-10 * SQUARED / 4)
    np.testing.assert_allclose(weights_of(series, of_whole_series=True), expected, rtol=1e-5)
