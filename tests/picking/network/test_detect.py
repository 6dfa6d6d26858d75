import numpy as np
import pytest

from halfmap.picking.agreement import agreement
from halfmap.picking.masks import Reason
from halfmap.picking.network.detect import pick
from halfmap.picking.network.params import NetworkPickParams
from support.blob_micrographs import PIXEL_SIZE, micrograph, noise, spread_positions
from support.detectors import DIAMETER_ANGSTROM, SHAPE, probe, taught


def picked(image, **changes):
    params = NetworkPickParams(**{"diameter_angstrom": DIAMETER_ANGSTROM, "threshold": 0.0, **changes})
    return pick(image, pixel_size_angstrom=PIXEL_SIZE, network=taught().network, params=params)


def test_particles_are_found_where_they_lie():
    true = spread_positions(SHAPE, 35, 28.0, seed=60)
    found = picked(probe())
    assert agreement(found.position_pixel, true, distance=DIAMETER_ANGSTROM / 4 / PIXEL_SIZE).f1 > 0.95
    distance = np.linalg.norm(found.position_pixel[:, None] - true, axis=2).min(axis=1)
    # a tenth of the diameter: this detector has learned for seconds, from discs of an eighth
    assert np.median(distance) < 2.6


@pytest.mark.parametrize("seed", [9, 10, 11])
def test_noise_alone_has_no_pick_above_even_odds(seed):
    assert len(picked(noise(SHAPE, seed=seed) + 100)) == 0


def test_picks_fall_and_keep_their_distance():
    found = picked(probe(), threshold=-3.0)
    assert (np.diff(found.figure_of_merit) <= 0).all()
    apart = np.linalg.norm(found.position_pixel[:, None] - found.position_pixel, axis=2)
    apart[np.diag_indices(len(found))] = np.inf
    assert apart.min() >= 0.5 * DIAMETER_ANGSTROM / PIXEL_SIZE - 1e-6


def test_a_lower_threshold_only_adds_picks():
    high, low = picked(probe(), threshold=0.0), picked(probe(), threshold=-4.0)
    # the threshold is taken off the score in float32
    np.testing.assert_allclose(low.position_pixel[: len(high)], high.position_pixel, atol=1e-4)


def test_gain_and_offset_do_not_matter():
    first, second = picked(probe()), picked(37.0 * probe() - 1000.0)
    np.testing.assert_allclose(first.position_pixel, second.position_pixel, atol=0.05)


def test_picks_keep_away_from_the_edge_and_from_what_is_left_out():
    image = probe()
    image[:, 250:] = 100 + 0.01 * noise(SHAPE)[:, 250:]
    found = picked(image, threshold=-6.0)
    margin = DIAMETER_ANGSTROM / 2 / PIXEL_SIZE - 1
    assert found.position_pixel.min() >= margin
    assert (found.position_pixel[:, 1] <= SHAPE[0] - 1 - margin).all()
    assert (found.position_pixel[:, 0] < 252).all()
    assert (found.reason == Reason.EMPTY).any()


@pytest.mark.parametrize("pixel_size", [2.5, 8.0])
def test_one_detector_serves_particles_of_other_sizes(pixel_size):
    true = spread_positions(SHAPE, 35, 28.0, seed=61)
    image = micrograph(SHAPE, true, 26.0, contrast=1.5, seed=61)
    params = NetworkPickParams(diameter_angstrom=26 * pixel_size, threshold=0.0)
    found = pick(image, pixel_size_angstrom=pixel_size, network=taught().network, params=params)
    assert agreement(found.position_pixel, true, distance=6.5).f1 > 0.95
