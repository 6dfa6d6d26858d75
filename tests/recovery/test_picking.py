"""What blob picking finds at its default settings, on real micrographs and on simulated ones."""

import functools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from halfmap.io.images import read_micrograph
from halfmap.io.relion_picks import read_coordinates
from halfmap.picking.agreement import Agreement, agreement
from halfmap.picking.log import pick
from halfmap.picking.params import LogPickParams
from support.shared_data import shared_data

APOFERRITIN_PIXEL_SIZE = 1.5
MATCHING_DISTANCE_PIXEL = 130 / 4 / APOFERRITIN_PIXEL_SIZE
"""A quarter of the true diameter, 130 Å, whatever diameters are asked for."""

EDGE_PIXEL = 50

ICE = ((548, 0), (520, 70), (515, 140), (535, 215), (580, 280), (640, 325), (735, 348), (820, 330), (900, 275),
       (940, 200), (950, 120), (935, 50), (910, 0))  # fmt: skip
"""Outline of the ice in ``difficult/ice_contaminated.mrc``, (x, y), drawn by eye on the picture."""


def away_from_the_edge(positions, shape):
    limit = np.array(shape[::-1]) - 1 - EDGE_PIXEL
    return positions[((positions >= EDGE_PIXEL) & (positions <= limit)).all(axis=1)]


@functools.cache
def on_apoferritin(name: str, shortest: float, longest: float) -> Agreement:
    folder = shared_data("apoferritin")
    image = read_micrograph(folder / f"micrographs/{name}.mrc")
    true = read_coordinates(folder / f"coords/{name}.star", name).position_pixel
    params = LogPickParams(min_diameter_angstrom=shortest, max_diameter_angstrom=longest)
    found = pick(image, pixel_size_angstrom=APOFERRITIN_PIXEL_SIZE, params=params).position_pixel
    return agreement(
        away_from_the_edge(found, image.shape),
        away_from_the_edge(true, image.shape),
        distance=MATCHING_DISTANCE_PIXEL,
    )


@pytest.mark.parametrize(
    ("factor", "least"),
    [(1.0, 0.90), (0.85, 0.85), (1.15, 0.75)],
    ids=["right diameters", "15 % too small", "15 % too large"],
)
def test_curated_particles_of_apoferritin_are_found(factor, least):
    names = sorted(path.stem for path in shared_data("apoferritin/coords").glob("*.star"))
    assert len(names) == 13
    each = [on_apoferritin(name, 120 * factor, 140 * factor) for name in names]
    assert sum(each[1:], each[0]).f1 >= least
    assert min(one.f1 for one in each) >= least - 0.15


def picks_on(path: Path, pixel_size: float, shortest: float, longest: float):
    params = LogPickParams(min_diameter_angstrom=shortest, max_diameter_angstrom=longest)
    return pick(read_micrograph(path), pixel_size_angstrom=pixel_size, params=params).position_pixel


def test_carbon_replicated_border_and_specks_of_betagalactosidase_are_avoided():
    path = shared_data("betagal_lowpassed/Falcon_2012_06_12-14_33_35_0.jpg")
    found = picks_on(path, 1.77, 150, 180)
    assert len(found) > 300
    (x1, y1), (x2, y2) = (3280, 4000), (3970, 2816)
    right_of_the_line = (x2 - x1) * (found[:, 1] - y1) - (y2 - y1) * (found[:, 0] - x1) > 0
    assert not right_of_the_line.any()
    assert found.min() > 110
    assert found.max() < 4095 - 110
    assert np.hypot(*(found - [110, 3115]).T).min() > 60  # px; the dark speck at the left


def test_the_dark_speck_of_another_betagalactosidase_micrograph_is_avoided():
    found = picks_on(shared_data("betagal_lowpassed/Falcon_2012_06_12-15_14_01_0.jpg"), 1.77, 150, 180)
    assert len(found) > 300
    assert np.hypot(*(found - [3145, 1335]).T).min() > 75  # px; it is 130 wide


@pytest.mark.parametrize("share_of_width", [0.08, 0.12])
def test_at_most_five_percent_of_the_picks_lie_in_ice(share_of_width):
    path = shared_data("difficult/ice_contaminated.mrc")
    diameter = share_of_width * 959  # at 1 Å per pixel; its true pixel size is not known
    for shortest, longest in ((diameter, diameter), (0.9 * diameter, 1.1 * diameter), (0.08 * 959, 0.12 * 959)):
        found = picks_on(path, 1.0, shortest, longest)
        inside = Polygon(ICE).contains_points(found)
        assert inside.sum() <= 0.05 * len(found)


def test_klh_is_survived():
    found = picks_on(shared_data("difficult/klh.png"), 2.2, 250, 350)
    assert 10 < len(found) < 80
