"""Masks: distances, thresholds, islands, combinations, and RELION's own."""

import math

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InputError, ShapeError
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.postprocessing import masks
from halfmap.postprocessing.params import MaskParams
from halfmap.units import Length
from support.half_maps import white
from support.shared_data import shared_data


def pixels(value):
    return Length(value, in_pixels=True)


def one_voxel(side=15):
    inside = torch.zeros(side, side, side, dtype=torch.bool)
    inside[side // 2, side // 2, side // 2] = True
    return inside


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("distance", [1.0, 1.5, 3.0, 5.0])
def test_extended_voxel_is_the_ball_of_voxels_strictly_nearer(side, distance):
    grown = masks.extended(one_voxel(side), distance)
    assert torch.equal(grown, ImageGrid.cubic(side, 1.0).radii() < distance)


def test_shrinking_is_growing_of_what_is_outside():
    inside = ImageGrid.cubic(20, 1.0).radii() < 6
    shrunk = masks.extended(inside, -2)
    assert torch.equal(~shrunk, masks.extended(~inside, 2))
    assert 0 < shrunk.sum() < inside.sum()
    assert torch.equal(masks.extended(inside, 0), inside)


def test_soft_edge_is_a_raised_cosine_of_the_distance():
    edged = masks.soft_edged(one_voxel(), 4.0)
    radii = ImageGrid.cubic(15, 1.0).radii()
    expected = torch.where(radii < 4, 0.5 + 0.5 * torch.cos(math.pi * radii / 4), torch.zeros_like(radii))
    assert torch.allclose(edged.double(), expected, atol=1e-7)
    assert torch.equal(masks.soft_edged(one_voxel(), 0.0), one_voxel().float())


@pytest.mark.parametrize("side", [48, 49])
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.8])
def test_automatic_threshold_finds_the_particle_whatever_the_noise(side, noise):
    grid = ImageGrid.cubic(side, 4.0)
    truth = soft_sphere(grid, 40.0, 8.0)
    volume = Volume(values=truth + noise * white(grid, 1).float(), grid=grid)
    params = MaskParams(low_pass_angstrom=20.0, extend=pixels(0), soft_edge=pixels(0))
    mask, threshold = masks.mask_from_map(volume, params)
    radii = grid.radii()
    assert 0.1 < threshold < 0.55
    assert mask.values[radii < 36].min() == 1  # the particle to within one voxel
    assert mask.values[radii > 64].mean() < 0.002  # beyond the blur of the low-pass hardly any solvent


def test_automatic_threshold_follows_scale_and_pedestal():
    grid = ImageGrid.cubic(32, 4.0)
    volume = soft_sphere(grid, 30.0, 8.0) + 0.1 * white(grid, 1).float()
    plain = masks.automatic_threshold(Volume(values=volume, grid=grid))
    moved = masks.automatic_threshold(Volume(values=50 * volume + 7, grid=grid))
    assert moved == pytest.approx(50 * plain + 7, rel=1e-5)


def test_islands_go_by_their_share_of_the_largest():
    inside = torch.zeros(20, 20, 20, dtype=torch.bool)
    inside[2:8, 2:8, 2:8] = True  # 216 voxels
    inside[12:16, 12:16, 12:16] = True  # 64
    inside[18, 18, 18] = True
    assert int(masks.without_islands(inside, 0).sum()) == 281
    assert int(masks.without_islands(inside, 0.1).sum()) == 280
    assert int(masks.without_islands(inside, 1.0).sum()) == 216


def test_combinations_are_those_of_sets():
    grid = ImageGrid.cubic(16, 1.0)
    first, second = (
        Volume(values=soft_sphere(grid, 4.0, 3.0, centre_angstrom=(x, 0.0, 0.0)), grid=grid) for x in (-1.5, 1.5)
    )
    either, both = masks.union(first, second).values, masks.intersection(first, second).values
    assert torch.allclose(either + both, first.values + second.values)
    neither = masks.intersection(masks.inverted(first), masks.inverted(second)).values
    assert torch.allclose(1 - neither, either)
    assert torch.equal(masks.difference(first, second).values, torch.minimum(first.values, 1 - second.values))
    small = Volume(values=torch.ones(8, 8, 8), grid=ImageGrid.cubic(8, 1.0))
    with pytest.raises(ShapeError, match="same sides"):
        masks.union(first, small)


def test_volume_is_in_cubic_angstrom():
    grid = ImageGrid.cubic(40, 2.0)
    mask = Volume(values=soft_sphere(grid, 20.0, 0.0), grid=grid)
    assert masks.volume_angstrom3(mask) == pytest.approx(4 / 3 * math.pi * 20**3, rel=0.02)


@pytest.mark.oracle
def test_mask_equals_relion_s():
    folder = shared_data("oracles/relion5_mask")
    params = MaskParams(low_pass_angstrom=15.0, threshold=0.03, extend=pixels(3), soft_edge=pixels(4), min_island=0)
    ours, _ = masks.mask_from_map(mrc.read_volume(folder / "map.mrc"), params)
    theirs = mrc.read_volume(folder / "mask.mrc").values
    assert (ours.values - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("mass", [465.0])
def test_automatic_mask_of_real_half_maps_holds_the_molecule(mass):
    folder = shared_data("oracles/relion5_postprocess")
    halves = [mrc.read_volume(folder / f"run_half{i}_class001_unfil.mrc") for i in (1, 2)]
    mean = Volume(values=(halves[0].values + halves[1].values) / 2, grid=halves[0].grid)
    ours, theirs = masks.automatic_mask(mean).values > 0.5, mrc.read_volume(folder / "mask.mrc").values > 0.5
    overlap = float((ours & theirs).sum() / (ours | theirs).sum())
    assert overlap > 0.8  # two sensible masks of one particle: theirs was grown a little less
    assert float(ours.sum()) * 3.54**3 > mass * 1000 / 0.81


# refusals


def test_threshold_that_leaves_nothing_or_everything_is_refused():
    grid = ImageGrid.cubic(16, 4.0)
    volume = Volume(values=soft_sphere(grid, 16.0, 8.0), grid=grid)
    for threshold in (5.0, -5.0):
        with pytest.raises(
            InputError, match=r"some voxels inside and some outside; got .*5 where .* choose one between"
        ):
            masks.mask_from_map(volume, MaskParams(threshold=threshold))
    with pytest.raises(InputError, match="a voxel after shrinking; got none with --extend -9px"):
        masks.mask_from_map(volume, MaskParams(extend=pixels(-9)))
    with pytest.raises(InputError, match="different values"):
        masks.mask_from_map(Volume(values=torch.zeros(grid.shape), grid=grid), MaskParams())


def test_values_that_are_no_mask_are_refused():
    grid = ImageGrid.cubic(8, 4.0)
    nearly = Volume(values=torch.full(grid.shape, 1.004), grid=grid)
    assert masks.checked_mask(nearly).values.max() == 1
    for value, said in ((3.0, "from 0 to 1; got 3 to 3"), (0.2, r"above 0\.5; got 0\.2"), (math.nan, "got nan")):
        with pytest.raises(InputError, match=said):
            masks.checked_mask(Volume(values=torch.full(grid.shape, value), grid=grid))
