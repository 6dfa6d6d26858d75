"""Movies of known motion: what is found, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from halfmap.data.image_series import FrameSeries
from halfmap.data.image_source import ArraySource
from halfmap.errors import InputError
from halfmap.fourier.resample import rescaled_grid
from halfmap.grid import ImageGrid
from halfmap.motion_correction.align import align, totals, trajectories
from halfmap.motion_correction.params import MotionParams
from halfmap.motion_correction.sums import ExposureWeights, Sums, moved_frames
from support.moving_movies import (
    DOSE,
    GRID,
    OPTICS,
    PIXEL_ANGSTROM,
    SIDE,
    N,
    drifting_beads,
    movie,
    residual_pixel,
    specimen,
    true_series,
)


def found_series(frames: np.ndarray, **settings) -> tuple[FrameSeries, tuple[tuple[int, str], ...]]:
    motion = align(ArraySource(images=frames, grid=GRID), MotionParams(**settings))
    return motion.series("movie", (SIDE, SIDE), OPTICS, DOSE), motion.reasons


@pytest.mark.parametrize("local_pixel", [0.0, 1.5])
def test_motion_is_found_to_a_fifth_of_a_pixel(local_pixel):
    true = true_series(local_pixel=local_pixel)
    found, reasons = found_series(movie(true), patches=(3, 3))
    assert residual_pixel(found, true) < 0.2  # pixels: what is asked of motion correction
    assert not reasons


def test_local_motion_is_more_than_the_whole_frame_can_tell():
    true = true_series(local_pixel=1.5)
    frames = movie(true)
    whole, _ = found_series(frames, patches=(1, 1))
    local, _ = found_series(frames, patches=(3, 3))
    assert residual_pixel(local, true) < 0.5 * residual_pixel(whole, true)


def test_small_patches_follow_what_drifts_through_them():
    side, drift = 384, np.stack([np.linspace(0, 10, N), -6 * np.sin(np.arange(N) / 4)], axis=-1)
    source = ArraySource(images=drifting_beads(side, drift), grid=ImageGrid.square(side, PIXEL_ANGSTROM))
    motion = align(source, MotionParams(patches=(4, 4), b_factor_pixel2=600.0))
    places = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), axis=-1).reshape(-1, 2)
    found = trajectories(motion.series("movie", (side, side), OPTICS, DOSE), places) / PIXEL_ANGSTROM
    np.testing.assert_allclose(found[:, -1].mean(axis=0), drift[-1], atol=0.1)  # pixels; 0.3 where patches stay


def test_patches_at_the_borders_follow_as_well():
    side, drift = 384, np.stack([np.linspace(0, 30, N), np.linspace(0, -20, N)], axis=-1)
    source = ArraySource(images=drifting_beads(side, drift), grid=ImageGrid.square(side, PIXEL_ANGSTROM))
    motion = align(source, MotionParams(patches=(4, 4), b_factor_pixel2=600.0))
    places = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), axis=-1).reshape(-1, 2)
    left = trajectories(motion.series("movie", (side, side), OPTICS, DOSE), places) / PIXEL_ANGSTROM - drift
    left -= left.mean(axis=1, keepdims=True)
    assert (
        np.abs(left).max() < 0.25
    )  # pixels; 0.6 where those at the borders stop there, 0.28 with steps of binned pixels


def test_bad_frames_are_named_and_do_no_harm():
    true = true_series(local_pixel=0.0)
    frames = movie(true)
    frames[4] *= 0.05  # the beam was blanked
    frames[7] = np.random.default_rng(9).normal(10, 3, frames[7].shape)  # another place
    found, reasons = found_series(frames, patches=(2, 2))
    assert [number for number, _ in reasons] == [4, 7]
    assert "usual light" in reasons[0][1]
    assert "correlation" in reasons[1][1]
    assert np.flatnonzero(~found.is_used).tolist() == [4, 7]
    assert residual_pixel(found, true) < 0.2  # pixels


def test_groups_of_frames_give_motion_of_every_frame():
    true = true_series(local_pixel=0.0)
    found, _ = found_series(movie(true), patches=(2, 2), group_frames=2)
    # steps inside a group are not seen: it is as good as the line between groups
    assert residual_pixel(found, true) < 0.7  # pixels, of steps of 1


def test_shift_larger_than_a_quarter_of_a_patch_needs_the_limit_raised():
    frames = movie(true_series(local_pixel=0.0))
    frames[5:] = np.roll(frames[5:], 45, axis=2)
    near, _ = found_series(frames, patches=(2, 2), max_shift_pixel=20.0)
    far, _ = found_series(frames, patches=(2, 2), max_shift_pixel=70.0)
    step = far.movement_x_angstrom.values.flatten().diff()[4] / PIXEL_ANGSTROM
    assert abs(float(step) + 45) < 4  # pixels: the drift's own step is of one or two
    assert abs(float(near.movement_x_angstrom.values.flatten().diff()[4])) / PIXEL_ANGSTROM < 40


@pytest.mark.parametrize(
    ("frames", "settings", "said"),
    [
        (np.ones((1, SIDE, SIDE)), {}, "two or more frames"),
        (np.ones((4, SIDE, SIDE)), {"group_frames": 3}, "two or more groups"),
        (np.ones((4, SIDE, SIDE)), {"patches": (16, 16)}, "fewer --patches"),
        (np.zeros((4, SIDE, SIDE)), {}, "must hold electrons"),
    ],
)
def test_movies_without_motion_to_find_are_refused(frames, settings, said):
    with pytest.raises(InputError, match=said):
        align(ArraySource(images=frames.astype(np.float32), grid=GRID), MotionParams(**settings))


def test_sum_of_moved_frames_is_the_specimen():
    true = true_series(local_pixel=1.5)
    frames = movie(true, noise=0.5)
    source = ArraySource(images=frames, grid=GRID)
    weights = ExposureWeights.of(true, GRID, dose_per_frame_e_per_angstrom2=2.0, voltage_kv=300.0)
    sums = Sums(GRID, weights, halves=True)
    for frame in moved_frames(source, true, GRID):
        sums.add(frame)
    inside = (slice(40, -40),) * 2
    assert np.corrcoef(sums.plain[inside].ravel(), specimen()[inside].ravel())[0, 1] > 0.98  # noise of 0.5/√10
    assert np.corrcoef(frames.sum(0)[inside].ravel(), specimen()[inside].ravel())[0, 1] < 0.8
    np.testing.assert_allclose(sum(sums.odd_and_even()), sums.weighted(), atol=1e-3)
    # at zero frequency all weights are 1, and their norm is √N
    np.testing.assert_allclose(sums.weighted().mean(), sums.plain.mean() / np.sqrt(N), rtol=1e-4)


def test_exposure_weights_keep_white_noise_white():
    series = true_series(local_pixel=0.0)
    weights = ExposureWeights.of(series, GRID, dose_per_frame_e_per_angstrom2=2.0, voltage_kv=300.0)
    total = sum(weights.of_frame(number).square() for number in range(N))
    np.testing.assert_allclose(total.numpy(), 1.0, rtol=1e-5)


def test_binned_sum_keeps_the_electrons():
    series = true_series(local_pixel=0.0)
    grid = rescaled_grid(GRID, SIDE // 2)
    source = ArraySource(images=movie(series), grid=GRID)
    total = Sums(grid)
    for frame in moved_frames(source, series, grid):
        total.add(frame)
    np.testing.assert_allclose(total.plain.sum(dtype=np.float64), source.images.sum(dtype=np.float64), rtol=1e-4)


def test_totals_count_early_and_late_steps():
    series = true_series(local_pixel=0.0)
    total, early, late = totals(series, early_e_per_angstrom2=5.0)
    steps = np.hypot(
        series.movement_x_angstrom.values.flatten().diff().numpy(),
        series.movement_y_angstrom.values.flatten().diff().numpy(),
    )
    np.testing.assert_allclose([total, early, late], [steps.sum(), steps[:2].sum(), steps[2:].sum()], rtol=1e-12)


def test_without_doses_nothing_tells_early_from_late():
    series = replace(true_series(local_pixel=0.0), dose_e_per_angstrom2=np.zeros(N))
    total, early, late = totals(series)
    assert total > 0
    assert np.isnan([early, late]).all()
