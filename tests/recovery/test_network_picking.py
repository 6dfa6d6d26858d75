"""What the detector that ships with the package finds on real micrographs that it has not learned from."""

import functools

import numpy as np

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
