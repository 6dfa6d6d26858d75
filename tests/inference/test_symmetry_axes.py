"""A turned and moved map is brought back to where its group has its axes, and what cannot be is refused."""

import functools
import math

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import InputError
from halfmap.fourier.resample import shift
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations, rotation_vector_from_matrix
from halfmap.geometry.symmetric_volumes import rotate_volume, symmetrise_volume
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid
from halfmap.inference.symmetry_axes import (
    SymmetryAxes,
    aligned,
    find_axes,
    in_nearest_setting,
    radius_of_round,
    share_off_round,
    without_round_part,
)

GRID = ImageGrid.cubic(36, 4.0)
MOVED = torch.tensor([5.0, -6.0, 3.0], dtype=torch.float64)  # Å


@functools.cache
def particle(group):
    """Return a map of a group: blobs at random, symmetrised."""
    places = torch.from_numpy(keyed_random.normal(3, "blobs", np.arange(10), size=(3,)))
    reach = torch.from_numpy(keyed_random.uniform(3, "reach of blobs", np.arange(10)))
    places = places / places.norm(dim=1, keepdim=True) * (18 + 20 * reach)[:, None]
    away = (GRID.positions()[..., None, :] - places).square().sum(-1)
    return symmetrise_volume(torch.exp(-away / (2 * 6.5**2)).sum(-1), GRID, group)


def turned(group):
    rotation = random_rotations(5, "rotations of maps", np.array([1]))[0]
    return shift(rotate_volume(particle(group), GRID, rotation), GRID, MOVED), rotation


def noise(strength):
    return strength * torch.from_numpy(keyed_random.normal(8, "noise", np.array([0]), size=GRID.shape)[0])


@pytest.mark.parametrize("group", ["D2", "D7", "O", "C4"])
def test_a_turned_map_gets_its_axes_back(group):
    volume, rotation = turned(group)
    axes = find_axes(volume + noise(0.02), GRID, group)
    # particle(R (M v + c − moved)) must be symmetric in v: the axes of the group, turned, are axes of the particle
    turn = rotation @ axes.rotation
    images = turn @ operators(group) @ turn.T
    nearest = (images[:, None] - operators(group)).square().sum((-2, -1)).amin(1).sqrt()
    assert float(torch.rad2deg(nearest.max()) / math.sqrt(2)) < 1.5  # degrees; twice the error of an axis
    off_axis = rotation @ (axes.centre_angstrom - MOVED)
    if group == "C4":
        off_axis[2] = 0.0  # anywhere on the axis
    assert float(off_axis.norm()) < 0.5  # Å, an eighth of a voxel
    back = aligned(volume, GRID, axes)
    with_symmetry = symmetrise_volume(back, GRID, group)
    assert float((back * with_symmetry).sum() / (back.norm() * with_symmetry.norm())) > 0.998


@pytest.mark.parametrize(
    ("group", "angle", "axis"),
    [
        ("C4", 77.0, 2),
        ("C4", 180.0, 0),
        ("D2", 90.0, 1),
        ("D3", 60.0, 2),
        ("D7", 180.0, 0),
        ("O", 90.0, 2),
    ],
)
def test_a_map_that_lies_as_its_group_has_it_is_not_turned(group, angle, axis):
    small = matrix_from_rotation_vector(torch.tensor([0.02, -0.01, 0.0], dtype=torch.float64))
    vector = torch.zeros(3, dtype=torch.float64)
    vector[axis] = math.radians(angle)
    found = SymmetryAxes(
        rotation=small @ matrix_from_rotation_vector(vector),
        centre_angstrom=MOVED,
        correlation=1.0,
        resolution_angstrom=10.0,
    )
    nearest = in_nearest_setting(found, group).rotation
    ops = operators(group)
    images, wanted = (one @ ops @ one.mT for one in (nearest, small))
    assert float((images[:, None] - wanted).abs().amax((-2, -1)).amin(1).max()) < 1e-9  # the same axes
    turn = rotation_vector_from_matrix(nearest).norm()
    assert float(turn) == pytest.approx(math.hypot(0.02, 0.01), rel=1e-3)


def test_the_two_ways_in_which_t_may_lie_are_settings_of_it():
    twofold = next(one for one in operators("T") if abs(float(one.trace()) + 1) < 1e-6)
    axis = torch.linalg.eigh(twofold)[1][:, 2]
    found = SymmetryAxes(
        rotation=matrix_from_rotation_vector(axis * math.pi / 2),
        centre_angstrom=MOVED,
        correlation=1.0,
        resolution_angstrom=10.0,
    )
    torch.testing.assert_close(in_nearest_setting(found, "T").rotation, torch.eye(3, dtype=torch.float64))


