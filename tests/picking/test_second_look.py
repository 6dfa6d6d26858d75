import numpy as np
import torch

from halfmap.picking.agreement import agreement
from halfmap.picking.log import pick
from halfmap.picking.masks import Reason
from halfmap.picking.params import LogPickParams
from halfmap.picking.second_look import without_crowds, without_singles
from support.blob_micrographs import PIXEL_SIZE, density, noise, spread_positions

SIDE = 26.0
PARAMS = LogPickParams(min_diameter_angstrom=120, max_diameter_angstrom=140)


def test_a_crowd_that_was_left_out_is_given_back_and_carbon_is_not():
    shape = (300, 600)  # pixels of 10 Å
    positions = spread_positions((300, 280), 200, 15.0)
    values = torch.from_numpy((noise(shape) + 1.5 * density(shape, positions, 13.0)).astype(np.float32))
    reason = torch.zeros(shape, dtype=torch.uint8)
    reason[:, :280] = int(Reason.TEXTURE)
    reason[:, 330:] = int(Reason.THICKNESS)
    found = without_crowds(values, reason, pixel_size_angstrom=10.0, params=PARAMS)
    assert bool((found[:, :280] == int(Reason.USABLE)).all())
    assert bool((found[:, 330:] == int(Reason.THICKNESS)).all())


def test_particles_in_a_part_of_the_micrograph_are_picked_whatever_their_contrast():
    shape = (700, 760)
    positions = spread_positions((380, 400), 120, 1.1 * SIDE)
    for contrast in (1.0, 2.0, 4.0):
        image = noise(shape) - contrast * density(shape, positions, SIDE)
        found = pick(image.astype(np.float32), pixel_size_angstrom=PIXEL_SIZE, params=PARAMS)
        assert agreement(found.position_pixel, positions, distance=SIDE / 4).recall > 0.8


def test_spots_that_outnumber_the_picks_are_the_particles():
    reason = torch.zeros(100, 100, dtype=torch.uint8)
    for corner in (10, 40, 70):
        reason[corner : corner + 12, 20:32] = int(Reason.THICKNESS)
    assert bool((without_singles(reason, n_pixels=133, n_picks=2) == 0).all())
    assert without_singles(reason, n_pixels=133, n_picks=3) is reason


def test_a_large_area_is_no_single_particle():
    reason = torch.zeros(100, 100, dtype=torch.uint8)
    reason[:40, :40] = int(Reason.THICKNESS)
    assert without_singles(reason, n_pixels=133, n_picks=0) is reason
