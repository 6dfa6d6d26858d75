"""Poses along the exposure; one pose is the simple case."""

import numpy as np
import pytest
import torch

from halfmap.data.poses import Poses
from halfmap.errors import InputError, ShapeError
from support.particle_sets import a_particle_set


def trajectory(n=3, t=4):
    return Poses.of_particles(a_particle_set(n)).repeated(torch.linspace(0, 30, t, dtype=torch.float64))


def test_poses_of_particles_go_back_where_they_came_from():
    particles = a_particle_set(5)
    poses = Poses.of_particles(particles)
    assert poses.n_points == 1
    again = poses.take([4, 3, 2, 1, 0]).written_to(particles)
    np.testing.assert_array_equal(again["rotation"], particles["rotation"])
    np.testing.assert_array_equal(again["origin_angstrom"], particles["origin_angstrom"])


def test_particles_without_offsets_have_none():
    poses = Poses.of_particles(a_particle_set(2).without_columns("origin_angstrom"))
    assert poses.origin_angstrom.tolist() == [[[0.0, 0.0]], [[0.0, 0.0]]]


def test_a_point_of_a_trajectory_is_a_single_pose():
    poses = trajectory()
    for point in (0, 3, -1):
        single = poses.at_point(point)
        assert single.n_points == 1
        assert torch.equal(single.rotation[:, 0], poses.rotation[:, point])
        assert single.dose_e_per_angstrom2[0] == poses.dose_e_per_angstrom2[point]


def test_a_mask_takes_particles():
    poses = trajectory()
    assert poses.take(np.array([True, False, True])).uid.tolist() == poses.uid[[0, 2]].tolist()


def test_poses_of_wrong_shapes_are_refused():
    poses = trajectory()
    with pytest.raises(ShapeError, match=r"rotation of 3 particles at 2 doses must have shape \(3, 2, 3, 3\)"):
        Poses(
            uid=poses.uid,
            rotation=poses.rotation,
            origin_angstrom=poses.origin_angstrom,
            dose_e_per_angstrom2=torch.tensor([0.0, 1.0]),
        )
    with pytest.raises(ShapeError, match="A pose to repeat must be single; got 4"):
        poses.repeated(torch.zeros(2))
    with pytest.raises(ShapeError, match="got 4 points; choose one with at_point"):
        poses.written_to(a_particle_set(3))


def test_a_dose_that_decreases_is_refused():
    with pytest.raises(InputError, match="must not decrease"):
        Poses.of_particles(a_particle_set(2)).repeated(torch.tensor([1.0, 0.0]))
