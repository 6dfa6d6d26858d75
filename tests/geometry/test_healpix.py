import healpy
import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler, random_rotations


@pytest.mark.parametrize(("order", "n_directions"), [(0, 12), (2, 192), (3, 768), (4, 3072), (5, 12_288), (6, 49_152)])
def test_grid_has_twelve_times_four_to_the_order_directions(order, n_directions):
    grid = OrientationGrid(order)
    assert grid.n_directions == n_directions
    assert grid.n_orientations == n_directions * 6 * 2**order


def test_order_two_has_4608_orientations_of_fifteen_degrees():
    grid = OrientationGrid(2)
    assert len(grid.numbers()) == 4608
    assert grid.spacing_degrees == 15.0
    turns = grid.rotations(torch.arange(grid.n_angles))
    steps = angular_distance_degrees(turns[1:], turns[:-1])
    torch.testing.assert_close(steps, torch.full((23,), 15.0, dtype=torch.float64))
    assert matrix_from_euler(0.0, 0.0, 15.0).allclose(turns[1] @ turns[0].T)


@pytest.mark.oracle
@pytest.mark.parametrize("order", [0, 1, 4])
def test_directions_are_healpys_nested_pixel_centres(order):
    grid = OrientationGrid(order)
    theirs = np.stack(healpy.pix2vec(2**order, np.arange(grid.n_directions), nest=True), axis=-1)
    np.testing.assert_allclose(grid.directions().numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 2])
def test_every_fine_orientation_is_the_child_of_exactly_one_coarse_one(levels):
    grid = OrientationGrid(1)
    children = grid.children(grid.numbers(), levels)
    assert children.shape == (grid.n_orientations, 8**levels)
    assert children.flatten().sort().values.equal(torch.arange(grid.finer(levels).n_orientations))


def test_children_of_children_are_grandchildren():
    grid = OrientationGrid(2)
    parents = torch.tensor([0, 17, 4607])
    twice = grid.finer().children(grid.children(parents)).flatten(1).sort(dim=1).values
    assert twice.equal(grid.children(parents, 2).sort(dim=1).values)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_children_lie_around_their_parent_also_near_the_poles(order):
    grid = OrientationGrid(order)
    numbers = grid.numbers()
    parents, children = grid.rotations(numbers), grid.finer().rotations(grid.children(numbers))
    distances = angular_distance_degrees(parents[:, None], children)
    # A quarter of a step in plane, and about 0.4 to the centre of a quarter of a pixel.
    assert distances.max() < 0.75 * grid.spacing_degrees


def test_every_rotation_is_near_a_grid_point():
    grid = OrientationGrid(2)
    nodes = grid.rotations(grid.numbers())
    rotations = random_rotations(3, "cover", range(100))
    nearest = angular_distance_degrees(rotations[:, None], nodes[None]).amin(1)
    # Half of the diagonal of a cell of 15 degrees in three dimensions, with HEALPix's most stretched pixels.
    assert nearest.max() < 15.0


@pytest.mark.parametrize(("name", "order"), [("C4", 4), ("D2", 4), ("D7", 14), ("T", 12), ("O", 24), ("I1", 60)])
def test_asymmetric_unit_holds_its_share_of_the_directions(name, order):
    kept = OrientationGrid(5).direction_numbers(name)
    assert len(kept) == pytest.approx(12_288 / order, rel=0.05)
    if name in ("C4", "D2"):  # the grid has these symmetries itself
        assert len(kept) * order == 12_288


@pytest.mark.parametrize(("order", "reach"), [(0, 90.0), (1, 180.0), (2, 40.0), (3, 11.25)])
def test_neighbourhoods_hold_exactly_the_orientations_within_the_angle(order, reach):
    grid = OrientationGrid(order)
    centres = torch.cat([random_rotations(4, "centres", range(4)), matrix_from_euler(10.0, [0.0, 179.9], 30.0)])
    numbers, bounds = grid.neighbourhoods(centres, reach)
    distances = angular_distance_degrees(centres[:, None], grid.rotations(grid.numbers())[None])
    for i in range(len(centres)):
        expected = torch.nonzero(distances[i] <= reach).flatten()
        assert numbers[bounds[i] : bounds[i + 1]].equal(expected)


def test_a_neighbourhood_holds_its_share_of_the_rotations():
    grid = OrientationGrid(4)
    reach = np.radians(15.0)
    numbers, bounds = grid.neighbourhoods(random_rotations(8, "centres", range(50)), 15.0)
    # The share of SO(3) within an angle a is (a - sin a) / π.
    expected = grid.n_orientations * (reach - np.sin(reach)) / np.pi
    assert len(numbers) / 50 == pytest.approx(expected, rel=0.05)
    assert bounds[-1] == len(numbers)


def test_no_pixel_corner_is_farther_from_its_centre_than_the_search_allows():
    # neighbourhoods() descends through pixels whose centres lie within the reach plus 62° / 2^order.
    for order in range(13):
        assert np.degrees(healpy.max_pixrad(2**order)) < 62.0 / 2**order


def test_values_outside_the_grid_are_refused():
    with pytest.raises(InputError, match="HEALPix order must be 0 to 12; got 13"):
        OrientationGrid(13)
    with pytest.raises(InputError, match="Numbers of orientations must be 0 to 71 at order 0; got 72 to 72"):
        OrientationGrid(0).rotations(torch.tensor([72]))
