import math

import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.geometry.shapes import raised_cosine_edge, soft_disc, soft_sphere
from halfmap.grid import ImageGrid


def test_edge_falls_as_a_raised_cosine_outside_the_shape():
    values = raised_cosine_edge(torch.tensor([-3.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0]), 4.0)
    expected = [1.0, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0, 0.0]
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [32, 33])
def test_disc_is_centred_on_the_centre_voxel_and_has_its_area(side):
    grid = ImageGrid.square(side, 2.0)
    disc = soft_disc(grid, 20.0, 0.0)
    assert disc[side // 2, side // 2] == 1
    assert disc[side // 2, side // 2 + 10] == 1
    assert disc[side // 2, side // 2 + 11] == 0
    assert disc.sum().item() == pytest.approx(math.pi * 10**2, rel=0.03)


@pytest.mark.parametrize("side", [24, 25])
def test_sphere_has_its_volume_half_of_the_edge_included(side):
    sphere = soft_sphere(ImageGrid.cubic(side, 1.5), 9.0, 3.0)
    # Raised cosine from 6 to 8 voxels: the mean of the integral lies near the ball of radius 7.
    assert sphere.sum().item() == pytest.approx(4 / 3 * math.pi * 7**3, rel=0.02)


def test_off_centre_shapes_move_by_x_first():
    disc = soft_disc(ImageGrid.square(16, 1.0), 1.0, 0.0, centre_angstrom=(5.0, -2.0))
    assert disc[8 - 2, 8 + 5] == 1
    assert disc[8, 8] == 0


def test_impossible_shapes_are_refused():
    with pytest.raises(InputError, match="width of an edge must not be negative"):
        soft_disc(ImageGrid.square(8, 1.0), 2.0, -1.0)
    with pytest.raises(InputError, match="radius must not be negative"):
        soft_disc(ImageGrid.square(8, 1.0), -2.0, 1.0)
    with pytest.raises(ShapeError, match="grid must have 3 axes"):
        soft_sphere(ImageGrid.square(8, 1.0), 2.0, 1.0)
