import io

import numpy as np
import pytest
from PIL import Image

from halfmap.errors import ShapeError
from halfmap.report.surface import surface_picture


def pixels_of(density, threshold=0.5, side_pixel=64):
    picture = surface_picture(density, threshold, side_pixel=side_pixel)
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")).astype(int)


def ball(side=32, radius=10.0, centre=(16.0, 16.0, 16.0)):
    z, y, x = np.indices((side,) * 3)
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def test_surface_of_a_ball_is_a_disc_of_its_radius():
    pixels = pixels_of(ball())
    is_surface = np.any(pixels != pixels[0, 0], axis=-1)
    scale = 63 / 31
    # a ring one pixel wide may fall on either side
    assert np.sqrt(is_surface.sum() / np.pi) == pytest.approx(10 * scale, abs=1)
    rows, columns = np.nonzero(is_surface)
    assert (rows.mean(), columns.mean()) == pytest.approx((16 * scale, 16 * scale), abs=1)


def test_surface_is_brightest_towards_the_light_and_never_drawn_where_density_is_low():
    pixels = pixels_of(ball()).sum(axis=-1)
    assert pixels[24, 24] > pixels[42, 42]
    assert np.ptp(pixels_of(ball(), threshold=2.0)) == np.ptp(pixels_of(np.zeros((8, 8, 8)), side_pixel=8))


def test_what_lies_nearer_to_the_eye_hides_what_lies_behind_and_is_brighter():
    far = pixels_of(ball(radius=5, centre=(8.0, 16.0, 16.0)))
    near = pixels_of(ball(radius=5, centre=(24.0, 16.0, 16.0)))
    both = pixels_of(np.maximum(ball(radius=5, centre=(8.0, 16.0, 16.0)), ball(radius=5, centre=(24.0, 16.0, 16.0))))
    assert np.array_equal(both, near)
    assert near.sum() > far.sum()


def test_a_map_that_is_not_cubic_is_refused():
    with pytest.raises(ShapeError, match="cubic"):
        surface_picture(np.zeros((8, 8, 9)), 0.5)
