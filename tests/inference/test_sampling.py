"""Grids of poses in 3D, and what every search decides alike."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.geometry import symmetry as groups
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_rotation_vector,
    random_rotations,
    rotation_vector_from_matrix,
)
from halfmap.inference import sampling
from halfmap.inference.sampling import PoseGrid, local_grid, orientation_grid, own_rotations, tilt_psi_grid

SOME_GROUPS = ("C1", "C4", "D2", "D7", "T", "O", "I1")
SPACING = 15.0
"""Of coarse rotations at order 2, in degrees."""


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_perturbations_stay_in_range_and_never_stand_still(factor: float) -> None:
    values = [0.0]
    for iteration in range(1, 400):
        values.append(sampling.perturbation(5, iteration, values[-1], factor))
    steps = np.mod(np.diff(values), 2 * factor)
    assert min(values) >= -factor
    assert max(values) < factor
    assert (steps >= factor / 2 - 1e-12).all()
    assert (steps <= factor + 1e-12).all()
    assert abs(np.mean(values)) < 0.1 * factor
    assert np.std(values) == pytest.approx(factor / math.sqrt(3), rel=0.1)  # of a uniform distribution


def test_perturbation_can_be_switched_off_and_follows_the_seed() -> None:
    assert sampling.perturbation(5, 1, 0.3, 0.0) == 0.0
    assert sampling.perturbation(5, 1, 0.0) == sampling.perturbation(5, 1, 0.0)
    assert sampling.perturbation(5, 1, 0.0) != sampling.perturbation(6, 1, 0.0)


@pytest.mark.parametrize(("divisor", "shell"), [(1.0, 10), (1.2, 12), (1.5, 15), (30.0, 40)])
def test_a_shell_grows_with_the_share_of_the_arc_that_details_may_measure(divisor: float, shell: int) -> None:
    # 100 Å from the centre, 0.1 rad are 10 Å: shell 10 of a field of 100 Å
    assert sampling.shell_of_arc(math.degrees(0.1), 200.0, 100.0, 40, divisor=divisor) == shell


def test_a_shell_is_never_that_of_the_mean() -> None:
    assert sampling.shell_of_arc(90.0, 2000.0, 100.0, 40, divisor=1.2) == 1


def an_orientation_grid(symmetry: str = "C1", perturbation: float = 0.0, **settings: float) -> PoseGrid:
    given = {"healpix_order": 2, "offset_range_angstrom": 0.0, "offset_step_angstrom": 1.0, **settings}
    return orientation_grid(symmetry=symmetry, perturbation=perturbation, **given)


def distances_to(nodes: Tensor, symmetry: str, n: int = 600) -> Tensor:
    """Return by how many degrees random rotations miss the nearest node that a group makes of some."""
    rotations = random_rotations(3, "anywhere", np.arange(n))
    largest = torch.full((n,), -1.0, dtype=torch.float64)
    for turn in groups.operators(symmetry):
        traces = (rotations @ turn).reshape(n, 9) @ nodes.reshape(-1, 9).T
        largest = torch.maximum(largest, traces.amax(1))
    return torch.rad2deg(torch.acos(((largest - 1) / 2).clamp(-1, 1)))


@pytest.mark.parametrize("perturbation", [0.0, 0.5, -0.3])
@pytest.mark.parametrize("symmetry", SOME_GROUPS)
def test_every_rotation_is_near_one_of_the_grid_up_to_symmetry(symmetry: str, perturbation: float) -> None:
    grid = an_orientation_grid(symmetry, perturbation)
    for nodes, spacing in ((grid.rotations, SPACING), (grid.fine_rotations, SPACING / 2)):
        missed = distances_to(nodes, symmetry) / spacing
        # of a cubic lattice of rotation vectors the mean is 0.48 of the spacing and the largest 0.87; HEALPix's
        # stretched pixels, and where pixels of one unit do not meet those of the next, add to the rare ones
        assert float(missed.mean()) < 0.55
        assert float(missed.quantile(0.9)) < 0.8
        # the unit of D7 ends in a wedge of 26 degrees, where whole pixels may be missing
        assert float(missed.max()) < (2.0 if symmetry == "D7" else 1.35)


@pytest.mark.parametrize("symmetry", SOME_GROUPS)
def test_a_perturbed_grid_leaves_no_gaps_that_the_unperturbed_one_has_not(symmetry: str) -> None:
    """A turn that differed between neighbouring cells would open gaps of up to 0.8 spacings."""
    still, moved = (distances_to(an_orientation_grid(symmetry, p).rotations, symmetry, 2000) for p in (0.0, 0.5))
    assert float(moved.mean()) == pytest.approx(float(still.mean()), abs=0.02 * SPACING)
    assert float(moved.quantile(0.99)) < float(still.quantile(0.99)) + 0.08 * SPACING


@pytest.mark.parametrize("perturbation", [0.0, 0.4])
@pytest.mark.parametrize("symmetry", SOME_GROUPS)
def test_a_grid_has_its_share_of_all_rotations(symmetry: str, perturbation: float) -> None:
    every, order = OrientationGrid(2), groups.order(symmetry)
    grid = an_orientation_grid(symmetry, perturbation)
    # whole directions: of 192, three for a group of 60
    assert abs(grid.n_rotations / every.n_angles - every.n_directions / order) < 0.15 * every.n_directions / order
    if symmetry in ("C1", "C4", "D2"):
        assert grid.n_rotations * order == every.n_orientations
    assert grid.children_rotations == 8


def test_a_perturbation_moves_every_rotation_by_its_share_of_the_step() -> None:
    still, moved = an_orientation_grid("D2"), an_orientation_grid("D2", 0.4)
    half = still.n_rotations // 2
    candidates = torch.stack([moved.rotations[:half], moved.rotations[half:]])
    by = angular_distance_degrees(still.rotations[:half], candidates).amin(0)
    torch.testing.assert_close(by, torch.full_like(by, 0.4 * SPACING), atol=0.1, rtol=0)  # two turns, not one


@pytest.mark.parametrize("perturbation", [0.0, 0.5])
@pytest.mark.parametrize("symmetry", ["C1", "D7", "I1"])
def test_finer_rotations_lie_within_the_cells_of_their_parents(symmetry: str, perturbation: float) -> None:
    grid = an_orientation_grid(symmetry, perturbation)
    children = grid.fine_rotations.view(-1, 8, 3, 3)
    away = angular_distance_degrees(grid.rotations[:, None], children)
    # a quarter of a step in plane, and about 0.4 to the centre of a quarter of a pixel
    assert float(away.max()) < 0.75 * SPACING
    moves = rotation_vector_from_matrix(children @ grid.rotations[:, None].mT)
    # the parent is their middle, to the third order of a step of 15 degrees
    assert float(torch.rad2deg(moves.mean(1)).norm(dim=-1).max()) < 0.12 * SPACING
    closest = angular_distance_degrees(children[:, :, None], children[:, None]) + 360 * torch.eye(8)
    assert float(closest.min()) > 0.25 * SPACING


@pytest.mark.parametrize("perturbation", [0.0, 0.5, -0.2])
@pytest.mark.parametrize("symmetry", SOME_GROUPS)
def test_the_second_half_is_the_first_turned_by_half_a_turn(symmetry: str, perturbation: float) -> None:
    grid = an_orientation_grid(symmetry, perturbation)
    assert grid.half_turns
    for rotations in (grid.rotations, grid.fine_rotations):
        first, second = rotations.chunk(2)
        torch.testing.assert_close(second[:, :2], -first[:, :2], atol=1e-12, rtol=0)
        torch.testing.assert_close(second[:, 2], first[:, 2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("perturbation", [0.0, 0.5])
def test_shifts_of_orientations_are_those_of_a_disc_and_four_in_the_cell_of_each(perturbation: float) -> None:
    grid = an_orientation_grid("D2", perturbation, offset_range_angstrom=5.0, offset_step_angstrom=2.0)
    moved = 2.0 * perturbation
    assert grid.n_shifts == 21
    assert float((grid.shifts_angstrom - moved).norm(dim=-1).max()) <= 5.0
    assert grid.shift_area_angstrom2 == 1.0
    away = (grid.fine_shifts_angstrom.view(21, 4, 2) - grid.shifts_angstrom[:, None]).abs()
    torch.testing.assert_close(away, torch.full_like(away, 0.5), atol=1e-12, rtol=0)


def test_offsets_may_be_finer_where_rotations_are_not() -> None:
    offsets = {"offset_range_angstrom": 5.0, "offset_step_angstrom": 2.0}
    grid = an_orientation_grid("D2", 0.3, finer_rotations=False, **offsets)
    both = an_orientation_grid("D2", 0.3, **offsets)
    torch.testing.assert_close(grid.fine_rotations, grid.rotations)
    torch.testing.assert_close(grid.fine_shifts_angstrom, both.fine_shifts_angstrom)
    assert grid.shift_area_angstrom2 == both.shift_area_angstrom2


def a_local_grid(**settings: float) -> PoseGrid:
    given = {
        "rotation_step_degrees": 4.0,
        "sigma_degrees": 4.0,
        "offset_range_angstrom": 3.0,
        "offset_step_angstrom": 2.0,
        **settings,
    }
    return local_grid(**given)


def degrees_of(rotations: Tensor) -> Tensor:
    return torch.rad2deg(rotation_vector_from_matrix(rotations))


@pytest.mark.parametrize("perturbation", [0.0, 0.5])
def test_a_local_grid_reaches_three_deviations_in_steps(perturbation: float) -> None:
    grid = a_local_grid(perturbation=perturbation)
    steps = degrees_of(grid.rotations) / 4.0 - perturbation
    torch.testing.assert_close(steps, steps.round(), atol=1e-9, rtol=0)
    # 123 points of a cubic lattice lie within 3 steps of its origin
    assert grid.n_rotations == 123
    assert len(torch.unique(steps.round(), dim=0)) == 123
    assert float(steps.norm(dim=-1).max()) == pytest.approx(3.0)
    torch.testing.assert_close(
        grid.rotations[0],
        matrix_from_rotation_vector(torch.deg2rad(torch.full((3,), 4.0 * perturbation, dtype=torch.float64))),
        atol=1e-12,
        rtol=0,
    )
    assert grid.around_each
    assert not grid.half_turns


def test_finer_rotations_of_a_local_grid_halve_its_steps() -> None:
    grid = a_local_grid(perturbation=0.3)
    children = degrees_of(grid.fine_rotations).view(-1, 8, 3)
    away = children - degrees_of(grid.rotations)[:, None]
    torch.testing.assert_close(away.abs(), torch.ones_like(away), atol=1e-9, rtol=0)  # a quarter of 4 degrees
    assert len(torch.unique(away[0].sign(), dim=0)) == 8
    # side by side the cells of all children fill those of their parents: no two are nearer than half a step
    vectors = children.flatten(0, 1)
    nearest = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf).min()
    assert float(nearest) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("perturbation", [0.0, -0.5])
def test_prior_weights_of_a_local_grid_are_gaussian_with_mean_one(perturbation: float) -> None:
    grid = a_local_grid(perturbation=perturbation)
    for rotations, log_prior in ((grid.rotations, grid.log_prior), (grid.fine_rotations, grid.fine_log_prior)):
        assert log_prior is not None
        assert float(log_prior.exp().mean()) == pytest.approx(1.0, abs=1e-12)
        square = degrees_of(rotations).square().sum(-1)
        fall = log_prior - log_prior[0] + (square - square[0]) / (2 * 4.0**2)
        torch.testing.assert_close(fall, torch.zeros_like(fall), atol=1e-9, rtol=0)


def test_a_local_search_that_is_narrower_than_its_step_looks_at_one_rotation_and_its_children() -> None:
    grid = a_local_grid(sigma_degrees=1.0)
    assert grid.n_rotations == 1
    assert len(grid.fine_rotations) == 8


def test_a_local_grid_searches_the_same_around_each_mate_with_equal_priors() -> None:
    related = groups.operators("D2")
    alone, grid = a_local_grid(perturbation=0.3), a_local_grid(perturbation=0.3, mates=related)
    own = random_rotations(1, "own rotations", np.arange(5))
    for fine in (False, True):
        found = grid.around(own, fine=fine)
        each = [alone.around(own @ mate, fine=fine) for mate in related]
        torch.testing.assert_close(found, torch.cat(each, dim=1), atol=1e-12, rtol=0)
    for log_prior, of_one in ((grid.log_prior, alone.log_prior), (grid.fine_log_prior, alone.fine_log_prior)):
        torch.testing.assert_close(log_prior, of_one.repeat(4), atol=1e-12, rtol=0)
        assert float(log_prior.exp().mean()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("keep_origin", [False, True])
def test_searches_at_own_rotations_turn_nothing(keep_origin: bool) -> None:
    poses = a_local_grid()
    own = own_rotations(poses, keep_origin=keep_origin)
    assert own.around_each
    assert torch.equal(own.rotations, torch.eye(3, dtype=torch.float64)[None])
    assert own.children_rotations == 1
    if keep_origin:
        assert own.fine_shifts_angstrom.tolist() == [[0.0, 0.0]]
    else:
        assert torch.equal(own.fine_shifts_angstrom, poses.fine_shifts_angstrom)
        assert own.shift_area_angstrom2 == poses.shift_area_angstrom2


def test_grids_whose_numbers_do_not_fit_are_refused() -> None:
    eye, zero = torch.eye(3, dtype=torch.float64).expand(3, 3, 3), torch.zeros((2, 2), dtype=torch.float64)
    with pytest.raises(ShapeError, match="equally many finer ones; got 3/2"):
        PoseGrid(rotations=eye[:2], fine_rotations=eye, shifts_angstrom=zero, fine_shifts_angstrom=zero)
    with pytest.raises(ShapeError, match="equally many rotations; got 3 for 2"):
        PoseGrid(rotations=eye, fine_rotations=eye, shifts_angstrom=zero, fine_shifts_angstrom=zero, mates=eye[:2])
    with pytest.raises(InputError, match="step of shifts must be positive; got 0"):
        an_orientation_grid("D2", offset_step_angstrom=0.0)
    with pytest.raises(InputError, match="symmetry must be one of"):
        an_orientation_grid("Q5")


@pytest.mark.parametrize(("symmetry", "fold"), [("C1", 1), ("C4", 4), ("D7", 7), ("T", 3)])
def test_all_rots_near_a_known_tilt_and_psi_are_covered_and_no_others(symmetry: str, fold: int) -> None:
    grid = tilt_psi_grid(
        rotation_step_degrees=10.0,
        sigma_degrees=7.0,
        symmetry=symmetry,
        offset_range_angstrom=0.0,
        offset_step_angstrom=2.0,
        perturbation=0.25,
    )
    n_rots = math.ceil(36 / fold)
    assert grid.n_rotations == n_rots * 5 * 5  # two steps to either side within 21 degrees
    tilt, psi = 70.0, -35.0
    own = matrix_from_euler(0.0, tilt, psi)[None]
    coarse = euler_from_matrix(grid.around(own, fine=False)[0])
    rots, steps = coarse[:, 0] % (360 / fold), coarse[:, 1:] - torch.tensor([tilt, psi], dtype=torch.float64)
    steps = steps / 10 - 0.25
    torch.testing.assert_close(steps, steps.round(), atol=1e-9, rtol=0)
    assert float(steps.abs().max()) == pytest.approx(2.0)
    assert len(torch.unique((rots * fold / 360 * n_rots).round())) == n_rots
    fine = grid.around(own, fine=True)[0]
    for number, rot in enumerate((1.0, 123.0, -77.0)):  # wherever rot is, a finer rotation is within half its diagonal
        true = matrix_from_euler(rot, tilt - 12.0 + 9.0 * number, psi + 6.0)
        assert float(groups.distance_degrees(fine, true, symmetry).min()) < 5.0 / 2 * 3**0.5 + 1.0
    assert grid.log_prior is not None
    assert grid.fine_log_prior is not None
    away = (steps + 0.25).square().sum(-1) * 100
    drop = grid.log_prior[away.argmin()] - grid.log_prior
    torch.testing.assert_close(drop, (away - away.min()) / (2 * 7.0**2), atol=1e-9, rtol=0)
    assert float(grid.fine_log_prior.exp().mean()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("symmetry", "relaxed", "n"), [("C1", "D2", 2), ("C1", "C4", 1), ("C2", "O", 4)])
def test_rots_near_a_known_tilt_are_searched_around_mates_too(symmetry: str, relaxed: str, n: int) -> None:
    settings = {"offset_range_angstrom": 0.0, "offset_step_angstrom": 2.0, "perturbation": 0.25}
    grid = tilt_psi_grid(
        rotation_step_degrees=15.0,
        sigma_degrees=7.0,
        symmetry=symmetry,
        mates=groups.mates(relaxed, symmetry),
        **settings,
    )
    assert grid.n_rotations == n * 24 * 3 * 3
    own = matrix_from_euler(0.0, 70.0, -35.0)
    fine = grid.around(own[None], fine=True)[0]
    for mate in groups.operators(relaxed):
        true = matrix_from_euler(123.0, 72.0, -31.0) @ mate
        assert float(groups.distance_degrees(fine, true, symmetry).min()) < 7.5 / 2 * 3**0.5 + 1.0
    assert grid.fine_log_prior is not None
    assert float(grid.fine_log_prior.exp().mean()) == pytest.approx(1.0, abs=1e-12)
