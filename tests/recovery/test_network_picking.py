"""What the detector that ships with the package finds on real micrographs that it has not learned from."""

import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from halfmap import keyed_random
from halfmap.io.images import read_micrograph
from halfmap.io.relion_picks import read_coordinates
from halfmap.picking.agreement import Agreement, agreement
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network.card import general
from halfmap.picking.network.detect import pick
from halfmap.picking.network.params import NetworkPickParams
from support.shared_data import shared_data

PIXEL_SIZE, DIAMETER = 1.5, 130.0
EDGE_PIXEL = 50


@functools.cache
def on_apoferritin() -> list[tuple[MicrographPicks, np.ndarray, tuple[int, ...]]]:
    """Return picks, known positions and shape of each curated micrograph."""
    folder = shared_data("apoferritin")
    params = NetworkPickParams(diameter_angstrom=DIAMETER)
    found = []
    for path in sorted((folder / "coords").glob("*.star")):
        image = read_micrograph(folder / f"micrographs/{path.stem}.mrc")
        true = read_coordinates(path, path.stem).position_pixel
        picks = pick(image, pixel_size_angstrom=PIXEL_SIZE, network=general().network, params=params)
        found.append((picks, true, image.shape))
    return found


def counted(least: float) -> Agreement:
    total = Agreement(n_picked=0, n_true=0, n_matched=0)
    for picks, true, shape in on_apoferritin():
        limit = np.array(shape[::-1]) - 1 - EDGE_PIXEL
        mine, known = (
            one[((one >= EDGE_PIXEL) & (one <= limit)).all(axis=1)]
            for one in (picks.position_pixel[picks.figure_of_merit >= least], true)
        )
        total = total + agreement(mine, known, distance=DIAMETER / 4 / PIXEL_SIZE)
    return total


def test_curated_particles_of_apoferritin_are_found_at_even_odds():
    assert counted(0.0).f1 >= 0.90


def test_a_figure_of_merit_above_minus_three_finds_nearly_all():
    assert counted(-3.0).recall >= 0.95


@pytest.mark.parametrize(("side", "low_pass_pixel"), [(4096, 0.0), (2048, 4.0)])
def test_noise_alone_yields_hardly_a_pick_of_even_odds(side, low_pass_pixel):
    image = gaussian_filter(keyed_random.normal(3, "noise for a picker", 0, size=(side, side)), low_pass_pixel)
    params = NetworkPickParams(diameter_angstrom=200.0)
    found = pick(image, pixel_size_angstrom=PIXEL_SIZE, network=general().network, params=params)
    assert (found.figure_of_merit >= 0).sum() <= 1


def test_carbon_beside_betagalactosidase_is_avoided():
    image = read_micrograph(shared_data("betagal_lowpassed/Falcon_2012_06_12-14_33_35_0.jpg"))
    params = NetworkPickParams(diameter_angstrom=180.0, threshold=0.0)
    found = pick(image, pixel_size_angstrom=1.77, network=general().network, params=params).position_pixel
    assert len(found) > 300
    (x1, y1), (x2, y2) = (3280, 4000), (3970, 2816)
    right_of_the_line = (x2 - x1) * (found[:, 1] - y1) - (y2 - y1) * (found[:, 0] - x1) > 0
    assert not right_of_the_line.any()
