import pytest
import torch

from halfmap.errors import InputError
from halfmap.multiparticle.grid_choice import (
    affordable_nodes,
    concern_about_image_warp,
    finest_image_warp,
    shift_information,
    warp_nodes,
)
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import refine_series
from halfmap.multiparticle.schedule import Schedule
from support.series_models import frame_series, plain_frame_series, plain_tilt_series, tilt_series
from support.tilt_windows import as_problem, as_recorded, scene


def square(series):
    return series.with_values(image_size_angstrom=(4000.0, 4000.0))


TILTS, FRAMES = square(tilt_series(plain_tilt_series())), square(frame_series(plain_frame_series()))


def test_information_of_an_image_is_that_of_a_shift_of_all_its_particles():
    hessian = torch.zeros(3, 2, 3, 3, dtype=torch.float64)
    hessian[..., 0, 0], hessian[..., 2, 2], hessian[..., 1, 1] = 2.0, 4.0, 100.0
    assert shift_information(hessian, ("shift_x", "turn_z", "shift_y")).tolist() == [9.0, 9.0]
    with pytest.raises(InputError, match="shift_x and shift_y"):
        shift_information(hessian, ("turn_x", "turn_y", "turn_z"))


@pytest.mark.parametrize(
    ("information", "accuracy", "nodes"),
    [([4.0], 0.5, 1), ([4.0, 4.0, 4.0], 0.5, 3), ([3.9], 0.5, 0), ([1.0, 1.0], 1.0, 2), ([400.0], 0.25, 25)],
)
def test_a_node_takes_the_inverse_of_its_variance(information, accuracy, nodes):
    assert affordable_nodes(torch.tensor(information), accuracy) == nodes


@pytest.mark.parametrize(
    ("each", "finest"),
    [(0.0, (1, 1)), (4.0, (1, 1)), (15.0, (1, 1)), (16.0, (2, 2)), (100.0, (5, 5)), (1e9, (24, 24))],
)
def test_the_finest_warp_of_tilts_has_no_more_nodes_than_information(each, finest):
    assert finest_image_warp(TILTS, torch.full((5,), each)) == finest


@pytest.mark.parametrize(("total", "finest"), [(0.0, (1, 1)), (24.0, (1, 1)), (96.0, (2, 2)), (216.0, (3, 3))])
def test_the_finest_warp_of_frames_counts_all_grids_of_its_pyramid(total, finest):
    assert [warp_nodes(FRAMES, n, n) for n in (1, 2, 3)] == [6, 24, 54]
    assert finest_image_warp(FRAMES, torch.full((6,), total / 6)) == finest


def test_nodes_follow_the_sides_of_the_image():
    wide = TILTS.with_values(image_size_angstrom=(6000.0, 4000.0))
    assert finest_image_warp(wide, torch.full((5,), 96.0)) == (6, 4)


@pytest.mark.parametrize(
    ("nodes", "each", "is_too_fine"), [((5, 5), 100.0, False), ((6, 5), 100.0, True), ((1, 1), 0.0, False)]
)
def test_too_fine_warps_are_told_with_one_that_is_not(nodes, each, is_too_fine):
    concern = concern_about_image_warp(TILTS, nodes, torch.full((5,), each))
    assert (concern is not None) == is_too_fine
    assert concern is None or "Take 5x5" in concern


@pytest.mark.parametrize(("image_warp", "is_too_fine"), [("1x1", False), ("9x9", True)])
def test_a_refinement_tells_of_too_fine_a_warp(image_warp, is_too_fine):
    drawn = scene(n=3, n_tilts=3, box=48, snr=0.05)
    schedule = Schedule(sub_iterations=1, steps=1, ctf_resolution_angstrom=30.0)
    choice = ParameterChoice(image_warp=image_warp, positions=True)
    concerns = refine_series(as_problem(drawn, as_recorded(drawn)), choice, schedule=schedule).concerns
    assert ["has 243 nodes in TS_1" in concern for concern in concerns] == [True] * is_too_fine
