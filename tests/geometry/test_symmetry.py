import re

import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry import symmetry, symmetry_names
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    matrix_from_euler,
    random_rotations,
    viewing_direction,
)
from support.shared_data import shared_data

NAMES = ["C1", "C4", "C7", "D1", "D2", "D7", "T", "O", "I1", "I2", "I3", "I4"]


def is_among(matrices: torch.Tensor, group: torch.Tensor, atol: float) -> bool:
    nearest = (matrices[:, None] - group[None]).abs().amax((-2, -1)).amin(1)
    return bool((nearest < atol).all())


@pytest.mark.parametrize("name", NAMES)
def test_operators_form_a_group_of_proper_rotations(name):
    group = symmetry.operators(name)
    assert len(group) == symmetry_names.order(name)
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64), atol=0, rtol=0)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(len(group), dtype=torch.float64))
    assert is_among((group[:, None] @ group[None]).reshape(-1, 3, 3), group, 1e-12)
    assert is_among(group.mT, group, 1e-12)
    if len(group) > 1:
        between = angular_distance_degrees(group[:, None], group[None])
        assert (between + 360 * torch.eye(len(group))).min() > 5


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["C1", "C4", "D2", "D7", "T", "O", "I1", "I2", "I3", "I4"])
def test_operators_are_relions_as_a_set(name):
    text = shared_data(f"oracles/relion5_symmetry/{name}.txt").read_text()
    rows = [
        list(map(float, line.split())) for line in text.splitlines() if re.fullmatch(r"(\s+-?[\d.e-]+){3}\s*", line)
    ]
    theirs = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3, 3)
    ours = symmetry.operators(name)
    assert len(theirs) == len(ours)
    # They are printed with five digits.
    assert is_among(ours, theirs, 2e-5)
    assert is_among(theirs, ours, 2e-5)


def test_plain_i_is_the_setting_i2_and_case_does_not_matter():
    torch.testing.assert_close(symmetry.operators("i"), symmetry.operators("I2"))


@pytest.mark.parametrize(
    ("relaxed", "name", "n"),
    [("C1", "C1", 1), ("D2", "C1", 4), ("D2", "C2", 2), ("T", "C3", 4), ("O", "D2", 6), ("C2", "D2", 1)],
)
def test_mates_with_a_group_make_all_that_both_make(relaxed, name, n):
    mates = symmetry.mates(relaxed, name)
    assert len(mates) == n
    torch.testing.assert_close(mates[0], torch.eye(3, dtype=torch.float64))
    every = (mates[:, None] @ symmetry.operators(name)).flatten(0, 1)
    # each view once, and none of the larger group is left out
    between = angular_distance_degrees(every[:, None], every[None]) + 360 * torch.eye(len(every))
    assert between.min() > 5
    assert is_among(symmetry.operators(relaxed), every, 1e-9)


@pytest.mark.parametrize("name", ["", "C0", "X3", "I5", "D", "C1000", "Ci"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="symmetry must be one of"):
        symmetry.operators(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("oct", "O"),
        ("O1", "O"),
        ("tet", "T"),
        ("C 4", "C4"),
        ("D-7", "D7"),
        ("none", "C1"),
        ("icos", "I1, I2, I3 or I4"),
    ],
)
def test_names_of_other_programs_are_refused_with_the_one_that_is_meant(name, meant):
    with pytest.raises(InputError, match=f"; give {meant}"):
        symmetry.operators(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_orbit_of_directions_has_one_member_in_the_asymmetric_unit(name):
    directions = viewing_direction(random_rotations(5, "directions", range(500)))
    images = (symmetry.operators(name)[None] @ directions[:, None, :, None])[..., 0]
    assert (symmetry.in_asymmetric_unit(images, name).sum(1) == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_reduced_rotations_are_equivalent_and_lie_in_the_unit(name):
    rotations = random_rotations(6, "poses", range(200))
    reduced = symmetry.reduce(rotations, name)
    assert symmetry.in_asymmetric_unit(viewing_direction(reduced), name).all()
    assert symmetry.distance_degrees(rotations, reduced, name).max() < 2e-6
    equivalent = rotations @ symmetry.operators(name)[-1]
    torch.testing.assert_close(symmetry.reduce(equivalent, name), reduced, atol=1e-12, rtol=0)


def test_distance_of_a_quarter_turn_is_zero_under_fourfold_symmetry():
    turned = matrix_from_euler(90.0 + 3.0, 0.0, 0.0)
    start = matrix_from_euler(0.0, 0.0, 0.0)
    assert symmetry.distance_degrees(start, turned, "C4").item() == pytest.approx(3.0, abs=1e-6)
    assert symmetry.distance_degrees(start, turned, "C3").item() == pytest.approx(27.0, abs=1e-6)


@pytest.mark.parametrize("name", ["D2", "O", "I1"])
def test_symmetry_acts_on_the_side_of_the_reference(name):
    group = symmetry.operators(name)
    pose = matrix_from_euler(20.0, 50.0, 70.0)
    assert symmetry.distance_degrees(pose, pose @ group[1], name).item() < 1e-6
    assert symmetry.distance_degrees(pose, group[1] @ pose, name).item() > 1.0
