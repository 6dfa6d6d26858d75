"""All steps in a row: two half maps become a resolution and a map."""

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.postprocessing.masks import automatic_mask
from halfmap.postprocessing.params import PostprocessParams
from halfmap.postprocessing.postprocess import mean_map, postprocess
from support.half_maps import half_maps, particle, sphere_mask

B_FACTOR = 120.0


@pytest.fixture(scope="module")
def case():
    grid = ImageGrid.cubic(64, 1.5)
    signal = particle(grid, radius_angstrom=30, b_factor_angstrom2=B_FACTOR)
    halves = half_maps(signal, grid, noise=0.25)
    mask = sphere_mask(grid, radius_angstrom=33, edge_angstrom=9)
    return grid, signal, halves, mask, postprocess(*halves, mask)


def test_parts_of_the_result_belong_together(case):
    grid, _, _, mask, result = case
    assert result.grid == grid
    assert result.resolution_angstrom == result.fsc.resolution_angstrom
    assert result.b_factor_angstrom2 == result.guinier.b_factor_angstrom2
    assert torch.equal(result.masked_map.values, result.map.values * mask.values)
    assert result.directional is not None
    assert result.directional.best_angstrom <= result.resolution_angstrom * 1.05
    assert result.directional.worst_angstrom >= result.resolution_angstrom * 0.95
    assert {curve.dtype for curve in (result.fsc.corrected, result.guinier.weighted)} == {torch.float64}


def test_post_processing_brings_the_map_nearer_to_the_sharp_truth(case):
    grid, _, halves, mask, result = case
    # the truth without the B-factor, up to the resolution found
    truth = particle(grid, radius_angstrom=30) * mask.values
    wanted = filters.apply_filter(truth, grid, filters.low_pass(grid, result.resolution_angstrom, dtype=torch.float64))

    def likeness(values):
        pair = torch.stack([values.double().flatten() * mask.values.flatten(), wanted.flatten()])
        return float(torch.corrcoef(pair)[0, 1])

    assert likeness(result.map.values) > likeness(mean_map(*halves).values) + 0.02
    assert -1.5 * B_FACTOR < result.b_factor_angstrom2 < -0.5 * B_FACTOR


def test_resolution_agrees_with_the_truth(case):
    grid, signal, halves, mask, result = case
    mean = mean_map(*halves).values.double() * mask.values
    to_truth = shells.fsc(grid.rfft(mean), grid.rfft(signal * mask.values), grid)
    # 0.143 between halves is 0.5 between mean and truth
    assert result.resolution_angstrom == pytest.approx(shells.resolution_at_threshold(to_truth, grid, 0.5), rel=0.1)


def test_result_depends_on_the_seed_alone_and_hardly(case):
    _, _, halves, mask, result = case
    again, other = postprocess(*halves, mask), postprocess(*halves, mask, seed=2)
    assert torch.equal(again.map.values, result.map.values)
    assert torch.equal(again.fsc.randomised, result.fsc.randomised)
    assert not torch.equal(other.fsc.randomised, result.fsc.randomised)
    assert other.resolution_angstrom == pytest.approx(result.resolution_angstrom, rel=0.03)


def test_automatic_mask_will_do(case):
    _, _, halves, _, result = case
    mask = automatic_mask(mean_map(*halves))
    assert postprocess(*halves, mask).resolution_angstrom == pytest.approx(result.resolution_angstrom, rel=0.1)


def test_without_a_mask_the_resolution_is_worse_and_it_is_said(case):
    _, _, halves, _, result = case
    bare = postprocess(*halves, None, PostprocessParams(directional=False))
    assert bare.resolution_angstrom > result.resolution_angstrom
    assert bare.directional is None
    assert bare.masked_map is bare.map
    assert [concern.kind for concern in bare.concerns if concern.level == "plain"] == ["no mask"]


def test_boxes_of_unequal_sides_have_no_directions():
    grid = ImageGrid(shape=(24, 32, 28), pixel_size_angstrom=2.0)
    halves = half_maps(particle(grid, radius_angstrom=16), grid, noise=0.5)
    result = postprocess(*halves, sphere_mask(grid, radius_angstrom=18, edge_angstrom=5))
    assert result.directional is None
    assert result.map.values.shape == grid.shape
    assert len(result.fsc.corrected) == 17


def test_masks_a_little_outside_their_range_are_brought_in(case):
    _, _, halves, mask, _ = case
    wide = Volume(values=mask.values * 1.002 - 0.001, grid=mask.grid)
    assert postprocess(*halves, wide).mask.values.max() == 1
