import numpy as np
import pytest
import torch

from halfmap.extraction.normalisation import background_mask, background_statistics
from halfmap.jobs.particle_checks import DISC_FRACTIONS, ImageChecks, check_images, stack_warnings
from support.stack_projects import some_images

RADIUS = 11.5


def checked(images, radius=RADIUS):
    return check_images(np.ascontiguousarray(images, dtype=np.float32), radius)


def warnings_of(images, group=None):
    checks = checked(images)
    group = np.ones(len(images), dtype=np.int64) if group is None else group
    return stack_warnings(checks, group, 34.5)


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (37.2, 1204), (1e-3, 5), (1e6, -3e8)])
def test_background_is_that_of_extraction_whatever_the_scale(side, scale, offset):
    images = (some_images(12, side=side) * scale + offset).astype(np.float32)
    checks = checked(images)
    expected = background_statistics(torch.from_numpy(images), background_mask(side, RADIUS))
    # float32 sums about the mean: 1e-5 of the deviation
    np.testing.assert_allclose(checks.background_mean, expected.mean, rtol=1e-6, atol=1e-5 * scale)
    np.testing.assert_allclose(checks.background_deviation, expected.deviation, rtol=1e-5)
    np.testing.assert_allclose(checks.mean, images.mean(axis=(1, 2), dtype=np.float64), rtol=1e-6, atol=1e-5 * scale)
    np.testing.assert_allclose(checks.deviation, images.std(axis=(1, 2), dtype=np.float64), rtol=1e-5)
    assert set(checks.problem) == {""}


def test_contrast_is_what_a_disc_has_more_than_all_around_it():
    images = some_images(5)
    y, x = np.mgrid[:32, :32] - 16
    inside = np.hypot(x, y) <= DISC_FRACTIONS[2] * RADIUS
    checks = checked(images)
    more = images[:, inside].mean(axis=1) - images[:, ~inside].mean(axis=1)
    np.testing.assert_allclose(checks.contrast[:, 2] * checks.background_deviation, more, atol=1e-5)


def test_the_same_image_is_measured_alike_among_any_others():
    images = some_images(40, side=128)
    alone = checked(images[7:8], 50)
    together = checked(images, 50).take(np.array([7]))
    np.testing.assert_allclose(together.background_mean, alone.background_mean, atol=1e-6)
    np.testing.assert_allclose(together.background_deviation, alone.background_deviation, rtol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: image.__setitem__((3, 4), np.nan), "1 of 1024 values are NaN or infinite, the first at"),
        (lambda image: image.__setitem__((3, slice(0, 4)), -np.inf), "4 of 1024 values are NaN or infinite"),
        (lambda image: image.fill(7.1), "all its values are 7.1"),
        (lambda image: image.fill(0), "all its values are 0"),
    ],
)
def test_bad_images_are_found_and_leave_the_others_alone(spoil, reason):
    images = some_images(6)
    good = checked(images)
    spoil(images[2])
    checks = checked(images)
    assert reason in checks.problem[2]
    assert np.isnan(checks.background_deviation[2])
    others = np.array([0, 1, 3, 4, 5])
    assert set(checks.problem[others]) == {""}
    np.testing.assert_allclose(checks.background_mean[others], good.background_mean[others], atol=1e-6)


def test_an_image_masked_with_zeros_has_no_background():
    images = some_images(6)
    images[1][background_mask(32, RADIUS).numpy()] = 0
    checks = checked(images)
    assert checks.problem[1] == "its background, outside the mask, is constant (0): is it masked?"
    assert checks.problem[0] == ""


def test_a_quiet_background_around_a_strong_particle_is_still_measured():
    images = some_images(4) * 1e-4
    images[:, 12:20, 12:20] += 1000
    checks = checked(images)
    expected = background_statistics(torch.from_numpy(images), background_mask(32, RADIUS))
    assert set(checks.problem) == {""}
    np.testing.assert_allclose(checks.background_deviation, expected.deviation, rtol=1e-6)


def test_values_whose_squares_overflow_are_no_infinities():
    images = some_images(3) * np.float32(1e25)
    checks = checked(images)
    assert set(checks.problem) == {""}
    np.testing.assert_allclose(checks.background_deviation, 1e25, rtol=0.1)


def test_a_normalised_stack_of_bright_particles_gives_no_warning():
    assert warnings_of(some_images(200)) == []


def test_a_stack_that_is_not_normalised_is_told_with_its_values():
    (warning,) = warnings_of(some_images(200) * 37.2 + 1204)
    assert "should have mean 0 and deviation 1; got mean 1204 and deviation 37.07 (medians of 200 images" in warning
    assert "each image is normalised by its own background" in warning


@pytest.mark.parametrize(
    ("scale", "offset", "is_told"), [(1.9, 0, False), (2.1, 0, True), (0.4, 0, True), (1, 0.6, True)]
)
def test_a_stack_counts_as_normalised_within_the_bounds(scale, offset, is_told):
    assert bool(warnings_of(some_images(200) * scale + offset)) == is_told


def test_dark_particles_are_told_and_bright_ones_not():
    (warning,) = warnings_of(some_images(200, signal=-0.3))
    assert "should be brighter than what is around them; got -0." in warning
    assert "extract them again with inverted contrast" in warning
    assert warnings_of(some_images(200, signal=0.3)) == []


def test_noise_alone_is_neither_bright_nor_dark():
    told = [warnings_of(some_images(300, seed=seed, signal=0)) for seed in range(20)]
    assert sum(map(len, told)) == 0


def test_a_dark_fringe_does_not_make_bright_particles_dark():
    y, x = np.mgrid[:32, :32] - 16
    r = np.hypot(x, y)
    particle = np.where(r < 6, 0.5, np.where(r < 11, -0.5, 0.0))
    images = some_images(200, signal=0) + particle
    assert images[:, r <= RADIUS].mean() < images[:, r > RADIUS].mean() - 0.05
    assert warnings_of(images) == []
    assert len(warnings_of(-images)) == 1


def test_each_optics_group_is_judged_by_itself():
    images = some_images(200)
    images[100:] = images[100:] * 5
    (warning,) = warnings_of(images, np.repeat([3, 7], 100))
    assert "images of optics group 7" in warning


def test_outliers_are_counted_and_named():
    images = some_images(200)
    images[5] += 3
    images[9] *= 6
    (warning,) = warnings_of(images)
    assert "got 2 of 200 more than 10 robust deviations away" in warning
    assert "`halfmap select statistics` removes them" in warning


def test_parts_are_put_together_as_they_were_taken():
    checks = checked(some_images(6))
    parts = [checks.take(np.arange(2)), ImageChecks.unusable(["lost"]), checks.take(np.arange(2, 6))]
    whole = ImageChecks.concatenate(parts)
    assert len(whole) == 7
    assert whole.problem.tolist() == ["", "", "lost", "", "", "", ""]
    np.testing.assert_array_equal(np.delete(whole.contrast, 2, axis=0), checks.contrast)
