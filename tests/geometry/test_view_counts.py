"""How often directions were seen."""

import pytest
import torch

from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.geometry.symmetry import operators
from halfmap.geometry.view_counts import (
    counts_in_asymmetric_unit,
    pixels_of_directions,
    transform_coverage,
    view_counts,
)

GROUPS = ("C1", "C3", "D2", "T", "O", "I2")


def test_each_pixel_holds_its_own_centre():
    grid = OrientationGrid(3)
    assert pixels_of_directions(grid.directions(), 3).tolist() == list(range(grid.n_directions))
    assert pixels_of_directions(torch.zeros(0, 3), 3).shape == (0,)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_every_rotation_counts_once_at_each_equivalent(symmetry):
    rotations = OrientationGrid(1).rotations(torch.arange(0, 576, 5))
    counts = view_counts(rotations, 2, symmetry)
    assert int(counts.sum()) == len(rotations) * len(operators(symmetry))
    _, in_unit = counts_in_asymmetric_unit(rotations, 2, symmetry)
    assert int(in_unit.sum()) == len(rotations)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_equivalent_rotations_count_alike(symmetry):
    rotations = matrix_from_euler(torch.tensor([33.0, 140.0]), torch.tensor([41.0, 75.0]), torch.tensor([10.0, 0.0]))
    for operator in operators(symmetry)[-2:]:
        torch.testing.assert_close(view_counts(rotations @ operator, 2, symmetry), view_counts(rotations, 2, symmetry))
        torch.testing.assert_close(
            counts_in_asymmetric_unit(rotations @ operator, 2, symmetry)[1],
            counts_in_asymmetric_unit(rotations, 2, symmetry)[1],
        )


@pytest.mark.parametrize("symmetry", ["C1", "D2", "O"])
def test_even_views_cover_the_transform_evenly(symmetry):
    grid = OrientationGrid(4)
    rotations = grid.rotations(grid.direction_numbers(symmetry) * grid.n_angles)
    coverage = transform_coverage(rotations, symmetry)
    assert float(coverage.mean()) == pytest.approx(1.0, abs=0.02)
    # a band of 1/16 of the sphere holds about 190 of the 3072 views, so that pixels at its edges matter by a tenth
    assert 0.75 < float(coverage.min()) <= float(coverage.max()) < 1.25


def test_views_along_z_see_the_equator_alone_and_a_ring_of_views_sees_everything():
    turns = torch.arange(0, 360, 2.0)
    along_z = matrix_from_euler(0.0, 0.0, turns)
    height = OrientationGrid(3).directions()[:, 2].abs()
    coverage = transform_coverage(along_z, "C1")
    assert float(coverage[height > 0.15].max()) == 0
    assert float(coverage[height < 0.05].min()) > 1
    ring = matrix_from_euler(turns, 90.0, 0.0)
    # a ring sees its own plane 2 / π times as often as even views would; its views fall into pixels of 2.8°
    assert float(transform_coverage(ring, "C1").min()) > 0.3
