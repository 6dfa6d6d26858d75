"""Pictures show what lies where it lies."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from halfmap.errors import ShapeError
from halfmap.report.montage import lay_out, montage
from halfmap.report.pictures import Picture, enlarge, grey_between, micrograph_picture, shrink, to_grey


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(picture.data))).astype(float)


def test_png_keeps_every_pixel_and_jpeg_keeps_the_sides():
    grey = np.random.default_rng(1).integers(0, 255, (11, 8), dtype=np.uint8)
    assert np.array_equal(decoded(Picture.png(grey)), grey)
    assert decoded(Picture.jpeg(grey)).shape == Picture.jpeg(grey).shape == (11, 8)
    assert Picture.png(grey).reduced(0.5).shape == (6, 4)
    with pytest.raises(ShapeError, match="uint8"):
        Picture.png(grey.astype(float))


@pytest.mark.parametrize("shape", [(900, 640), (641, 901), (300, 200)])
def test_spot_on_a_micrograph_lies_at_the_same_share_of_the_picture(shape):
    micrograph = np.random.default_rng(2).normal(size=shape) + np.linspace(0, 9, shape[1])
    y, x = shape[0] // 3, int(shape[1] * 0.7)
    micrograph[y - 4 : y + 5, x - 4 : x + 5] -= 8
    picture = micrograph_picture(micrograph, max_side=320)
    assert max(picture.shape) == min(320, max(shape))
    smooth = ndimage.gaussian_filter(decoded(picture), 3)
    row, column = np.unravel_index(np.argmin(smooth), picture.shape)
    scale = picture.shape[1] / shape[1]
    assert abs(row - (y + 0.5) * scale) <= 2  # pixels of the picture; the spot is 3 wide
    assert abs(column - (x + 0.5) * scale) <= 2


def test_slope_of_the_background_disappears():
    noise = np.random.default_rng(3).normal(size=(400, 400))
    flat = decoded(micrograph_picture(noise + np.linspace(0, 40, 400)))
    assert abs(flat[:, 40:80].mean() - flat[:, 320:360].mean()) < 12  # of 255 grey values


def test_pixels_that_are_not_finite_spoil_no_others():
    micrograph = np.random.default_rng(4).normal(size=(64, 64))
    spoilt = micrograph.copy()
    spoilt[10, 10] = np.nan
    spoilt[20, 20] = np.inf
    difference = np.abs(decoded(micrograph_picture(micrograph)) - decoded(micrograph_picture(spoilt)))
    assert difference[35:, 35:].mean() < 6  # grey values: local contrast reaches a little way
    grey = to_grey(spoilt)
    assert grey[10, 10] == 0
    assert grey.std() > 30


@pytest.mark.parametrize("contrast", ["each", "shared"])
def test_grey_values_follow_percentiles_of_each_or_all(contrast):
    images = np.random.default_rng(5).normal(size=(2, 30, 30)) * np.array([1, 10])[:, None, None]
    deviations = to_grey(images, contrast=contrast).std(axis=(1, 2))
    assert (deviations[0] > 0.8 * deviations[1]) == (contrast == "each")


def test_constant_and_empty_values_are_no_error():
    assert to_grey(np.ones((4, 4))).tolist() == [[0] * 4] * 4
    assert to_grey(np.full((4, 4), np.nan)).tolist() == [[0] * 4] * 4


def test_montage_lays_images_out_in_rows():
    tiles = np.stack([np.full((3, 4), value, np.uint8) for value in (10, 20, 30, 40, 50)])
    canvas = lay_out(tiles, columns=3, gap=1)
    assert canvas.shape == (7, 14)
    assert [canvas[0, 0], canvas[0, 5], canvas[0, 10], canvas[4, 0], canvas[4, 5]] == [10, 20, 30, 40, 50]
    assert canvas[4, 10] == canvas[3, 0] == 128


def test_montage_averages_large_images_down():
    assert montage(np.zeros((4, 300, 200)), max_tile=30, columns=2, gap=2).shape == (62, 42)
    assert shrink(np.arange(16.0).reshape(4, 4), 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    with pytest.raises(ShapeError, match="montage"):
        montage(np.zeros((0, 3, 3)))


def test_enlarged_images_are_smooth_and_keep_their_values():
    image = np.add.outer(np.arange(20.0), np.zeros(24))
    large = enlarge(image, 80)
    assert large.shape == (80, 96)
    # inside, a ramp stays a ramp: a fourth of a step from row to row, to the rounding of float32
    np.testing.assert_allclose(np.diff(large[20:60, 5]), 0.25, atol=1e-3)
    assert enlarge(image, 10).shape == (20, 24)


def test_grey_values_between_limits_of_each_image():
    images = np.array([[[0.0, 1.0], [2.0, np.nan]], [[0.0, 10.0], [20.0, 30.0]]])
    grey = grey_between(images, np.reshape([0, 10], (2, 1, 1)), np.reshape([2, 20], (2, 1, 1)))
    assert grey.tolist() == [[[0, 128], [255, 0]], [[0, 0], [255, 255]]]
