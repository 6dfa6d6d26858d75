from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.ndimage import shift as shifted

from halfmap.grid import ImageGrid
from halfmap.simulation import ice
from halfmap.simulation.frame_series_truth import draw_frame_series, movie_of_tilt
from halfmap.simulation.references import interaction_constant_rad_per_volt_angstrom
from halfmap.simulation.series_images import AlignedSum, contrast, displaced, recorded, relative_noise, see
from halfmap.simulation.series_params import FrameSeriesSimulationParams, TiltSeriesSimulationParams
from halfmap.simulation.tilt_series_truth import draw_tilt_series
from halfmap.units import electron_wavelength_angstrom
from support.simulations import a_reference

PIXEL = 3.0
REFERENCE = a_reference("compact-c1-80", PIXEL)
COMMON = {
    "size_pixel": (160, 144),
    "pixel_size_angstrom": PIXEL,
    "particles_per_series": (1,),
    "margin_angstrom": 150.0,
    "b_factor_per_dose_angstrom2": 0.0,
    "astigmatism_angstrom": 300.0,
}
TILTS = TiltSeriesSimulationParams(
    **COMMON,
    min_tilt_degrees=-40.0,
    max_tilt_degrees=40.0,
    tilt_step_degrees=40.0,
    level_angle_x_degrees=4.0,
    level_angle_y_degrees=-3.0,
    stage_angle_error_degrees=0.0,
)
FRAMES = FrameSeriesSimulationParams(**COMMON, frames=4, motion_error_angstrom=4.0, doming_angstrom=300.0)


def shown(made, params, image):
    """Return the relative contrast of an image without noise."""
    grid = ImageGrid(shape=params.size_pixel[::-1], pixel_size_angstrom=PIXEL)
    return contrast(made.true, see(made.true, made.species, [REFERENCE]), image, grid, params).numpy().astype(float)


def turned_and_summed(rotation):
    """Project the reference by turning it in space: density at R v in the image's frame, summed along z."""
    volume = REFERENCE.potential.values.numpy().astype(float)
    centre = volume.shape[0] // 2
    backwards = rotation[::-1, ::-1].T  # from the image's (z, y, x) to the reference's
    offset = centre - backwards @ np.full(3, centre)
    return affine_transform(volume, backwards, offset, order=3).sum(axis=0) * PIXEL


