import math

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator

from halfmap.errors import ShapeError
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    matrix_from_rotation_vector,
    random_rotations,
    rotation_vector_from_matrix,
)
from halfmap.splines.trajectories import path, path_of_rotations, path_weights, turn_weights

TIMES = torch.linspace(0.0, 1.0, 23, dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_path_is_the_monotone_cubic_of_scipy(n):
    samples = np.random.default_rng(n).normal(size=(40, n, 3))
    expected = PchipInterpolator(np.linspace(0, 1, n), samples, axis=1)(TIMES.numpy())
    np.testing.assert_allclose(path(torch.from_numpy(samples), TIMES), expected, atol=1e-12)


def test_path_of_flat_pieces_is_that_of_scipy():
    samples = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 2, 2, -3], [0, 1, 0, 1]], dtype=float)[:, :, None]
    expected = PchipInterpolator(np.linspace(0, 1, 4), samples, axis=1)(TIMES.numpy())
    np.testing.assert_allclose(path(torch.from_numpy(samples), TIMES), expected, atol=1e-12)


def test_path_of_one_sample_stays():
    sample = torch.tensor([[[3.0, -1.0]]], dtype=torch.float64)
    torch.testing.assert_close(path(sample, TIMES), sample.expand(1, 23, 2))


def test_path_refuses_no_samples():
    with pytest.raises(ShapeError, match=r"samples \(..., n, c\)"):
        path(torch.zeros(2, 0, 3), TIMES)


def test_path_is_differentiable_in_samples():
    samples = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 2))).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: path(values, TIMES[1:-1:4]), samples)


def test_path_of_rotations_passes_samples_and_turns_evenly_between_two():
    start = random_rotations(3, "test", np.arange(5))
    vector = torch.from_numpy(np.random.default_rng(2).normal(scale=0.3, size=(5, 3)))
    end = matrix_from_rotation_vector(vector) @ start
    between = path_of_rotations(torch.stack([start, end], dim=1), torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    torch.testing.assert_close(between[:, 0], start)
    torch.testing.assert_close(between[:, 2], end)
    quarter = angular_distance_degrees(between[:, 1], start)
    torch.testing.assert_close(quarter, torch.rad2deg(vector.norm(dim=-1)) / 4)


def test_path_of_rotations_does_not_jump_where_euler_angles_do():
    vectors = torch.tensor([[0.0, 0.05, 0.0], [0.0, 0.0, 0.0], [0.05, 0.0, 0.0]], dtype=torch.float64)
    turned = path_of_rotations(matrix_from_rotation_vector(vectors), TIMES)
    steps = angular_distance_degrees(turned[1:], turned[:-1])
    assert steps.max() < 0.6  # degrees; the whole way is 5.7° in 22 steps


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_path_weights_are_its_derivative_about_an_even_motion(n):
    samples = torch.linspace(2.0, 5.0, n, dtype=torch.float64)[:, None]
    weights = path_weights(n, TIMES)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(TIMES))
    for j in range(n):
        step = torch.zeros_like(samples)
        step[j] = 1e-6
        change = (path(samples + step, TIMES) - path(samples - step, TIMES))[:, 0] / 2e-6
        torch.testing.assert_close(change, weights[:, j], atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_turn_weights_are_the_derivative_of_a_path_of_rotations(n):
    start = random_rotations(5, "test", np.arange(4))
    vector = torch.from_numpy(np.random.default_rng(7).uniform(math.radians(4), math.radians(10), (4, 1, 3)))
    samples = matrix_from_rotation_vector(vector * torch.linspace(0, 1, n)[:, None]) @ start[:, None]
    here, weights = path_of_rotations(samples, TIMES), turn_weights(samples, TIMES)
    for j in range(n):
        for axis in range(3):
            step = torch.zeros(n, 3, dtype=torch.float64)
            step[j, axis] = 1e-5
            moved = path_of_rotations(matrix_from_rotation_vector(step) @ samples, TIMES)
            turned = rotation_vector_from_matrix(moved @ here.mT) / 1e-5
            torch.testing.assert_close(turned, weights[..., j, :, axis], atol=1e-4, rtol=0)
