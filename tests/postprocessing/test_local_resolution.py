"""Local resolution: found where it is put, and the map filtered by it."""

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import filters
from halfmap.grid import ImageGrid
from halfmap.postprocessing import local_resolution as module
from halfmap.postprocessing.local_resolution import local_resolution, locally_filtered, sampling_points
from halfmap.postprocessing.params import LocalResolutionParams
from support.half_maps import half_maps, particle, sphere_mask, white

PARAMS = LocalResolutionParams(
    step_angstrom=12.0, radius_angstrom=14.0, sphere_edge_angstrom=10.0, randomise_from_angstrom=25.0
)


def halves_of_two_resolutions(grid, coarse_angstrom, fine_angstrom):
    """One half maps pair whose signal ends at one resolution where x < 0 and at another where x > 0."""
    structure = white(grid, 0, "structure")
    coarse, fine = (
        filters.apply_filter(structure, grid, filters.low_pass(grid, resolution, 2.0, dtype=torch.float64))
        for resolution in (coarse_angstrom, fine_angstrom)
    )
    return half_maps(torch.where(grid.positions()[..., 0] < 0, coarse, fine), grid, noise=0.5)


@pytest.mark.parametrize("side", [56, 57])
def test_each_side_has_the_resolution_that_was_put_there(side):
    grid = ImageGrid.cubic(side, 2.0)
    halves = halves_of_two_resolutions(grid, 12.0, 6.0)
    mask = sphere_mask(grid, radius_angstrom=46, edge_angstrom=4)
    found = local_resolution(*halves, mask, PARAMS)
    x = (found.points_pixel[:, 0] - side // 2) * 2.0
    left, right = (found.point_resolution_angstrom[away] for away in (x < -23, x > 23))  # whole spheres on one side
    assert len(left) > 10
    assert len(right) > 10
    # a sphere of 48 Å with its edge blurs by one and a half of its own shells, 1.5 / 48 Å
    assert 1 / (1 / 12 + 1.5 / 48) < float(left.median()) < 12.5
    assert 1 / (1 / 6 + 1.5 / 48) < float(right.median()) < 6.25
    inside = mask.values > 0.5
    positions = grid.positions()[..., 0]
    left_mean, right_mean = (
        found.resolution.values[inside & away].mean() for away in (positions < -24, positions > 24)
    )
    assert left_mean > 1.4 * right_mean  # spheres that lie across the border have their part in both
    assert found.resolution.values[0, 0, 0] == PARAMS.worst_resolution_angstrom


def test_no_place_is_finer_than_the_band_of_the_maps():
    grid = ImageGrid.cubic(40, 2.0)
    halves = half_maps(particle(grid, radius_angstrom=36), grid, noise=0.1)
    mask = sphere_mask(grid, radius_angstrom=24, edge_angstrom=2)
    free, told = (local_resolution(*halves, mask, PARAMS, band_shell=shell) for shell in (None, 10))
    assert free.point_resolution_angstrom.median() < 6
    assert told.point_resolution_angstrom.min() == pytest.approx(8.0)
    assert (free.n_at_finest, told.n_at_finest) == (0, int((free.point_resolution_angstrom <= 8.0).sum()))


def test_noise_has_the_worst_resolution():
    grid = ImageGrid.cubic(40, 2.0)
    halves = half_maps(torch.zeros(grid.shape, dtype=torch.float64), grid, noise=1.0)
    found = local_resolution(*halves, sphere_mask(grid, radius_angstrom=24, edge_angstrom=2), PARAMS)
    assert found.point_resolution_angstrom.median() > 20
    assert found.n_at_worst == int((found.point_resolution_angstrom >= 50 - 1e-9).sum())


def test_batches_do_not_change_anything_and_are_counted(monkeypatch):
    grid = ImageGrid.cubic(32, 3.0)
    halves = half_maps(particle(grid, radius_angstrom=36), grid, noise=0.4)
    mask = sphere_mask(grid, radius_angstrom=36, edge_angstrom=4)
    at_once = local_resolution(*halves, mask, PARAMS)
    counted = []
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 1)
    one_by_one = local_resolution(*halves, mask, PARAMS, advance=counted.append)
    assert torch.allclose(at_once.point_resolution_angstrom, one_by_one.point_resolution_angstrom, rtol=1e-6)
    assert counted == [1] * len(at_once.points_pixel)


def test_points_are_a_lattice_through_the_centre_in_the_mask():
    grid = ImageGrid.cubic(25, 2.0)
    mask = sphere_mask(grid, radius_angstrom=15, edge_angstrom=0)
    points = sampling_points(mask, 6.0)
    away = (points - 12).double()
    assert (away % 3 == 0).all()
    assert (away.norm(dim=1) * 2 <= 15).all()
    expected = ImageGrid.cubic(5, 6.0).radii() <= 15
    assert len(points) == int(expected.sum())
    lopsided = Volume(values=torch.zeros(grid.shape), grid=grid)
    lopsided.values[12, 15, 9] = 1.0  # z, y, x
    assert sampling_points(lopsided, 6.0).tolist() == [[9, 15, 12]]
    lopsided.values.zero_()
    lopsided.values[11, 11, 11] = 1.0
    with pytest.raises(InputError, match="got none; give a mask that holds the particle, or a smaller --step"):
        sampling_points(lopsided, 6.0)


def test_map_of_one_resolution_is_low_passed_there():
    grid = ImageGrid.cubic(32, 2.0)
    volume = Volume(values=white(grid, 1).float(), grid=grid)
    everywhere = Volume(values=torch.full(grid.shape, 8.0), grid=grid)
    expected = filters.apply_filter(volume.values, grid, filters.low_pass(grid, 8.0))
    assert torch.allclose(locally_filtered(volume, everywhere).values, expected, atol=1e-5)


def test_map_is_filtered_side_by_side():
    grid = ImageGrid.cubic(32, 2.0)
    volume = Volume(values=white(grid, 1).float(), grid=grid)
    left = grid.positions()[..., 0] < 0
    resolution = torch.where(left, 16.0, 5.0).float()
    filtered = locally_filtered(volume, Volume(values=resolution, grid=grid)).values
    for side, angstrom in ((left, 16.0), (~left, 5.0)):
        expected = filters.apply_filter(volume.values, grid, filters.low_pass(grid, angstrom))
        assert torch.allclose(filtered[side], expected[side], atol=1e-4)


def test_memory_is_stated_for_the_window_at_least():
    small, large = ImageGrid.cubic(64, 1.0), ImageGrid.cubic(512, 0.5)
    params = LocalResolutionParams()
    assert module.window_side(small, params) == 76
    assert module.window_side(large, params) == 150
    assert module.memory_bytes(large, params) > 6 * 8 * 512**3


def test_settings_that_cannot_be_met_are_refused():
    grid = ImageGrid.cubic(16, 14.0)
    halves = half_maps(particle(grid, radius_angstrom=60), grid, noise=0.4)
    with pytest.raises(InputError, match=r"--randomise-from .* Nyquist frequency, 28 Å; got 25 Å"):
        local_resolution(*halves, sphere_mask(grid, radius_angstrom=60, edge_angstrom=14), PARAMS)
    small = LocalResolutionParams(radius_angstrom=4.0, sphere_edge_angstrom=4.0, randomise_from_angstrom=30.0)
    with pytest.raises(InputError, match=r"must reach half of --randomise-from, 15 Å; got 14 Å"):
        local_resolution(*halves, sphere_mask(grid, radius_angstrom=60, edge_angstrom=14), small)
