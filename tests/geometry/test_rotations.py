import math

import pytest
import torch

from halfmap.errors import ShapeError
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_rotation_vector,
    random_rotations,
    rotation_between,
    rotation_vector_from_matrix,
    turn_between_directions,
    viewing_direction,
)

ATOL = 1e-12  # float64 round-off of a few products of sines


def some_rotations(n: int = 200) -> torch.Tensor:
    return random_rotations(11, "test rotations", range(n))


def test_euler_angles_give_the_rows_of_relions_matrix():
    rot, tilt, psi = (math.radians(angle) for angle in (25.0, 40.0, -70.0))
    matrix = matrix_from_euler(25.0, 40.0, -70.0)
    first_row = [
        math.cos(psi) * math.cos(tilt) * math.cos(rot) - math.sin(psi) * math.sin(rot),
        math.cos(psi) * math.cos(tilt) * math.sin(rot) + math.sin(psi) * math.cos(rot),
        -math.cos(psi) * math.sin(tilt),
    ]
    third_row = [math.sin(tilt) * math.cos(rot), math.sin(tilt) * math.sin(rot), math.cos(tilt)]
    torch.testing.assert_close(matrix[0], torch.tensor(first_row, dtype=torch.float64), atol=ATOL, rtol=0)
    torch.testing.assert_close(viewing_direction(matrix), torch.tensor(third_row, dtype=torch.float64))


def test_rot_of_ninety_degrees_takes_the_reference_y_axis_to_the_image_x_axis():
    point = matrix_from_euler(90.0, 0.0, 0.0) @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(point, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=ATOL, rtol=0)


def test_angles_of_different_shapes_broadcast():
    assert matrix_from_euler(torch.zeros(4, 1), 0.0, [1.0, 2.0, 3.0]).shape == (4, 3, 3, 3)


def test_euler_angles_and_matrices_are_inverse_to_one_another():
    rotations = some_rotations()
    back = matrix_from_euler(*euler_from_matrix(rotations).unbind(-1))
    torch.testing.assert_close(back, rotations, atol=ATOL, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
@pytest.mark.parametrize("psi", [-150.0, -30.0, 0.0, 75.0])
def test_euler_angles_at_the_poles_give_the_same_matrix(tilt, psi):
    matrix = matrix_from_euler(40.0, tilt, psi)
    angles = euler_from_matrix(matrix)
    assert angles[0] == 0.0
    torch.testing.assert_close(matrix_from_euler(*angles.unbind(-1)), matrix, atol=1e-9, rtol=0)


def test_rotation_vectors_turn_right_handed():
    matrix = matrix_from_rotation_vector(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    image = matrix @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(image, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), atol=ATOL, rtol=0)


def test_rotation_vectors_and_matrices_are_inverse_to_one_another():
    rotations = some_rotations()
    back = matrix_from_rotation_vector(rotation_vector_from_matrix(rotations))
    torch.testing.assert_close(back, rotations, atol=1e-11, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.999e-3, 1.001e-3, 0.5, 3.0, math.pi - 1e-7, math.pi])
def test_rotation_vectors_keep_their_angle_over_the_whole_range(angle):
    axis = torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)
    matrix = matrix_from_rotation_vector(angle * axis)
    assert abs(rotation_vector_from_matrix(matrix).norm().item() - angle) < 1e-12 + 1e-8 * angle
    assert abs(angular_distance_degrees(torch.eye(3), matrix).item() - math.degrees(angle)) < 2e-6


@pytest.mark.parametrize("length", [0.0, 1e-4, 0.7, 2.5])
def test_exponential_map_has_the_gradient_of_finite_differences(length):
    vector = (length * torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(matrix_from_rotation_vector, (vector,), eps=1e-6, atol=1e-7)


def test_logarithm_has_the_gradient_of_the_inverse_at_zero():
    vector = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: rotation_vector_from_matrix(matrix_from_rotation_vector(w)), vector
    )
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64))


def test_distance_is_the_angle_between_two_turns_about_one_axis():
    first, second = matrix_from_euler(0.0, 10.0, 0.0), matrix_from_euler(0.0, 47.5, 0.0)
    assert abs(angular_distance_degrees(first, second).item() - 37.5) < 1e-9


def test_distance_is_symmetric_and_unchanged_when_both_frames_turn():
    a, b = some_rotations(50), some_rotations(100)[50:]
    turn = matrix_from_euler(20.0, 30.0, 40.0)
    torch.testing.assert_close(angular_distance_degrees(a, b), angular_distance_degrees(b, a))
    torch.testing.assert_close(angular_distance_degrees(turn @ a, turn @ b), angular_distance_degrees(a, b))
    torch.testing.assert_close(angular_distance_degrees(a @ turn, b @ turn), angular_distance_degrees(a, b))


def test_rotation_between_leads_from_one_to_the_other():
    a, b = some_rotations(2)
    torch.testing.assert_close(rotation_between(a, b) @ a, b, atol=ATOL, rtol=0)


def test_turn_between_directions_is_the_smallest_one_that_leads_there():
    start, end = viewing_direction(some_rotations(100)).chunk(2)
    turn = turn_between_directions(start, end)
    torch.testing.assert_close((turn @ start[..., None])[..., 0], end, atol=1e-10, rtol=0)
    between = torch.rad2deg(torch.acos((start * end).sum(-1)))
    torch.testing.assert_close(angular_distance_degrees(torch.eye(3), turn), between, atol=1e-6, rtol=0)


def test_random_rotations_are_proper_and_uniform():
    rotations = some_rotations(20_000)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3))
    assert (torch.linalg.det(rotations) > 0.999).all()
    # Uniform over SO(3): every entry has mean 0 and variance 1/3; 20,000 draws, five standard errors.
    assert rotations.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 20_000)
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / 20_000)
    # The angle has density (1 - cos θ) / π, so its mean is π/2 + 2/π.
    mean_angle = angular_distance_degrees(torch.eye(3), rotations).mean().item()
    assert abs(mean_angle - math.degrees(math.pi / 2 + 2 / math.pi)) < 1.5


def test_random_rotations_belong_to_their_uids():
    torch.testing.assert_close(some_rotations(5)[3], random_rotations(11, "test rotations", 3))


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"rotation must have shape \(..., 3, 3\); got \(3,\)"):
        euler_from_matrix(torch.zeros(3))
