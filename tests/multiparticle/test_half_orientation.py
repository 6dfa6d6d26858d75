"""Half-maps of one particle that lie otherwise, or are of another hand, are told from those that belong together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.multiparticle.half_orientation import check_orientation, half_orientation
from support.warp_projects import DIAMETER, half_maps


def turned(volume: Volume, rot: float, tilt: float, psi: float) -> Volume:
    return replace(volume, values=rotate_volume(volume.values, volume.grid, matrix_from_euler(rot, tilt, psi)))


def mirrored(volume: Volume) -> Volume:
    return replace(volume, values=volume.values.flip(0).roll(1, 0))


@pytest.fixture(scope="module")
def halves():
    return half_maps()


def test_half_maps_that_belong_together_agree_best_as_they_are(halves):
    found = check_orientation(*halves, diameter_angstrom=DIAMETER)
    assert found.best == found.direct > 0.8
    assert found.turn_degrees == 0
    assert not found.is_mirrored


@pytest.mark.parametrize("angles", [(20.0, 50.0, -70.0), (0.0, 35.0, 0.0)])
def test_a_half_map_that_lies_otherwise_is_refused_and_the_turn_told(halves, angles):
    first, second = halves
    other = turned(second, *angles)
    degrees = half_orientation(first, other, diameter_angstrom=DIAMETER).turn_degrees
    cosine = (float(matrix_from_euler(*angles).trace()) - 1) / 2
    # the finest turns are 4 degrees apart
    assert degrees == pytest.approx(float(torch.rad2deg(torch.arccos(torch.tensor(cosine)))), abs=4)
    with pytest.raises(InconsistentDataError, match=f"turned by {degrees:.0f}°;"):
        check_orientation(first, other, diameter_angstrom=DIAMETER)


def test_a_half_map_of_the_other_hand_is_refused(halves):
    first, second = halves
    with pytest.raises(InconsistentDataError, match="and mirrored"):
        check_orientation(first, mirrored(second), diameter_angstrom=DIAMETER)


def test_half_maps_that_agree_in_their_outline_alone_are_not_taken_for_turned_ones(halves):
    grid = halves[0].grid
    body = soft_sphere(grid, 24.0, 8.0)
    noise = torch.from_numpy(keyed_random.normal(1, "noise", np.arange(2), size=grid.shape))
    outlines = [Volume(values=body + one.float(), grid=grid) for one in noise]
    found = check_orientation(*outlines, diameter_angstrom=DIAMETER)
    assert found.direct < 0.6
