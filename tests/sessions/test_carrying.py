"""What goes on from cycle to cycle."""

from dataclasses import replace

import numpy as np
import torch

from halfmap.classification import class2d
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import ClassificationState
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.sessions.carrying import LiveState, assignments_for, automasked, entering, params_of_cycle, tracks_after
from support.live_folders import GRID, _made

PARAMS = params_of_cycle(
    classes=3,
    mask_radius_angstrom=55.0,
    resolution_angstrom=14.0,
    first_resolution_angstrom=30.0,
    autocentre=True,
    revives=True,
    seed=1,
    grid_angstrom=128.0,
)


def a_problem(executor: InProcessExecutor, rows: np.ndarray) -> ClassificationProblem:
    _, _, particles, images = _made(2, 3, 1.0, 1)
    return ClassificationProblem.of(
        particles.take(rows), ArraySource(images=images, grid=GRID), PARAMS, executor, index=rows
    )


def live(problem: ClassificationProblem, state: ClassificationState) -> LiveState:
    return LiveState(
        state=state,
        uid=problem.particles.uid,
        group_names=problem.group_names,
        optics=problem.particles.optics,
        side_pixel=GRID.side,
        pixel_size_angstrom=GRID.pixel_size_angstrom,
        tracks=np.array([7, 8, 9]),
        next_track=10,
    )


def test_poses_classes_and_scales_follow_particles_and_micrographs_by_their_names() -> None:
    rng = np.random.default_rng(1)
    rows = rng.permutation(40)[:25]
    with InProcessExecutor() as executor:
        problem = a_problem(executor, rows)
        state = class2d.advance(problem, PARAMS, class2d.start(problem, PARAMS, executor), executor)
        state = replace(state, scale=np.array([0.8, 1.2]))
        before = live(problem, state)
        now = a_problem(executor, np.arange(40))
        entered = entering(before, now, PARAMS, executor, automask=False)
    known = np.isin(now.particles.uid, problem.particles.uid)
    order = [problem.particles.uid.tolist().index(uid) for uid in now.particles.uid[known].tolist()]
    np.testing.assert_array_equal(
        entered.assignments.class_index[known], state.assignments.class_index[np.array(order)]
    )
    np.testing.assert_array_equal(
        entered.assignments.origin_angstrom[known], state.assignments.origin_angstrom[np.array(order)]
    )
    assert (entered.assignments.class_index[~known] == -1).all()
    np.testing.assert_array_equal(entered.scale, [0.8, 1.2])
    assert torch.equal(entered.noise_variance, state.noise_variance)


def test_noise_is_measured_anew_where_the_microscope_is_another() -> None:
    with InProcessExecutor() as executor:
        problem = a_problem(executor, np.arange(40))
        state = class2d.start(problem, PARAMS, executor)
        state = replace(state, noise_variance=2 * state.noise_variance)
        before = live(problem, state)
        optics = before.optics.with_columns(voltage_kv=200.0)
        entered = entering(replace(before, optics=optics), problem, PARAMS, executor, automask=False)
    torch.testing.assert_close(entered.noise_variance * 2, state.noise_variance)


def test_a_class_that_becomes_a_twin_begins_a_track_whose_parent_is_known() -> None:
    with InProcessExecutor() as executor:
        problem = a_problem(executor, np.arange(40))
        before = class2d.start(problem, PARAMS, executor)
    counts = replace(before.assignments, class_index=np.repeat([0, 2], [30, 10]))
    references = replace(before.references, fractions=torch.tensor([0.375, 0.375, 0.25], dtype=torch.float64))
    left = replace(before, assignments=counts, references=references, history={"revived_classes": np.array([1.0])})
    tracks, next_track, born = tracks_after(live(problem, before), before, left)
    assert (tracks.tolist(), next_track, born) == ([7, 10, 9], 11, [(10, 7)])
    quiet = replace(left, history={"revived_classes": np.array([0.0])})
    assert tracks_after(live(problem, before), before, quiet)[0].tolist() == [7, 8, 9]


def test_nothing_is_known_of_particles_before_the_first_cycle() -> None:
    found = assignments_for(None, np.array([3, 5]))
    assert found.class_index.tolist() == [-1, -1]


def test_an_automask_keeps_the_particle_and_dampens_what_is_far_from_it() -> None:
    with InProcessExecutor() as executor:
        problem = a_problem(executor, np.arange(40))
    distance = GRID.positions().norm(dim=-1)
    particle = torch.exp(-0.5 * (distance / 16.0).square())
    speck = 0.3 * torch.exp(-0.5 * ((GRID.positions() - torch.tensor([0.0, 48.0])).norm(dim=-1) / 4.0).square())
    image = (particle + speck).float()
    masked = automasked(image[None], problem, PARAMS)[0]
    centre, there = GRID.side // 2, GRID.side // 2 + 12
    assert float(masked[centre, centre]) == float(image[centre, centre])
    assert float(masked[there, centre]) == 0.5 * float(image[there, centre])
