import numpy as np
import pytest
import torch

from halfmap.classification.closing import last_joined_shell
from halfmap.classification.ranking.features import FEATURES, GROUPS, SIDE, describe
from halfmap.errors import InputError
from support.class_tables import MASK_ANGSTROM, a_table

SEEN = slice(13, None)
"""Features that are measured in the pictures."""


def described(table, diameter=MASK_ANGSTROM):
    return describe(table, mask_diameter_angstrom=diameter)


def column(found, name):
    return found.features[:, FEATURES.index(name)]


def turned(table):
    """Return the table with every picture turned by a quarter about its centre pixel."""
    images = np.roll(np.rot90(table["average"], axes=(1, 2)), 1, axis=1)
    return table.with_columns(average=images)


def test_pictures_have_mean_0_and_deviation_1_inside_the_mask_and_nothing_outside():
    found = described(a_table())
    assert found.images.shape == (6, SIDE, SIDE)
    axis = np.arange(SIDE) - SIDE // 2
    inside = np.hypot(axis[:, None], axis) < SIDE / 2
    np.testing.assert_allclose(found.images[:5, inside].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found.images[:5, inside].std(axis=1), 1, atol=1e-5)
    assert not found.images[:, ~inside].any()


def test_nothing_depends_on_the_grey_scale():
    one, other = described(a_table()), described(a_table(scale=37.0))
    np.testing.assert_allclose(one.images, other.images, atol=1e-4)
    np.testing.assert_allclose(one.features, other.features, atol=1e-3)


@pytest.mark.parametrize("side", [80, 81, 128])
def test_nothing_depends_on_the_pixel_size(side):
    one, other = described(a_table()), described(a_table(side))
    # averages without noise beyond the coarser band: what is left is the interpolation of the mask's edge
    np.testing.assert_allclose(one.images[:4], other.images[:4], atol=0.02)
    np.testing.assert_allclose(one.features[:4, SEEN], other.features[:4, SEEN], atol=0.03)


def test_numbers_do_not_depend_on_the_angle():
    table = a_table()
    np.testing.assert_allclose(described(table).features, described(turned(table)).features, atol=0.02)


def test_lengths_count_in_diameters():
    found = column(described(a_table()), "log (1 + diameter over resolution)")
    np.testing.assert_allclose(found[:2], np.log1p(MASK_ANGSTROM / np.array([9.0, 10.0])), rtol=1e-5)
    assert found[5] == 0  # no resolution at all


@pytest.mark.parametrize(
    ("missing", "group"),
    [
        (("rotation_accuracy_degrees",), "accuracy"),
        (("frc", "frc_resolution_angstrom"), "frc"),
        (("ssnr",), "ssnr"),
        (("ssnr_resolution_angstrom",), "resolution"),
        (("n_particles", "fraction"), "size"),
    ],
)
def test_what_a_run_did_not_leave_is_unknown_and_nothing_else(missing, group):
    whole, part = described(a_table()), described(a_table().without_columns(*missing))
    mine = list(GROUPS[group])
    assert np.isnan(part.features[:5, mine]).all()
    others = np.ones(len(FEATURES), dtype=bool)
    others[mine] = False
    np.testing.assert_array_equal(part.features[:5, others], whole.features[:5, others])


def test_the_frc_counts_where_it_falls_even_if_that_may_be_chance():
    name = "log (1 + diameter over FRC resolution)"
    # 256 Å, joined up to max(30 Å, a fifth of the mask): curves that fall at 24 Å and at the join
    frc = np.full((6, 33), np.nan)
    joined = last_joined_shell(a_table().grid, MASK_ANGSTROM)
    frc[:, : joined + 1], frc[:, joined + 1 :] = 1.0, 0.0
    frc[0, joined + 1] = 0.286
    table = a_table().with_columns(frc=frc, frc_resolution_angstrom=np.full(6, np.nan))
    found = column(described(table), name)
    np.testing.assert_allclose(found[0], np.log1p(MASK_ANGSTROM * (joined + 1.5) / 256), rtol=1e-5)
    assert np.isnan(found[1:]).all()
    # what has no curves, as a table of a selection, has the resolution
    without = a_table().without_columns("frc")
    np.testing.assert_allclose(column(described(without), name)[0], np.log1p(MASK_ANGSTROM / 9.0), rtol=1e-5)


def test_an_accuracy_that_relion_did_not_estimate_is_unknown():
    table = a_table().with_columns(rotation_accuracy_degrees=np.full(6, 999.0))
    assert np.isnan(described(table).features[:, list(GROUPS["accuracy"])]).all()


def test_no_number_is_infinite():
    table = a_table()
    with_nan = table["average"].copy()
    with_nan[0, 3, 3] = np.nan
    for some in (table, table.with_columns(average=with_nan), table.take(np.array([5])), table.take(np.array([4]))):
        assert not np.isinf(described(some).features).any()
        assert np.isfinite(described(some).images).all()


def test_classes_without_particles_or_contrast_are_empty():
    assert described(a_table()).is_empty.tolist() == [False] * 5 + [True]
    blank = a_table().with_columns(n_particles=np.full(6, 9))
    assert described(blank).is_empty.tolist() == [False] * 5 + [True]
    assert described(a_table().with_columns(n_particles=np.zeros(6, dtype=int))).is_empty.all()


def test_edge_and_scattered_signal_tell_what_lies_aside():
    found = described(a_table())
    assert column(found, "edge signal")[2] > 0.03
    assert column(found, "edge signal")[:2].max() < 0.01
    assert column(found, "scattered signal")[3] > 0.2
    assert column(found, "scattered signal")[:2].max() < 0.05
    centre = column(found, "distance of the centre of mass over radius")
    assert centre[2] == pytest.approx(14 * 4.0 / (MASK_ANGSTROM / 2), abs=0.2)
    assert centre[:2].max() < 0.1


def test_a_round_picture_is_its_radial_mean():
    table = a_table().take(np.array([0, 0]))
    axis = torch.arange(64) - 32
    round_one = torch.exp(-(axis[:, None] ** 2 + axis**2) / 200.0).numpy()
    images = np.stack([round_one, table["average"][0]])
    found = column(described(table.with_columns(average=images)), "share of variance in the radial mean")
    assert found[0] > 0.99
    assert found[1] < 0.9


def test_a_mask_wider_than_the_box_is_filled_with_nothing():
    assert np.isfinite(described(a_table(), diameter=400.0).features[:5]).all()


def test_a_diameter_must_be_positive():
    with pytest.raises(InputError, match="must be positive"):
        described(a_table(), diameter=0.0)