def passed_through_microscope(projection, place_pixel, defocus_u, defocus_v, angle_degrees, shape, params):
    """Return the relative contrast of one projection on a whole image, by formulas of its own."""
    image = np.zeros(shape)
    side = len(projection)
    whole = np.rint(place_pixel).astype(int)
    corner = whole - side // 2
    image[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = projection
    image = shifted(image, (place_pixel - whole)[::-1], order=5)
    ky = np.fft.fftfreq(shape[0], PIXEL)[:, None]
    kx = np.fft.fftfreq(shape[1], PIXEL)
    wavelength = electron_wavelength_angstrom(300.0)
    s2 = kx**2 + ky**2
    azimuth = np.arctan2(ky, kx) - np.radians(angle_degrees)
    defocus = (defocus_u + defocus_v) / 2 + (defocus_u - defocus_v) / 2 * np.cos(2 * azimuth)
    gamma = np.pi * wavelength * defocus * s2 - np.pi / 2 * 2.7e7 * wavelength**3 * s2**2
    transfer = np.sin(gamma + np.arcsin(params.amplitude_contrast))
    sigma = interaction_constant_rad_per_volt_angstrom(300.0)
    return -2 * sigma * np.fft.ifft2(np.fft.fft2(image) * transfer).real


def correlation(first, second):
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def about(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


@pytest.mark.parametrize("tilt", [0, 2])
def test_particle_in_a_tilt_is_that_of_turning_and_summing_it_in_space(tilt):
    made = draw_tilt_series(0, TILTS, [REFERENCE.diameter_angstrom])
    series, poses = made.true, made.species[0]
    # of the geometry written down anew: the volume turned about the tilt axis, depth adding to the defocus
    turn = about("z", series.axis_angle_degrees[tilt]) @ about(
        "y", -series.tilt_angle_degrees[tilt] - series.level_angle_y_degrees
    )
    turn = turn @ about("x", series.level_angle_x_degrees)
    place = turn @ (poses.position_angstrom[0, 0] - np.array(series.volume_size_angstrom) / 2)
    before = place[:2] + series.axis_offset_angstrom[tilt] + np.array(series.image_size_angstrom) / 2
    time = tilt / 2
    at = torch.tensor([*(before / series.image_size_angstrom), time], dtype=torch.float64)
    warp = np.array([float(series.movement_x_angstrom(at)), float(series.movement_y_angstrom(at))])
    defocus = float(series.defocus_angstrom.values[tilt, 0, 0]) + place[2]
    half = float(series.astigmatism_angstrom.values[tilt, 0, 0]) / 2
    expected = passed_through_microscope(
        turned_and_summed(turn @ poses.rotation[0, 0]),
        (before - warp) / PIXEL,
        defocus + half,
        defocus - half,
        float(series.astigmatism_angle_degrees.values[tilt, 0, 0]),
        TILTS.size_pixel[::-1],
        TILTS,
    )
    found = shown(made, TILTS, tilt)
    # cubic interpolation of the turned volume loses some of the highest frequencies
    assert correlation(found, expected) > 0.99
    assert found.std() == pytest.approx(expected.std(), rel=0.05)


def test_particle_is_dark():
    made = draw_frame_series(0, FRAMES, [REFERENCE.diameter_angstrom])
    place = np.rint(made.species[0].position_angstrom[0, 0, :2] / PIXEL).astype(int)
    image = shown(made, FRAMES, 1)
    assert image[place[1] - 8 : place[1] + 9, place[0] - 8 : place[0] + 9].mean() < -0.005


def test_radiation_damages_later_images():
    params = replace(FRAMES, b_factor_per_dose_angstrom2=4.0, global_motion_angstrom=0.0, motion_error_angstrom=0.0)
    made = draw_frame_series(0, replace(params, doming_angstrom=0.0), [REFERENCE.diameter_angstrom])
    first, last = (np.fft.rfft2(shown(made, params, image)) for image in (0, 3))
    # 30 e/Å² more at 1/12 Å: exp(−30/144)
    frequency = np.hypot(np.fft.fftfreq(144, PIXEL)[:, None], np.fft.rfftfreq(160, PIXEL))
    ring = np.abs(frequency - 1 / 12) < 2e-3
    ratio = np.abs(last[ring]).sum() / np.abs(first[ring]).sum()
    assert ratio == pytest.approx(np.exp(-30 / 144), rel=0.02)


def test_noise_gives_the_snr_that_was_asked_for():
    params = replace(TILTS, snr=0.05)
    made = draw_tilt_series(0, params, [REFERENCE.diameter_angstrom])
    sigma = relative_noise(made.true, [REFERENCE], params)
    seen = see(made.true, made.species, [REFERENCE])
    empty = replace(made, species=())
    noise = recorded(empty, [], 1, sigma, params)
    electrons = params.dose_per_tilt_e_per_angstrom2 * PIXEL**2
    # 23040 pixels, a third of them coloured: 3 standard deviations are 3 %
    assert np.std(noise / electrons) == pytest.approx(sigma, rel=0.03)
    clean = recorded(made, seen, 1, 0.0, params) / electrons - 1
    place = seen[0].seen.position_angstrom[0, 1].numpy() / PIXEL
    y, x = np.mgrid[:144, :160]
    inside = np.hypot(x - place[0], y - place[1]) < REFERENCE.diameter_angstrom / 2 / PIXEL
    # of one view instead of the mean over 64
    assert clean[inside].var() / sigma**2 == pytest.approx(0.05, rel=0.4)


def test_tilted_ice_lets_fewer_electrons_through():
    made = draw_tilt_series(0, TILTS, [REFERENCE.diameter_angstrom])
    flat, tilted = (recorded(made, [], image, 1e-3, TILTS).mean() for image in (1, 2))
    length = TILTS.ice_thickness_angstrom / ice.ICE_ABSORPTION_LENGTH_ANGSTROM
    paths = [1 / np.cos(np.radians(angle)) for angle in (-3.0, 37.0)]
    assert tilted / flat == pytest.approx(np.exp(-length * (paths[1] - paths[0])), rel=1e-3)


def test_bad_image_shows_nothing_and_hardly_any_electrons():
    params = replace(TILTS, bad_images=(1,))
    made = draw_tilt_series(0, params, [REFERENCE.diameter_angstrom])
    seen = see(made.true, made.species, [REFERENCE])
    bad, good = (recorded(made, seen, image, 0.0, params) for image in (1, 2))
    assert bad.std() == 0.0
    assert bad.mean() < 0.1 * good.mean()


def test_frames_put_back_by_their_motion_add_up_to_the_tilt():
    params = replace(TILTS, frames_per_tilt=4, global_motion_angstrom=8.0)
    made = draw_tilt_series(0, params, [REFERENCE.diameter_angstrom])
    seen = see(made.true, made.species, [REFERENCE])
    movie = movie_of_tilt(made.starting, 1, 0, params)
    frames = [
        recorded(made, [displaced(seen[0], 1, movie.true, f)], 1, 0.0, params, frame=f, n_frames=4) for f in range(4)
    ]
    grid = ImageGrid(shape=(144, 160), pixel_size_angstrom=PIXEL)
    still = recorded(made, seen, 1, 0.0, params)
    total = AlignedSum(movie.starting, grid)
    for number, frame in enumerate(frames):
        total.add(number, frame)
    assert correlation(total.image(), still) > 0.999
    assert correlation(np.sum(frames, axis=0), still) < 0.99


def test_images_do_not_depend_on_others():
    params = replace(TILTS, snr=0.1)
    made = draw_tilt_series(0, params, [REFERENCE.diameter_angstrom])
    seen = see(made.true, made.species, [REFERENCE])
    first = recorded(made, seen, 2, 0.1, params)
    recorded(made, seen, 0, 0.1, params)
    np.testing.assert_array_equal(recorded(made, seen, 2, 0.1, params), first)
