import math

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.classification import agreement
from halfmap.classification.agreement import JUNK, Truth
from halfmap.errors import InputError, ShapeError
from halfmap.geometry.rotations import (
    matrix_from_euler,
    matrix_from_rotation_vector,
    random_rotations,
    viewing_direction,
)
from halfmap.geometry.symmetry import operators

N = 400


def in_plane(degrees: np.ndarray) -> np.ndarray:
    return matrix_from_euler(0.0, 0.0, degrees).numpy()


def of_one_structure(rotation: np.ndarray, *, origin: np.ndarray | None = None, symmetry: str = "C1") -> Truth:
    n = len(rotation)
    return Truth(
        structure=np.ones(n, dtype=np.int64),
        rotation=rotation,
        origin_angstrom=np.zeros((n, 2)) if origin is None else origin,
        symmetries=(symmetry,),
    )


def normal(purpose: str, *, size: int, n: int = N) -> np.ndarray:
    return keyed_random.normal(7, purpose, np.arange(n), size=size)


def about(centre: np.ndarray, tilt_degrees: float) -> np.ndarray:
    """Orientations whose views lie on a cone about that of the centre, without a turn in the plane."""
    towards = 2 * np.pi * (np.arange(N) + 0.5) / N
    axis = np.stack([np.cos(towards), np.sin(towards), np.zeros(N)], axis=1)
    tilt = matrix_from_rotation_vector(torch.from_numpy(math.radians(tilt_degrees) * axis)).numpy()
    return np.asarray(tilt @ centre)


def equivalents(rotation: np.ndarray, symmetry: str) -> np.ndarray:
    """Replace each orientation by an equivalent one, drawn at random."""
    group = operators(symmetry).numpy()
    chosen = keyed_random.integers(0, len(group), 3, "equivalent", np.arange(len(rotation)))
    return np.asarray(rotation @ group[chosen])


@pytest.mark.parametrize("symmetry", ["C1", "D2", "D7", "O"])
def test_views_on_a_cone_spread_by_its_opening_whatever_equivalents_describe_them(symmetry):
    rotation = equivalents(about(random_rotations(1, "centre", np.arange(1)).numpy()[0], 6.0), symmetry)
    turned = in_plane(360 * keyed_random.uniform(2, "psi", np.arange(N))) @ rotation
    spread = agreement.view_spread_degrees(of_one_structure(turned, symmetry=symmetry), np.ones(N))
    np.testing.assert_allclose(spread, 6.0, atol=0.05)  # degrees; the mean of 400 directions is this near the axis


def test_class_numbers_may_be_permuted_without_any_figure_changing():
    truth = of_one_structure(random_rotations(1, "views", np.arange(N)).numpy(), symmetry="D2")
    numbers = agreement.partition_of_views(truth, 8)
    other = (1 + keyed_random.permutation(1, "names", 8))[numbers - 1]
    for figure in (agreement.view_spread_degrees, agreement.purity):
        np.testing.assert_array_equal(figure(truth, numbers), figure(truth, other))


def test_mirrored_views_are_different_views_unless_the_symmetry_relates_them():
    along_z, from_behind = np.eye(3), np.diag([1.0, -1.0, -1.0])
    rotation = np.stack([along_z] * 30 + [from_behind] * 10)
    alone = agreement.view_spread_degrees(of_one_structure(rotation), np.ones(40))
    np.testing.assert_allclose(alone[:30], 0.0, atol=1e-6)
    np.testing.assert_allclose(alone[30:], 180.0, atol=1e-6)
    related = agreement.view_spread_degrees(of_one_structure(rotation, symmetry="D2"), np.ones(40))
    np.testing.assert_allclose(related, 0.0, atol=1e-6)


