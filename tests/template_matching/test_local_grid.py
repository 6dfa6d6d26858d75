"""Local grids: all three ways to turn, in the frame that the names say."""

import pytest
import torch

from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler, rotation_vector_from_matrix
from halfmap.template_matching.local_grid import leopard_rotations, local_rotations


def test_a_local_grid_spans_all_three_turns_evenly_about_the_identity():
    grid = local_rotations(tilt_range_degrees=2.5, tilt_step_degrees=0.5, psi_range_degrees=1.5, psi_step_degrees=0.5)
    vectors = torch.rad2deg(rotation_vector_from_matrix(grid))
    assert torch.allclose(vectors.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert vectors[:, :2].norm(dim=-1).max() == pytest.approx(2.5, rel=0.01)
    assert vectors[:, 2].abs().max() == pytest.approx(1.5, rel=0.01)
    assert (vectors.norm(dim=-1) < 1e-9).sum() == 1
    # a disc of radius 5 steps on a square lattice, and 7 turns
    assert len(grid) == 81 * 7


def test_a_turn_in_the_plane_leaves_the_view_and_changes_psi_alone():
    pose = matrix_from_euler(*torch.tensor([30.0, 100.0, 20.0], dtype=torch.float64))
    grid = local_rotations(tilt_range_degrees=0, tilt_step_degrees=1, psi_range_degrees=2, psi_step_degrees=1)
    turned = grid @ pose
    assert len(grid) == 5
    assert torch.allclose(turned[:, 2], pose[2].expand(5, 3))
    assert sorted(angular_distance_degrees(turned, pose).tolist()) == pytest.approx([0, 1, 1, 2, 2], abs=1e-4)


def test_leopard_em_s_grid_is_reproduced_with_the_direction_it_lacks():
    """Numbers of rotations and their spread, of Leopard-EM 1.2 with torch-so3 0.6.0."""
    for theta_step, psi_step, number in ((0.5, 0.5, 77), (0.25, 0.1, 651), (0.25, 0.15, 441)):
        grid = leopard_rotations(
            theta_range_degrees=2.5,
            theta_step_degrees=theta_step,
            psi_range_degrees=1.5,
            psi_step_degrees=psi_step,
        )
        assert len(grid) == number
        spread = torch.rad2deg(rotation_vector_from_matrix(grid)).abs().amax(0)
        assert spread.tolist()[2] == pytest.approx(3.0, abs=0.01)
        assert sorted(spread.tolist()[:2])[0] < 0.1
