"""Cones: alike where the maps are, and pointing where they are not."""

import math

import pytest
import torch

from halfmap.errors import InputError
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.postprocessing.directional import directional_fsc
from support.half_maps import half_maps, white


def transforms(grid, signal, noise):
    return [grid.rfft(half.values.double()) for half in half_maps(signal, grid, noise=noise)]


def with_missing_cone(grid, axis, half_angle_degrees):
    """White structure without coefficients near an axis beyond shell 8."""
    frequencies = grid.frequencies()
    length = frequencies.norm(dim=-1).clamp_min(1e-12)
    cosine = (frequencies @ axis).abs() / length
    missing = (cosine > math.cos(math.radians(half_angle_degrees))) & (shells.shell_index(grid) > 8)
    transform = grid.rfft(white(grid, 0, "structure"))
    return grid.irfft(torch.where(missing, torch.zeros_like(transform), transform))


@pytest.mark.parametrize("side", [40, 41])
def test_alike_in_all_directions_is_a_sphere(side):
    grid = ImageGrid.cubic(side, 2.0)
    # both halves are the signal up to shell 12: every cone ends there
    sharp = (shells.shell_index(grid) <= 12).double()
    signal = grid.irfft(grid.rfft(3 * white(grid, 0, "structure")) * sharp)
    found = directional_fsc(*transforms(grid, signal, 0.2), grid)
    extent = side * 2.0
    assert extent / 15 < found.best_angstrom <= found.worst_angstrom < extent / 12
    assert found.sphericity > 0.99
    assert found.anisotropy < 0.05


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, 0.48, 0.64)])
def test_worst_direction_points_into_the_missing_cone(axis):
    grid = ImageGrid.cubic(48, 2.0)
    wanted = torch.tensor(axis, dtype=torch.float64)
    found = directional_fsc(*transforms(grid, with_missing_cone(grid, wanted, 35.0), 0.3), grid)
    cosines = (found.directions @ wanted).abs()
    assert float(cosines[found.resolution_angstrom.argmax()]) > math.cos(math.radians(20))
    inside, outside = cosines > math.cos(math.radians(12)), cosines < math.cos(math.radians(60))
    assert (found.resolution_angstrom[inside] > 48 * 2 / 11).all()
    assert (found.resolution_angstrom[outside] < 48 * 2 / 23).all()
    assert found.worst_angstrom == float(found.resolution_angstrom.max())
    assert found.sphericity < 0.95
    assert found.anisotropy > 0.1


def test_directions_are_one_of_each_opposite_pair():
    grid = ImageGrid.cubic(16, 2.0)
    found = directional_fsc(*transforms(grid, white(grid, 0, "structure"), 0.3), grid)
    assert found.directions.shape == (96, 3)
    assert (found.directions[:, 2] >= -1e-9).all()
    products = found.directions @ found.directions.T
    assert (products + 2 * torch.eye(96) > -1 + 1e-9).all()
    assert torch.allclose(found.directions.norm(dim=1), torch.ones(96, dtype=torch.float64))


def test_same_transform_correlates_fully_in_every_cone():
    grid = ImageGrid.cubic(20, 2.0)
    transform = grid.rfft(white(grid, 1))
    assert torch.allclose(directional_fsc(transform, transform, grid).curves, torch.ones(96, 11).double())


def test_cones_are_corrected_by_the_random_phases():
    grid = ImageGrid.cubic(24, 2.0)
    pair = transforms(grid, white(grid, 0, "structure"), 0.5)
    randomised = torch.full((13,), 0.2, dtype=torch.float64)
    plain = directional_fsc(*pair, grid).curves
    corrected = directional_fsc(*pair, grid, randomised=randomised, randomise_from_shell=4).curves
    assert torch.equal(corrected[:, :6], plain[:, :6])
    assert torch.allclose(corrected[:, 6:], (plain[:, 6:] - 0.2) / 0.8)


@pytest.mark.parametrize("angle", [0.0, 90.0, -5.0])
def test_cones_of_no_sensible_angle_are_refused(angle):
    grid = ImageGrid.cubic(8, 2.0)
    pair = transforms(grid, white(grid, 0, "structure"), 0.5)
    with pytest.raises(InputError, match="between 0 and 90°"):
        directional_fsc(*pair, grid, cone_half_angle_degrees=angle)