@pytest.mark.parametrize("symmetry", ["C1", "D2", "O"])
def test_known_turns_and_shifts_come_back_whatever_frame_each_class_average_has(symmetry):
    uids = np.arange(N)
    numbers = 1 + uids % 5
    centres = random_rotations(4, "class views", np.arange(5)).numpy()
    frame_turn = in_plane(360 * keyed_random.uniform(4, "frame", np.arange(5)))
    frame_centre = 8 * keyed_random.normal(4, "frame", np.arange(5), size=2)
    psi, origin = in_plane(360 * keyed_random.uniform(5, "psi", uids)), 5 * normal("origin", size=2)
    turn, move = 4 * normal("turn", size=1)[:, 0], 2 * normal("move", size=2)
    true = equivalents(psi @ in_plane(turn) @ centres[numbers - 1], symmetry)
    found = psi @ frame_turn[numbers - 1]
    moved = np.einsum("nij,nj->ni", found[:, :2, :2], frame_centre[numbers - 1] + move)
    errors = agreement.pose_errors(
        of_one_structure(true, origin=origin, symmetry=symmetry), numbers, found, origin + moved
    )
    # degrees and Å: the consensus of 80 particles is this uncertain
    np.testing.assert_allclose(errors.in_plane_degrees, np.abs(turn), atol=1.5)
    np.testing.assert_allclose(errors.shift_angstrom, np.linalg.norm(move, axis=1), atol=1.0)
    assert np.median(errors.in_plane_degrees) == pytest.approx(4 * 0.6745, rel=0.1)
    assert np.median(errors.shift_angstrom) == pytest.approx(2 * 1.1774, rel=0.1)


def test_in_plane_error_is_free_of_the_spread_of_views():
    rotation = about(np.eye(3), 10.0)
    errors = agreement.pose_errors(
        of_one_structure(rotation), np.ones(N), np.broadcast_to(np.eye(3), (N, 3, 3)), np.zeros((N, 2))
    )
    np.testing.assert_allclose(errors.in_plane_degrees, 0.0, atol=1e-4)
    np.testing.assert_allclose(errors.shift_angstrom, 0.0, atol=1e-6)


def test_outliers_do_not_move_the_consensus():
    wrong = np.arange(N) < N // 4
    found = in_plane(np.where(wrong, 90.0, 0.0))
    moved = np.where(wrong[:, None], [30.0, 0.0], 0.0)
    errors = agreement.pose_errors(of_one_structure(np.stack([np.eye(3)] * N)), np.ones(N), found, moved)
    np.testing.assert_allclose(errors.in_plane_degrees, np.where(wrong, 90.0, 0.0), atol=0.01)
    np.testing.assert_allclose(errors.shift_angstrom, np.where(wrong, 30.0, 0.0), atol=0.01)


def test_half_a_turn_about_a_twofold_along_the_beam_is_no_error():
    found = in_plane(180.0 * (np.arange(N) % 4 == 0))
    rotation = np.stack([np.eye(3)] * N)
    for symmetry, worst in (("D2", 0.0), ("C1", 180.0)):
        errors = agreement.pose_errors(
            of_one_structure(rotation, symmetry=symmetry), np.ones(N), found, np.zeros((N, 2))
        )
        assert errors.in_plane_degrees.max() == pytest.approx(worst, abs=0.01)


def mixed(structure: list[int]) -> Truth:
    n = len(structure)
    return Truth(
        structure=np.array(structure),
        rotation=np.stack([np.eye(3)] * n),
        origin_angstrom=np.zeros((n, 2)),
        symmetries=("C1", "C1"),
    )


def test_particles_in_no_class_or_one_of_another_kind_count_as_infinitely_wrong_and_junk_not_at_all():
    truth = mixed([1, 1, 2, JUNK, 2, JUNK, JUNK, 1])
    numbers = [1, 1, 1, 1, 2, 2, 2, 0]
    spread = agreement.view_spread_degrees(truth, numbers)
    np.testing.assert_array_equal(spread, [0, 0, np.inf, np.nan, np.inf, np.nan, np.nan, np.inf])
    assert agreement.majority(truth, numbers) == {1: 1, 2: JUNK}
    assert agreement.purity(truth, numbers) == pytest.approx(4 / 8)


def test_junk_that_has_classes_of_its_own_is_separated_perfectly():
    truth = mixed([1, 2, 1, JUNK, JUNK])
    found = agreement.junk_separation(truth, [1, 2, 1, 3, 4])
    assert (found.precision, found.recall, found.f1, found.area_under_curve) == (1.0, 1.0, 1.0, 1.0)


