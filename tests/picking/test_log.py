import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.picking.agreement import agreement, matched
from halfmap.picking.log import pick
from halfmap.picking.masks import Reason
from halfmap.picking.params import LogPickParams
from support.blob_micrographs import PIXEL_SIZE, density, micrograph, noise, spread_positions

DIAMETER = 130.0
SIDE = DIAMETER / PIXEL_SIZE


def picks(image, **settings):
    given = {"min_diameter_angstrom": 120, "max_diameter_angstrom": 140} | settings
    return pick(image, pixel_size_angstrom=PIXEL_SIZE, params=LogPickParams(**given))


def a_field(shape=(400, 440), n=60, **options):
    positions = spread_positions(shape, n, 1.1 * SIDE)
    return micrograph(shape, positions, SIDE, **options), positions


@pytest.mark.parametrize("shape", [(400, 440), (401, 333), (257, 511)])
@pytest.mark.parametrize("hollow", [False, True])
def test_balls_and_shells_are_found(shape, hollow):
    image, positions = a_field(shape, hollow=hollow, contrast=1.2)
    found = agreement(picks(image, edge_distance_angstrom=0).position_pixel, positions, distance=SIDE / 4)
    assert found.f1 > 0.95


def test_positions_are_right_to_a_fraction_of_a_pixel():
    image, positions = a_field(contrast=3.0)
    found = picks(image, edge_distance_angstrom=0).position_pixel
    i, j = matched(found, positions, distance=SIDE / 4)
    assert len(j) > 0.95 * len(positions)
    error = found[i] - positions[j]
    assert np.abs(error.mean(axis=0)).max() < 0.1  # px of 5 Å; the scatter below over sqrt(60)
    assert np.sqrt((error**2).mean()) < 0.35  # px: noise and neighbours move a peak of 26 px


def test_picks_move_with_the_content():
    # 8 px are four work pixels, so that only what enters at the edge differs
    image, _ = a_field((440, 440))
    here, there = (picks(part).position_pixel for part in (image[:-8, :-8], image[8:, 8:]))
    both = agreement(there + 8, here, distance=0.5)
    assert both.n_matched > 0.9 * len(here)


@pytest.mark.parametrize(("gain", "offset"), [(1e-3, 0.0), (50.0, -1e4)])
def test_gain_and_offset_change_nothing(gain, offset):
    image, _ = a_field()
    plain, other = picks(image), picks((gain * image.astype(np.float64) + offset).astype(np.float32))
    np.testing.assert_allclose(other.position_pixel, plain.position_pixel, atol=0.05)  # px; float32 of large offsets
    np.testing.assert_allclose(other.figure_of_merit, plain.figure_of_merit, atol=0.02)


def test_inverted_contrast_with_the_flag_changes_nothing():
    image, _ = a_field()
    dark, white = picks(image), picks(-image, white_particles=True)
    np.testing.assert_allclose(white.position_pixel, dark.position_pixel, atol=1e-3)  # px
    assert len(dark) > 40


def test_dark_particles_are_no_white_ones():
    image, positions = a_field()
    found = picks(image, white_particles=True).position_pixel
    assert agreement(found, positions, distance=SIDE / 4).n_matched == 0


@pytest.mark.parametrize("colour", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("diameter", [100.0, 160.0, 290.0])
def test_noise_gives_fewer_than_two_picks(colour, diameter):
    for seed in range(4):
        found = picks(
            noise((360, 420), seed=seed, colour=colour),
            min_diameter_angstrom=0.9 * diameter,
            max_diameter_angstrom=1.1 * diameter,
        )
        assert len(found) < 2


def test_few_strong_particles_among_much_noise_are_found():
    shape = (400, 440)
    positions = spread_positions(shape, 4, 3 * SIDE)
    found = picks(micrograph(shape, positions, SIDE, contrast=2.0)).position_pixel
    assert agreement(found, positions, distance=SIDE / 4) == agreement(positions, positions, distance=1)


def test_crowding_does_not_raise_the_threshold_over_the_particles():
    shape = (400, 440)
    positions = spread_positions(shape, 400, 1.0 * SIDE)
    found = picks(micrograph(shape, positions, SIDE, hollow=True), edge_distance_angstrom=0).position_pixel
    assert agreement(found, positions, distance=SIDE / 4).recall > 0.9


def test_a_higher_threshold_leaves_fewer_picks():
    image, _ = a_field(contrast=0.7)
    counts = [len(picks(image, threshold=t)) for t in (-1.0, 0.0, 1.0, 50.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_picks_keep_their_distance_and_the_edge():
    image, _ = a_field()
    found = picks(image, min_distance_angstrom=200, edge_distance_angstrom=80).position_pixel
    apart = np.hypot(*(found[:, None] - found).transpose(2, 0, 1)) + 1e9 * np.eye(len(found))
    assert apart.min() > 200 / PIXEL_SIZE
    assert found.min() > 80 / PIXEL_SIZE - 1  # the peak's pixel keeps the distance, its sub-pixel part need not
    assert (found < np.array([440, 400]) - 80 / PIXEL_SIZE).all()


def test_something_far_too_strong_is_dropped_and_masked():
    image, positions = a_field()
    speck = np.array([[220.0, 200.0]])
    away = np.hypot(*(positions - speck[0]).T) > 2 * SIDE
    image = micrograph((400, 440), positions[away], SIDE) - 6 * density((400, 440), speck, SIDE).astype(np.float32)
    found = picks(image)
    assert agreement(found.position_pixel, speck, distance=SIDE / 2).n_matched == 0
    assert found.reason[100, 110] != Reason.USABLE
    assert agreement(found.position_pixel, positions[away], distance=SIDE / 4).recall > 0.7


def test_the_same_input_gives_the_same_picks():
    image, _ = a_field()
    one, two = picks(image), picks(image)
    np.testing.assert_array_equal(one.position_pixel, two.position_pixel)
    np.testing.assert_array_equal(one.figure_of_merit, two.figure_of_merit)


def test_particles_of_a_few_pixels_are_refused():
    with pytest.raises(InputError, match="at least 3 pixels of the micrograph"):
        pick(
            noise((100, 100)),
            pixel_size_angstrom=50.0,
            params=LogPickParams(min_diameter_angstrom=120, max_diameter_angstrom=140),
        )


def test_particles_larger_than_the_micrograph_are_refused():
    with pytest.raises(InputError, match="two thirds of the micrograph's shorter side"):
        picks(noise((100, 30)))


def test_without_particles_there_are_shapes_all_the_same():
    found = picks(noise((200, 200)))
    assert found.position_pixel.shape == (len(found), 2)
    assert found.diameter_angstrom.shape == (len(found),)
    assert found.mask_pixel_size_angstrom == 10
