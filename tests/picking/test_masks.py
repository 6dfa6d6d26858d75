import numpy as np
import pytest
import torch

from halfmap.picking.masks import Reason, excluded_areas
from halfmap.picking.work_image import reduce
from support.blob_micrographs import PIXEL_SIZE, micrograph, noise, spread_positions

SHAPE = (360, 400)


def reasons(image, shortest=120.0, longest=140.0):
    work = reduce(image.astype(np.float32), pixel_size_angstrom=PIXEL_SIZE, work_pixel_angstrom=10)
    found = excluded_areas(work, shortest_angstrom=shortest, longest_angstrom=longest).numpy()
    return np.kron(found, np.ones((2, 2), dtype=np.uint8))  # two micrograph pixels a work pixel


@pytest.mark.parametrize("colour", [0.0, 5.0])
def test_noise_is_usable(colour):
    assert (reasons(noise(SHAPE, colour=colour)) == Reason.USABLE).mean() > 0.99


def test_crowded_particles_are_usable():
    positions = spread_positions(SHAPE, 60, 27.0)
    found = reasons(micrograph(SHAPE, positions, 26.0))
    x, y = np.rint(positions).astype(int).T
    inside = (x < found.shape[1]) & (y < found.shape[0])
    assert (found[y[inside], x[inside]] == Reason.USABLE).mean() > 0.95


@pytest.mark.parametrize("darker", [1.0, -1.0])
def test_carbon_along_a_side_is_left_out_and_a_slope_is_not(darker):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    carbon = x + 0.3 * y > 390
    slope = 0.5 * x / SHAPE[1] + 0.5 * (y / SHAPE[0]) ** 2
    found = reasons(noise(SHAPE) + slope - darker * 1.0 * carbon)
    assert (found[carbon[: found.shape[0], : found.shape[1]]] != Reason.USABLE).mean() > 0.9
    assert (found[x[: found.shape[0], : found.shape[1]] < 200] == Reason.USABLE).mean() > 0.98


def test_grainy_carbon_of_the_same_mean_is_left_out():
    carbon = np.mgrid[: SHAPE[0], : SHAPE[1]][0] > 240
    found = reasons(noise(SHAPE) * np.where(carbon, 1.8, 1.0))
    carbon = carbon[: found.shape[0], : found.shape[1]]
    assert (found[carbon] == Reason.TEXTURE).mean() > 0.9
    assert (found[~carbon] == Reason.USABLE).mean() > 0.85  # a strip beside the edge goes with it


def test_ice_is_left_out_with_its_edge():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ice = np.hypot(x - 130, y - 200) < 40
    found = reasons(noise(SHAPE) - 4.0 * ice)
    assert (found[ice[: found.shape[0], : found.shape[1]]] == Reason.THICKNESS).mean() > 0.98
    assert (found != Reason.USABLE).mean() < 3 * ice.mean()


def test_blanked_and_replicated_parts_are_left_out():
    image = noise(SHAPE)
    image[:30] = image[30]
    image[200:300, 250:350] = 0.0
    found = reasons(image)
    assert (found[:28] == Reason.FRAME).all()
    assert (found[212:288, 262:338] == Reason.EMPTY).all()
    assert (found[60:180, 10:390] == Reason.USABLE).mean() > 0.98


def test_small_islands_of_usable_ground_are_left_out():
    image = noise(SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ring = np.abs(np.hypot(x - 200, y - 180) - 50) < 22
    found = reasons(image - 5.0 * ring)
    assert (found[170:190, 190:210] != Reason.USABLE).all()


def test_a_micrograph_that_is_all_frame_is_left_out_whole():
    work = reduce(noise(SHAPE).astype(np.float32), pixel_size_angstrom=PIXEL_SIZE, work_pixel_angstrom=10)
    object.__setattr__(work, "border_pixel", (200, 200, 0, 0))
    found = excluded_areas(work, shortest_angstrom=120, longest_angstrom=140)
    assert torch.equal(found, torch.full_like(found, int(Reason.FRAME)))