def test_junk_spread_evenly_over_all_classes_is_not_separated():
    found = agreement.junk_separation(mixed([1, 1, JUNK] * 4), np.repeat([1, 2, 3, 4], 3))
    assert found.area_under_curve == 0.5
    assert found.recall == 0.0
    assert np.isnan(found.precision)
    assert found.f1 == 0.0


def test_area_under_the_curve_is_the_share_of_pairs_in_order():
    # class 1: 3 of 4 are junk, class 2: 1 of 4; pairs of junk and particle: 9 in order, 6 tied, 1 against
    truth = mixed([JUNK, JUNK, JUNK, 1, 1, 1, 1, JUNK])
    found = agreement.junk_separation(truth, [1, 1, 1, 1, 2, 2, 2, 2])
    assert found.area_under_curve == pytest.approx((9 + 6 / 2) / 16)
    assert found.f1 == pytest.approx(0.75)


def test_effective_number_of_classes():
    assert agreement.effective_number([5, 5, 5, 5]) == pytest.approx(4)
    assert agreement.effective_number([0.9, 0.0, 0.0]) == pytest.approx(1)
    assert agreement.effective_number([0.5, 0.25, 0.25]) == pytest.approx(2**1.5)


@pytest.mark.parametrize(("symmetry", "n_classes"), [("C1", 20), ("D2", 20), ("D7", 7)])
def test_partition_of_views_has_the_spread_of_caps_of_equal_area(symmetry, n_classes):
    truth = of_one_structure(random_rotations(3, "views", np.arange(2000)).numpy(), symmetry=symmetry)
    numbers = agreement.partition_of_views(truth, n_classes)
    assert set(numbers) == set(range(1, n_classes + 1))
    assert agreement.effective_number(np.bincount(numbers)) > 0.93 * n_classes
    # half of a cap lies within this angle of its centre; 100 particles in a cell pull its mean a little towards them
    half_cap = math.degrees(math.acos(1 - 1 / (n_classes * len(operators(symmetry)))))
    spread = np.median(agreement.view_spread_degrees(truth, numbers))
    assert 0.93 * half_cap < spread < 1.07 * half_cap


def test_partition_gives_structures_classes_by_their_numbers_and_junk_none():
    rotation = random_rotations(3, "views", np.arange(900)).numpy()
    structure = np.repeat([1, 2, JUNK], [600, 200, 100])
    truth = Truth(structure=structure, rotation=rotation, origin_angstrom=np.zeros((900, 2)), symmetries=("D2", "C1"))
    numbers = agreement.partition_of_views(truth, 8)
    assert set(numbers[structure == 1]) == {1, 2, 3, 4, 5, 6}
    assert set(numbers[structure == 2]) == {7, 8}
    assert set(numbers[structure == JUNK]) == {0}
    with pytest.raises(InputError, match="for each of 2 structures"):
        agreement.partition_of_views(truth, 1)


def test_spread_of_views_is_that_of_the_directions_themselves():
    # against the plain mean of a narrow bundle without symmetry
    rotation = about(np.eye(3), 0.0)
    wobble = matrix_from_rotation_vector(torch.from_numpy(0.05 * normal("wobble", size=3))).numpy()
    rotation = wobble @ rotation
    views = viewing_direction(torch.from_numpy(rotation)).numpy()
    mean = views.mean(axis=0) / np.linalg.norm(views.mean(axis=0))
    expected = np.degrees(np.arccos(np.clip(views @ mean, -1, 1)))
    found = agreement.view_spread_degrees(of_one_structure(rotation), np.ones(N))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_arrays_over_different_particles_are_refused():
    with pytest.raises(ShapeError, match="4 particles"):
        Truth(
            structure=np.ones(4, dtype=np.int64), rotation=np.zeros((3, 3, 3)), origin_angstrom=np.zeros((4, 2)),
            symmetries=("C1",),
        )  # fmt: skip
    with pytest.raises(ShapeError, match="one class number"):
        agreement.purity(mixed([1, 2]), [1, 2, 3])
    with pytest.raises(InputError, match="symmetry of every structure"):
        mixed([1, 2, 3])
