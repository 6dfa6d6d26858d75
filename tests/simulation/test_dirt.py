import numpy as np
import pytest

from halfmap.grid import ImageGrid
from halfmap.simulation import dirt

FIELD = (2000.0, 1800.0)
GRID = ImageGrid(shape=(600, 667), pixel_size_angstrom=3.0)


def test_the_number_of_ice_crystals_follows_their_density():
    counts = [
        len(dirt.ice_crystals(1, uid, field_angstrom=FIELD, per_micrometre2=60.0).diameters_angstrom)
        for uid in range(400)
    ]
    # mean 2.16, standard error 0.07
    assert np.mean(counts) == pytest.approx(60 * FIELD[0] * FIELD[1] / 1e8, abs=0.25)
    assert np.var(counts) == pytest.approx(np.mean(counts), rel=0.3)


@pytest.mark.parametrize("origin", [0, 40])
def test_a_crystal_lies_where_the_truth_says(origin):
    crystals = dirt.IceCrystals(positions_angstrom=np.array([[900.0, 400.0]]), diameters_angstrom=np.array([300.0]))
    thickness = dirt.crystal_thickness(GRID, crystals, seed=1, uid=0, origin_pixel=origin).double()
    positions = GRID.positions()
    first = positions[0, 0]
    places = positions - first
    found = (thickness[..., None] * places).sum((0, 1)) / thickness.sum()
    np.testing.assert_allclose(found - origin * 3.0, [900.0, 400.0], atol=25)
    assert 100 < thickness.max() < 200
    wide = (thickness > 0).double().sum() * 9
    assert float(wide) == pytest.approx(np.pi / 4 * 300**2, rel=0.2)


def test_carbon_covers_one_side_and_its_mask_agrees():
    edge = dirt.carbon_edge(3, 1, field_angstrom=FIELD, share=1.0)
    thickness = dirt.carbon_thickness(GRID, edge, origin_pixel=0)
    covered = thickness > 0.99 * edge.thickness_angstrom
    assert 0.005 < covered.double().mean() < 0.5
    places = GRID.positions() - GRID.positions()[0, 0]
    inside = edge.distance_angstrom(places[..., 0], places[..., 1])
    assert (inside[covered] > 100).all()
    assert (thickness[inside < -1] == 0).all()


def test_carbon_shows_in_the_share_asked_for():
    shown = [dirt.carbon_edge(1, uid, field_angstrom=FIELD, share=0.3) is not None for uid in range(500)]
    assert np.mean(shown) == pytest.approx(0.3, abs=0.06)


def test_bad_pixels_are_few_and_far_from_the_rest():
    counts = np.full((1000, 1000), 90.0, dtype=np.float32)
    n = dirt.spoil_pixels(counts, seed=1, uid=0)
    changed = counts != 90.0
    assert 0 < changed.sum() <= n < 25
    assert ((counts[changed] == 0) | (counts[changed] > 130)).all()


def test_borders_repeat_their_neighbour():
    rng = np.random.default_rng(1)
    for uid in range(6):
        counts = rng.normal(size=(80, 90)).astype(np.float32)
        kept = counts.copy()
        left, right, top, bottom = dirt.replicate_border(counts, seed=1, uid=uid)
        inner = (slice(top, 80 - bottom), slice(left, 90 - right))
        np.testing.assert_array_equal(counts[inner], kept[inner])
        assert (counts[:, : left + 1] == counts[:, left : left + 1]).all()
        assert (counts[:, 90 - right - 1 :] == counts[:, 90 - right - 1 : 90 - right]).all()
        assert (counts[: top + 1, inner[1]] == counts[top, inner[1]]).all()
        assert (counts[80 - bottom - 1 :, inner[1]] == counts[80 - bottom - 1, inner[1]]).all()


def test_illumination_is_uneven_but_not_much():
    light = dirt.relative_illumination(1, 3, (300, 400))
    assert float(light.mean()) == pytest.approx(1.0, abs=0.03)
    assert 0.01 < float(light.max() - light.min()) < 0.25


def test_quantiles_give_poisson_numbers():
    quantiles = (np.arange(4000) + 0.5) / 4000
    drawn = [dirt.poisson_number(7.3, q) for q in quantiles]
    assert np.mean(drawn) == pytest.approx(7.3, abs=0.05)
    assert np.var(drawn) == pytest.approx(7.3, rel=0.02)
    assert dirt.poisson_number(0.0, 0.9) == 0
