import pytest

from halfmap.errors import InputError
from halfmap.picking.params import LogPickParams


def test_diameters_in_the_wrong_order_are_refused():
    with pytest.raises(InputError, match=r"--min-diameter must not exceed --max-diameter; got 140 and 120 Å"):
        LogPickParams(min_diameter_angstrom=140, max_diameter_angstrom=120)


def test_particles_smaller_than_the_resolution_shows_are_refused():
    with pytest.raises(InputError, match="lower --max-resolution"):
        LogPickParams(min_diameter_angstrom=25, max_diameter_angstrom=30)


def test_distances_follow_the_diameters_unless_given():
    params = LogPickParams(min_diameter_angstrom=100, max_diameter_angstrom=140)
    assert params.pick_distance_angstrom == pytest.approx(84)
    assert params.margin_angstrom == 50
    given = LogPickParams(
        min_diameter_angstrom=100, max_diameter_angstrom=140, min_distance_angstrom=30, edge_distance_angstrom=0
    )
    assert (given.pick_distance_angstrom, given.margin_angstrom) == (30, 0)
