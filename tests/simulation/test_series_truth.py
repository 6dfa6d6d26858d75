from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesOptics
from halfmap.errors import InputError
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.optics.aberrations import even_phase, odd_phase
from halfmap.simulation.frame_series_truth import draw_frame_series, movie_of_tilt
from halfmap.simulation.series_params import FrameSeriesSimulationParams, TiltSeriesSimulationParams
from halfmap.simulation.series_truth import walk
from halfmap.simulation.tilt_series_truth import acquisition_rank, draw_tilt_series

NO_ERRORS = {
    "position_error_angstrom": 0.0,
    "angle_error_degrees": 0.0,
    "defocus_error_angstrom": 0.0,
}
TILTS = TiltSeriesSimulationParams(**NO_ERRORS, image_warp_angstrom=0.0, particles_per_series=(12,))
FRAMES = FrameSeriesSimulationParams(**NO_ERRORS, particles_per_series=(12,))


def differing(one, other):
    """Return the names of the fields of two series that differ, those of the optics among them."""
    names = set()
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, SeriesOptics):
            names |= differing(first, second)
        elif not same(first, second):
            names.add(field.name)
    return names


def same(first, second):
    if first is second:
        return True
    if hasattr(first, "shape") and hasattr(first, "values"):  # grids
        return first.shape == second.shape and torch.equal(first.values, second.values)
    return np.array_equal(first, second)


def test_without_errors_the_files_tell_the_truth():
    for made in (draw_tilt_series(0, TILTS, [100.0]), draw_frame_series(0, FRAMES, [100.0])):
        assert differing(made.true, made.starting) == set()
        np.testing.assert_array_equal(made.species[0].position_angstrom, made.species[0].starting_position_angstrom)
        np.testing.assert_allclose(made.species[0].rotation, made.species[0].starting_rotation, atol=1e-12)


