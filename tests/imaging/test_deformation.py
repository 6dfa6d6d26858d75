import numpy as np
import pytest
import torch

from halfmap.errors import ShapeError
from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.deformation import is_contained, views
from halfmap.splines.grids import SplineGrid
from support.plain_series import view_of_frame_series, view_of_tilt_series
from support.series_models import (
    frame_series,
    particles_in,
    plain_frame_series,
    plain_tilt_series,
    tilt_series,
)


def rotations(n_particles, n_samples):
    return random_rotations(1, "test", np.arange(n_particles))[:, None].expand(n_particles, n_samples, 3, 3)


def assert_as_plain(seen, expected):
    """1e-4 Å is far below what images can tell, 1e-9 of a rotation is rounding."""
    for p, (position, depth, rotation) in enumerate(expected):
        np.testing.assert_allclose(seen.position_angstrom[p], position, atol=1e-4)
        np.testing.assert_allclose(seen.depth_angstrom[p], depth, atol=1e-4)
        np.testing.assert_allclose(seen.rotation[p], rotation, atol=1e-9)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("n_samples", [1, 2, 3])
def test_views_of_tilt_series_are_those_of_the_plain_model(inverted, n_samples):
    model = plain_tilt_series(inverted=inverted)
    positions, turned = particles_in(model["volume"], 4, n_samples), rotations(4, n_samples)
    seen = views(tilt_series(model), positions, turned)
    assert_as_plain(seen, [view_of_tilt_series(model, positions[p].numpy(), turned[p, 0].numpy()) for p in range(4)])


@pytest.mark.parametrize(("tilts", "dose"), [((12.0,), (0.0,)), ((-30.0, 0.0, 30.0), (5.0, 5.0, 5.0))])
def test_one_tilt_and_equal_doses_have_views(tilts, dose):
    model = plain_tilt_series(tilts=tilts, dose=dose)
    positions, turned = particles_in(model["volume"], 3, 2), rotations(3, 2)
    seen = views(tilt_series(model), positions, turned)
    assert_as_plain(seen, [view_of_tilt_series(model, positions[p].numpy(), turned[p, 0].numpy()) for p in range(3)])


@pytest.mark.parametrize("n_frames", [1, 6])
def test_views_of_frame_series_are_those_of_the_plain_model(n_frames):
    model = plain_frame_series(n_frames=n_frames)
    positions, turned = particles_in((*model["image"], 300.0), 4, 2), rotations(4, 2)
    seen = views(frame_series(model), positions, turned)
    assert_as_plain(seen, [view_of_frame_series(model, positions[p].numpy(), turned[p, 0].numpy()) for p in range(4)])


def test_movement_takes_the_content_the_other_way():
    model = plain_tilt_series()
    still = tilt_series({**model, "movement": np.zeros((2, 1, 1, 1))})
    moved = still.with_values(movement_x_angstrom=SplineGrid.constant(5.0))
    positions, turned = particles_in(model["volume"], 2, 1), rotations(2, 1)
    shift = views(moved, positions, turned).position_angstrom - views(still, positions, turned).position_angstrom
    torch.testing.assert_close(shift, torch.tensor([-5.0, 0.0], dtype=torch.float64).expand(2, 5, 2))


def test_inverted_angles_turn_the_depth_alone():
    positions, turned = particles_in((4000, 3600, 1500), 2, 1), rotations(2, 1)
    plain, inverted = (views(tilt_series(plain_tilt_series(inverted=flag)), positions, turned) for flag in (0, 1))
    torch.testing.assert_close(inverted.position_angstrom, plain.position_angstrom)
    torch.testing.assert_close(inverted.depth_angstrom, -plain.depth_angstrom)


def test_particle_on_the_axis_stays_in_the_middle():
    model = plain_tilt_series()
    series = tilt_series(
        {
            **model,
            "movement": np.zeros((2, 1, 1, 1)),
            "volume_warp": np.zeros((3, 1, 1, 1, 1)),
            "offset": np.zeros((5, 2)),
        }
    )
    centre = torch.tensor(model["volume"], dtype=torch.float64)[None, None] / 2
    seen = views(series, centre, rotations(1, 1))
    torch.testing.assert_close(seen.position_angstrom[0], torch.tensor([[2050.0, 1950.0]] * 5, dtype=torch.float64))
    torch.testing.assert_close(seen.depth_angstrom, torch.zeros(1, 5, dtype=torch.float64))


def test_particles_are_contained_up_to_a_radius_from_the_border():
    model = plain_frame_series(n_frames=1)
    zero = {name: np.zeros((2, 1, 1, 1)) for name in ("movement", "local_movement")}
    series = frame_series({**model, **zero, "pyramid": ()})
    width, height = model["image"]
    places = [(100, 100), (99.9, 100), (100, 99.9), (width - 100, height - 100), (width - 99.9, 100)]
    positions = torch.tensor([[[x, y, 0.0]] for x, y in places], dtype=torch.float64)
    inside = is_contained(series, views(series, positions, rotations(5, 1)), 200.0)
    assert inside[:, 0].tolist() == [True, False, False, True, False]


def test_views_are_differentiable_in_positions_and_grids():
    model = plain_tilt_series()
    turned = rotations(2, 2)

    def place(positions, movement):
        series = tilt_series(model).with_values(movement_x_angstrom=SplineGrid(values=movement))
        return views(series, positions, turned).position_angstrom

    positions = particles_in(model["volume"], 2, 2).requires_grad_()
    movement = torch.from_numpy(model["movement"][0]).requires_grad_()
    assert torch.autograd.gradcheck(place, (positions, movement), atol=1e-4)


def test_positions_without_samples_are_refused():
    with pytest.raises(ShapeError, match=r"positions \(P, n, 3\)"):
        views(tilt_series(plain_tilt_series()), torch.zeros(4, 3), torch.zeros(4, 3, 3))