def test_orientations_follow_the_map():
    """A point v of the aligned map is M v + c of the map before, so A of its particles becomes A M."""
    volume, _ = turned("C4")
    axes = find_axes(volume, GRID, "C4")
    back = aligned(volume, GRID, axes)
    points = torch.tensor([[8.0, 4.0, -12.0], [0.0, 16.0, 4.0]], dtype=torch.float64)
    before = points @ axes.rotation.T + axes.centre_angstrom
    for one, other in zip(points, before, strict=True):
        # read both maps at the points by moving them there
        assert float(shift(back, GRID, -one)[18, 18, 18]) == pytest.approx(
            float(shift(volume, GRID, -other)[18, 18, 18]), abs=0.01
        )


def test_a_map_without_the_symmetry_does_not_correlate_with_its_symmetrised_self():
    volume, _ = turned("C1")
    assert find_axes(volume, GRID, "C4").correlation < 0.9


def test_no_axes_are_looked_for_where_there_are_none():
    with pytest.raises(InputError, match="must have some; got C1"):
        find_axes(particle("D2"), GRID, "c1")
    with pytest.raises(InputError, match="positive density; got none"):
        find_axes(-torch.ones(GRID.shape), GRID, "D2")
    with pytest.raises(InputError, match="one of C1, C2"):
        find_axes(particle("D2"), GRID, "Q3")


@pytest.mark.parametrize("radius_angstrom", [30.0, 42.0])
def test_a_round_particle_ends_where_its_shell_does_whatever_lies_outside(radius_angstrom):
    distance = GRID.positions().norm(dim=-1)
    shell = torch.exp(-((distance - radius_angstrom + 12.0) / 8.0).square())
    gap = -0.3 * torch.exp(-((distance - radius_angstrom - 6.0) / 6.0).square())
    neighbours = 0.2 * (distance > radius_angstrom + 18.0)
    inside = -0.4 * (distance < radius_angstrom - 24.0)
    found = radius_of_round(shell + gap + neighbours + inside, GRID)
    assert abs(found - radius_angstrom) <= 4.0  # Å: a voxel


@pytest.mark.parametrize("pixel_angstrom", [2.0, 4.0, 7.0])
def test_the_radius_of_a_round_particle_does_not_depend_on_the_voxels(pixel_angstrom):
    grid = ImageGrid.cubic(2 * round(72 / pixel_angstrom), pixel_angstrom)
    distance = grid.positions().norm(dim=-1)
    falling = torch.exp(-((distance - 50.0) / 12.0).square()) - 0.2 * torch.sigmoid((distance - 50.0) / 6.0)
    assert radius_of_round(falling, grid) == pytest.approx(65.6, abs=1.0)  # Å, where the function is 0


def test_an_outer_shell_beyond_a_gap_belongs_to_a_round_particle_and_faint_neighbours_do_not():
    distance = GRID.positions().norm(dim=-1)
    core = torch.exp(-((distance - 20.0) / 6.0).square())
    gap = -0.3 * torch.exp(-((distance - 34.0) / 5.0).square())
    outer = torch.exp(-((distance - 48.0) / 5.0).square()) - 0.02
    assert radius_of_round(core + gap + 0.8 * outer, GRID) == pytest.approx(58.0, abs=4.0)  # Å: a voxel
    assert radius_of_round(core + gap + 0.2 * outer, GRID) < 34.0


def test_a_map_that_does_not_end_is_as_large_as_its_box():
    assert radius_of_round(torch.ones(GRID.shape), GRID) == pytest.approx(18 * 4.0)
    assert radius_of_round(-torch.ones(GRID.shape), GRID) == 18 * 4.0


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_the_share_off_round_is_that_of_what_a_map_has_beside_its_mean_over_all_directions(strength):
    place = GRID.positions()
    distance = place.norm(dim=-1).clamp(min=1e-9)
    # x⁴ + y⁴ + z⁴ has the mean 3/5 and the variance 16/525 on the unit sphere, and the symmetry O
    cubic = (place / distance[..., None]).pow(4).sum(-1) - 3 / 5
    shell = torch.exp(-(distance - 40.0).square() / (2 * 8.0**2))
    lopsided = 0.4 * place[..., 0] / distance  # is lost where O is imposed
    power = strength**2 * 16 / 525
    found = share_off_round(shell * (1 + strength * cubic + lopsided), GRID, "O", 70.0)
    # trilinear interpolation of a shell of σ 2 voxels
    assert found == pytest.approx(power / (1 + power), rel=0.05, abs=1e-3)
    assert share_off_round(shell * (1 + lopsided), GRID, "C1", 70.0) == pytest.approx(
        0.16 / 3 / (1 + 0.16 / 3), rel=0.05
    )


def test_a_map_without_its_round_part_has_a_mean_of_0_at_every_radius_and_keeps_the_rest():
    place = GRID.positions()
    distance = place.norm(dim=-1)
    ball = torch.exp(-(distance / 25.0).square())
    lopsided = place[..., 0] * ball / 25.0
    found = without_round_part(ball + lopsided, GRID)
    # a straight line between voxels leaves an eighth of the second derivative, 2 (4 / 25)², of the ball
    assert float((found - lopsided).abs().max()) < 0.01