@pytest.mark.parametrize(
    ("switch", "touched"),
    [
        ({"image_warp_angstrom": 3.0}, {"movement_x_angstrom", "movement_y_angstrom"}),
        ({"volume_warp_angstrom": 3.0}, {f"volume_warp_{axis}_angstrom" for axis in "xyz"}),
        ({"stage_angle_error_degrees": 1.0}, {f"stage_angle_{axis}_degrees" for axis in "xyz"}),
        ({"defocus_error_angstrom": 500.0}, {"defocus_angstrom"}),
        ({"astigmatism_error_angstrom": 300.0}, {"astigmatism_angstrom", "astigmatism_angle_degrees"}),
        ({"phase_shift_error_degrees": 5.0}, {"phase_shift_degrees"}),
        ({"spherical_aberration_error_mm": 0.3}, {"spherical_aberration_mm"}),
        ({"magnification_error_percent": 1.0}, {"magnification"}),
        ({"odd_aberration_rad": 0.5}, {"odd_zernike"}),
        ({"even_aberration_rad": 0.5}, {"even_zernike"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_switch_of_a_tilt_series_makes_its_own_error_alone(switch, touched):
    made = draw_tilt_series(0, replace(TILTS, **switch), [100.0])
    assert differing(made.true, made.starting) == touched


@pytest.mark.parametrize(
    ("switch", "touched"),
    [
        ({"motion_error_angstrom": 2.0}, {"pyramid_x_angstrom", "pyramid_y_angstrom"}),
        ({"doming_angstrom": 200.0}, {"doming_angstrom"}),
        ({"doming_tilt_degrees": 1.0}, {f"stage_angle_{axis}_degrees" for axis in "xyz"}),
        ({"astigmatism_error_angstrom": 300.0}, {"astigmatism_angstrom", "astigmatism_angle_degrees"}),
        ({"phase_shift_error_degrees": 5.0}, {"phase_shift_degrees"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_switch_of_a_frame_series_makes_its_own_error_alone(switch, touched):
    made = draw_frame_series(0, replace(FRAMES, **switch), [100.0])
    assert differing(made.true, made.starting) == touched


def test_errors_of_poses_have_the_size_that_was_asked_for():
    params = replace(
        TILTS,
        position_error_angstrom=3.0,
        angle_error_degrees=2.0,
        particles_per_series=(300,),
        size_pixel=(1024, 1024),
        ice_thickness_angstrom=1500.0,
    )
    poses = draw_tilt_series(0, params, [100.0]).species[0]
    moved = poses.starting_position_angstrom - poses.position_angstrom
    # 900 draws: 3 standard deviations of an rms are 7 %
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(3.0, rel=0.07)
    turned = angular_distance_degrees(torch.from_numpy(poses.rotation), torch.from_numpy(poses.starting_rotation))
    assert float(turned.square().mean().sqrt()) == pytest.approx(2.0 * np.sqrt(3), rel=0.07)


def test_defocus_of_frame_series_errs_in_z_of_each_particle():
    params = replace(FRAMES, defocus_error_angstrom=500.0, position_error_angstrom=2.0, particles_per_series=(40,))
    poses = draw_frame_series(0, params, [100.0]).species[0]
    moved = poses.starting_position_angstrom - poses.position_angstrom
    assert moved[..., 2].std() == pytest.approx(500.0, rel=0.4)  # 40 draws: 3.5 standard deviations
    assert np.abs(moved[..., :2]).max() < 10.0


def test_particles_move_and_turn_over_the_dose():
    params = replace(TILTS, temporal_samples=4, drift_angstrom=3.0, turning_degrees=2.0, particles_per_series=(40,))
    poses = draw_tilt_series(0, params, [100.0]).species[0]
    assert poses.position_angstrom.shape == (40, 4, 3)
    ends = poses.position_angstrom[:, -1] - poses.position_angstrom[:, 0]
    assert np.sqrt(np.mean(ends**2)) == pytest.approx(3.0, rel=0.2)  # 120 draws: 3 standard deviations
    np.testing.assert_allclose(poses.position_angstrom.mean(axis=1), poses.starting_position_angstrom[:, 0], atol=1e-9)


def test_walks_are_centred_and_of_unit_size_from_end_to_end():
    steps = np.random.default_rng(0).standard_normal((2000, 5, 1))
    path = walk(steps)
    np.testing.assert_allclose(path.mean(axis=1), 0.0, atol=1e-12)
    assert np.std(path[:, -1] - path[:, 0]) == pytest.approx(1.0, rel=0.05)
    assert not walk(steps[:, :1]).any()


def test_aberrations_are_pure_powers_of_the_size_asked_for():
    params = replace(TILTS, odd_aberration_rad=1.0, odd_aberration_order=5, even_aberration_rad=1.0)
    optics = draw_tilt_series(3, params, [100.0]).true.optics
    nyquist = 0.5 / params.pixel_size_angstrom
    azimuth = torch.linspace(0, 2 * np.pi, 50, dtype=torch.float64)
    ring = nyquist * torch.stack([azimuth.cos(), azimuth.sin()], dim=-1)
    odd = {"odd_zernike": optics.odd_zernike, "voltage_kv": 300.0, "spherical_aberration_mm": 2.7}
    # Fourier series of r³ and r⁵ on circles: halving r scales them by 1/8 and 1/32, with nothing linear left
    whole, half, quarter = (odd_phase(ring / n, **odd) for n in (1, 2, 4))
    third, fifth = torch.linalg.solve(
        torch.tensor([[1.0, 1.0], [1 / 8, 1 / 32]], dtype=torch.float64), torch.stack([whole, half])
    )
    torch.testing.assert_close(quarter, third / 64 + fifth / 1024, rtol=1e-9, atol=1e-9)
    assert 0.2 < float(whole.std()) < 5.0
    even = [even_phase(ring / n, np.append(0.0, optics.even_zernike)) for n in (1, 2)]
    torch.testing.assert_close(even[1], even[0] / 16, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("dose-symmetric", [4, 2, 0, 1, 3]),
        ("bidirectional", [4, 3, 0, 1, 2]),
        ("unidirectional", [0, 1, 2, 3, 4]),
    ],
)
def test_tilts_are_taken_in_the_order_of_the_scheme(scheme, expected):
    assert acquisition_rank(np.array([-6.0, -3.0, 0.0, 3.0, 6.0]), scheme).tolist() == expected


def test_a_series_may_have_a_single_tilt():
    made = draw_tilt_series(0, replace(TILTS, min_tilt_degrees=0.0, max_tilt_degrees=0.0), [100.0])
    assert len(made.true) == 1
    assert made.true.dose_e_per_angstrom2.tolist() == [0.0]


def test_bad_images_are_excluded_unless_told_otherwise():
    params = replace(TILTS, bad_images=(2, 5))
    assert np.flatnonzero(~draw_tilt_series(0, params, [100.0]).starting.is_used).tolist() == [2, 5]
    kept = draw_tilt_series(0, replace(params, exclude_bad_images=False), [100.0])
    assert kept.starting.is_used.all()
    frames = draw_frame_series(0, replace(FRAMES, bad_images=(3,)), [100.0]).starting
    assert frames.weights.scale.values.flatten().tolist() == [1.0, 1.0, 1.0, 0.0] + [1.0] * 16
    with pytest.raises(InputError, match="bad-images"):
        replace(TILTS, bad_images=(41,))


def test_particles_keep_clear_of_one_another_across_species():
    params = replace(TILTS, particles_per_series=(15, 10))
    species = draw_tilt_series(0, params, [120.0, 80.0]).species
    places = np.concatenate([one.position_angstrom[:, 0] for one in species])
    widths = np.repeat([120.0, 80.0], [15, 10])
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 1e6 * np.eye(25)
    assert (distance >= (widths[:, None] + widths) / 2).all()
    height = places[:, 2] - params.volume_angstrom[2] / 2
    assert (np.abs(height) <= (params.ice_thickness_angstrom - widths) / 2).all()


def test_more_particles_than_fit_are_refused():
    with pytest.raises(InputError, match="particles-per-series"):
        draw_tilt_series(0, replace(TILTS, particles_per_series=(60,), size_pixel=(64, 64)), [100.0])


def test_paths_need_temporal_samples():
    with pytest.raises(InputError, match="temporal-samples"):
        replace(TILTS, drift_angstrom=2.0)


def test_frames_of_a_tilt_share_its_dose_and_place():
    params = replace(TILTS, frames_per_tilt=4, motion_error_angstrom=1.0)
    series = draw_tilt_series(0, params, [100.0]).starting
    movie = movie_of_tilt(series, 20, 0, params)
    assert series.movie_names[20] == f"../warp_frameseries/{movie.true.movie_name}"
    np.testing.assert_allclose(movie.true.dose_e_per_angstrom2, series.dose_e_per_angstrom2[20] + [0, 0.75, 1.5, 2.25])
    assert differing(movie.true, movie.starting) == {"pyramid_x_angstrom", "pyramid_y_angstrom"}
