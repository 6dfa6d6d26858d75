"""The maps of a species: mask, resolution and filters from two half-maps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import filters, shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.multiparticle import species
from halfmap.multiparticle.directional_maps import directions_of_table, frequency_table, view_table
from support.made_tensors import MadeTensors

DIAMETER, PIXEL = 80.0, 4.0
GRID = species.species_grid(DIAMETER, PIXEL)


def noise(number: int, grid: ImageGrid = GRID) -> torch.Tensor:
    return torch.from_numpy(keyed_random.normal(1, "noise", np.array([number]), size=grid.shape)[0])


def half_maps(signal_angstrom: float = 14.0, strength: float = 0.3) -> tuple[Volume, Volume]:
    """Return halves that share a structure down to a resolution, and nothing beyond it."""
    sphere = soft_sphere(GRID, 24.0, 8.0).double()
    low_pass = filters.low_pass(GRID, signal_angstrom, dtype=torch.float64)
    signal = filters.apply_filter(sphere * (2.0 * noise(0) + 2.0), GRID, low_pass)
    return tuple(  # type: ignore[return-value]
        Volume(values=(signal + strength * noise(number)).float(), grid=GRID) for number in (1, 2)
    )


HALVES = half_maps()
MEAN = Volume(values=(HALVES[0].values + HALVES[1].values) / 2, grid=GRID)
MASK, _ = species.mask_of_map(MEAN, low_pass_angstrom=20.0, threshold=None)


def test_a_mask_made_from_a_map_is_binary_and_holds_the_particle():
    assert set(MASK.values.unique().tolist()) == {0.0, 1.0}
    radius = GRID.radii()
    assert MASK.values[radius < 20].mean() > 0.9
    assert MASK.values[radius > 36].mean() < 0.02
    given, used = species.mask_of_map(MEAN, low_pass_angstrom=20.0, threshold=1.0)
    assert used == 1.0
    assert given.values.sum() < MASK.values.sum()


def test_a_soft_mask_of_other_pixels_becomes_binary_on_the_grid_of_the_species():
    fine = ImageGrid.cubic(48, 3.0)
    mask = species.binary_mask(Volume(values=soft_sphere(fine, 24.0, 6.0), grid=fine), GRID)
    assert mask.grid == GRID
    assert set(mask.values.unique().tolist()) == {0.0, 1.0}
    radius = GRID.radii()
    assert bool((mask.values[radius < 24] == 1).all())
    assert bool((mask.values[radius > 32] == 0).all())


def test_a_mask_without_a_voxel_in_the_box_is_refused():
    wide = ImageGrid.cubic(64, 4.0)
    far = Volume(values=soft_sphere(wide, 10.0, 4.0, centre_angstrom=(110.0, 0.0, 0.0)), grid=wide)
    with pytest.raises(InputError, match="some voxels of its box"):
        species.binary_mask(far, GRID)


def test_the_maps_of_a_species_have_the_resolution_of_what_its_halves_share():
    found = species.species_maps(*HALVES, MASK, diameter_angstrom=DIAMETER)
    # the shared structure ends at shell 11, 14.5 Å; the masks blur by up to three shells of 20
    assert 11.4 < found.resolution_angstrom < 15.0
    power = shells.power_spectrum(GRID.rfft(found.filtered.values.double()), GRID)
    assert float(power[17:].max()) < 1e-6 * float(power[1:6].max())
    assert found.local is not None
    assert found.locally_filtered is not None
    assert abs(float(found.local.point_resolution_angstrom.median()) - found.resolution_angstrom) < 4
    area = torch.sin(torch.deg2rad(torch.arange(180) + 0.5)).double()[:, None].expand(180, 360)
    mean = float((area * found.direction_frequency).sum() / area.sum())
    assert mean == pytest.approx(1 / found.resolution_angstrom, rel=1e-6)
    flat = shells.power_spectrum(GRID.rfft(found.anisotropic.values.double()), GRID)
    assert float(flat[18]) < 1e-6 * float(flat[3])
    assert 2 * PIXEL <= found.denoised_to_angstrom <= found.resolution_angstrom
    outside = GRID.radii() > 50
    assert float(found.denoised.values[outside].std()) < float(found.sharpened.values[outside].std())


def test_limiting_frequencies_of_cones_are_spread_to_the_directions_near_them():
    axes = torch.nn.functional.normalize(noise(5)[:, :5, :3].reshape(-1, 3), dim=1)  # 200 cones
    resolution = 10.0 + 4.0 * axes[:, 2].square()  # coarser along z
    with MadeTensors() as made:
        table = frequency_table(SimpleNamespace(directions=axes, resolution_angstrom=resolution), 12.0)
    assert made.largest <= 9 * table.numel()  # rotations of the cells; cells × cones would be 200
    area = torch.sin(torch.deg2rad(torch.arange(180) + 0.5)).double()[:, None].expand(180, 360)
    assert float((area * table).sum() / area.sum()) == pytest.approx(1 / 12.0)
    across, along = 1 / table[85:95].mean(), 1 / torch.cat([table[:5], table[-5:]]).mean()
    assert float(along / across) == pytest.approx(1.4, abs=0.08)  # cones 15° wide blur it


def test_the_soft_mask_is_tighter_the_better_the_resolution():
    loose, tight = (species.soft_mask(MASK, resolution).values.sum() for resolution in (24.0, 8.0))
    assert loose > tight > MASK.values.sum()


def test_half_maps_that_do_not_belong_together_are_refused():
    turned = Volume(values=HALVES[1].values.flip(0).roll(9, 2), grid=GRID)
    with pytest.raises(InconsistentDataError, match="agree at low resolution"):
        species.first_resolution_angstrom(HALVES[0], turned, diameter_angstrom=DIAMETER, seed=1)
    with pytest.raises(InconsistentDataError, match="same values"):
        species.first_resolution_angstrom(HALVES[0], HALVES[0], diameter_angstrom=DIAMETER, seed=1)


def test_maps_that_are_resampled_keep_their_content():
    fine = species.fitted(HALVES[0], ImageGrid.cubic(80, 2.0))
    back = species.fitted(fine, GRID)
    inner = species.box_sphere(GRID) > 0.5
    low = filters.low_pass(GRID, 12.0)
    change = filters.apply_filter(back.values - HALVES[0].values, GRID, low)[inner]
    assert float(change.std()) < 0.02 * float(HALVES[0].values[inner].std())


def test_coarse_pixels_have_no_local_resolution():
    assert species.local_params(ImageGrid.cubic(32, 13.0)) is None
    assert species.local_params(ImageGrid.cubic(32, 4.0)) is not None


def test_views_are_counted_where_they_look_from():
    cells = directions_of_table()
    assert torch.allclose(cells.norm(dim=-1), torch.ones(180, 360, dtype=torch.float64))
    seen = view_table(torch.eye(3, dtype=torch.float64).expand(10, 3, 3))
    assert float(seen[0].mean()) > 100
    assert float(seen[30:].max()) == 0.0
