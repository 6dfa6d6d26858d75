"""3D classification as a step: recovery of classes, exact restarts, its end, clear refusals."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.io import star, states
from halfmap.io.relion_class3d_writer import write_class3d_run
from halfmap.refinement.class3d import class3d
from halfmap.refinement.class3d.params import Classification3DParams
from halfmap.refinement.class3d.state import Classification3DState
from halfmap.units import Length
from support.model_images import particles_of
from support.volume_images import Views, drawn_views_images, volumes

PIXEL = 5.0


@cache
def a_case(n, side=24, pixel_variance=0.02):
    """Return true maps, views, particles with their true poses, and images."""
    grid = ImageGrid.square(side, PIXEL)
    true = volumes(2, side, PIXEL, radius_angstrom=48.0, blob_angstrom=6.0, seed=5)
    views = Views(
        class_index=(keyed_random.uniform(1, "true classes", np.arange(n)) < 0.4).astype(np.int64),
        rotation=random_rotations(1, "truth", np.arange(n)),
        origin_angstrom=4.0 * keyed_random.normal(1, "true origins", np.arange(n), size=2),
    )
    particles = particles_of(n, grid, n_micrographs=3).with_columns(
        rotation=views.rotation.numpy(), origin_angstrom=views.origin_angstrom
    )
    images = drawn_views_images(true, particles, views, grid, noise.white_spectrum(grid, pixel_variance))
    return true, views, particles, images.numpy()


def params(**given):
    return Classification3DParams(
        **{
            "mask_diameter_angstrom": 100.0,
            "classes": 2,
            "initial_low_pass_angstrom": 40.0,
            "skip_alignment": True,
            "iterations": 12,
            **given,
        }
    )


def started(case, given, executor):
    true, _, particles, images = case
    grid = ImageGrid.square(images.shape[-1], PIXEL)
    problem = class3d.problem_of(particles, ArraySource(images=images, grid=grid), given, executor)
    mean = Volume(values=true.mean(0), grid=problem.volume_grid)
    return problem, class3d.start(problem, given, [mean])


def classified(case, given):
    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(case, given, executor)
        while not class3d.is_done(state):
            state = class3d.advance(problem, given, state, executor)
        return problem, state


def purity(state, views):
    """Return the share of particles in the class that most of their true class are in."""
    table = np.zeros((2, 2))
    np.add.at(table, (state.assignments.class_index, views.class_index), 1)
    return max(np.trace(table), np.trace(table[::-1])) / table.sum()


def test_particles_with_known_poses_part_by_what_they_show():
    case = a_case(300)
    _, state = classified(case, params())
    assert purity(state, case[1]) > 0.95
    assert sorted(state.maps.fractions.tolist())[0] == pytest.approx(0.4, abs=0.06)
    # poses stay as they were given
    assert np.array_equal(state.assignments.rotation, case[2]["rotation"])
    assert np.array_equal(state.assignments.origin_angstrom, case[2]["origin_angstrom"])


@pytest.mark.slow
def test_particles_part_while_they_are_searched_around_their_poses():
    case = a_case(300, pixel_variance=0.01)
    given = params(skip_alignment=False, local=True, healpix_order=2, offset_range=Length(2.0, in_pixels=True))
    _, state = classified(case, given)
    assert purity(state, case[1]) > 0.95


@pytest.mark.slow
def test_particles_part_while_all_poses_are_searched():
    """By filters of their own the class that first got fewer particles was the fainter, and emptied."""
    case = a_case(300, pixel_variance=0.01)
    given = params(skip_alignment=False, iterations=20, offset_range=Length(2.0, in_pixels=True))
    _, state = classified(case, given)
    assert purity(state, case[1]) > 0.9
    assert sorted(state.maps.fractions.tolist())[0] == pytest.approx(0.4, abs=0.1)


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path):
    given = params()

    def bits(state):
        kept = {name: values for name, values in state.history.items() if name != "seconds"}
        states.save(tmp_path / "bits.safetensors", replace(state, history=kept))
        return (tmp_path / "bits.safetensors").read_bytes()

    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(a_case(60), given, executor)
        for _ in range(2):
            state = class3d.advance(problem, given, state, executor)
        states.save(tmp_path / "saved.safetensors", state)
        loaded = states.load(tmp_path / "saved.safetensors", Classification3DState)
        one, other = (class3d.advance(problem, given, each, executor) for each in (state, loaded))
    assert bits(one) == bits(other)


@pytest.mark.parametrize(
    ("changed", "likelihood", "expected"),
    [
        ([0.2] * 14, list(range(-100, -86)), "running"),
        ([0.2] * 11 + [0.001] * 3, [-100.0] * 14, "converged"),
        ([0.2] * 11 + [0.001] * 3, list(range(-100, -86)), "running"),  # the likelihood still grows
        ([0.2] * 8 + [0.001] * 3, [-100.0] * 11, "running"),  # halves still take turns
        ([0.0] * 3, [-100.0] * 3, "running"),  # finer shells are still to come
        ([0.2] * 16, [-100.0] * 16, "iteration limit"),
    ],
)
def test_it_ends_when_nothing_changes(changed, likelihood, expected):
    history = {"changed_share": np.array(changed), "log_likelihood": np.array(likelihood, dtype=np.float64)}
    assert class3d.outcome(params(iterations=16), history) == expected


def test_halves_of_the_particles_take_turns_until_the_last_iterations_take_all():
    given = params(iterations=4)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(a_case(60), given, executor)
        looked_at = []
        while not class3d.is_done(state):
            before, state = state, class3d.advance(problem, given, state, executor)
            looked_at.append(state.assignments.log_likelihood != before.assignments.log_likelihood)
    assert [int(one.sum()) for one in looked_at] == [30, 30, 30, 60]
    likelihood = state.history["log_likelihood"]  # of all particles, also where half of them were looked at
    assert likelihood[0] == pytest.approx(likelihood[-1], rel=0.1)
    assert likelihood[-1] == pytest.approx(state.assignments.log_likelihood.sum())
    assert not (looked_at[0] & looked_at[1]).any()
    assert (looked_at[0] == looked_at[2]).all()


def test_few_particles_give_every_class_a_first_map():
    """Half of 9 particles, drawn into 8 classes, left some without any, and the job ended there."""
    _, state = classified(a_case(9), params(classes=8, iterations=2))
    assert state.outcome == "iteration limit"
    assert (state.assignments.class_index >= 0).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 11), ({"iterations": 25}, 12), ({"iterations": 1}, 0), ({"classes": 1}, 0), ({"skip_alignment": False}, 0)],
)
def test_turns_are_taken_where_poses_are_known(given, expected):
    assert class3d.n_turns(params(**given)) == expected


@pytest.mark.parametrize(
    ("smallest", "expected"),
    [
        ([], True),
        ([0.48, 0.4, 0.26], True),
        ([0.48, 0.3, 0.24], False),
        ([0.48, 0.2, 0.3], False),  # for good
        ([0.48] * 11, False),
    ],
)
def test_turns_end_before_they_take_the_smaller_class_all_that_it_has(smallest, expected):
    """Of 400 particles, a fifth of them of the second structure, twelve turns left one class none."""
    assert class3d.takes_turns(params(), {"smallest_fraction": np.array(smallest)}) == expected


@pytest.mark.parametrize(
    ("changed", "skip_alignment", "expected"),
    [
        ([], True, 0),
        ([np.nan], True, 0),
        ([np.nan, 0.3, 0.1, 0.08], True, 2),  # never settled: every second iteration
        ([np.nan, 0.02, 0.01, 0.0], True, 3),  # settled: every iteration after the first
        ([np.nan, 0.3, 0.1, 0.08], False, 4),
    ],
)
def test_finer_shells_join_when_classes_of_known_poses_have_settled(changed, skip_alignment, expected):
    assert class3d.n_steps(params(skip_alignment=skip_alignment), {"changed_share": np.array(changed)}) == expected
    assert class3d.n_steps(params(), {}) == 0


def test_files_name_one_another_and_every_class(tmp_path):
    problem, state = classified(a_case(60), params(iterations=2))
    run = class3d.finish(problem, params(iterations=2), state)
    data = write_class3d_run(tmp_path, "run", run)
    assert data.name == "run_it002_data.star"
    model = star.read(tmp_path / "run_it002_model.star")
    assert model["model_general"].text("rlnNrClasses")[0] == "2"
    names = model["model_classes"].text("rlnReferenceImage")
    assert [name.rsplit("/", 1)[-1] for name in names] == ["run_it002_class001.mrc", "run_it002_class002.mrc"]
    assert np.allclose(model["model_classes"].numbers("rlnClassDistribution").sum(), 1.0)
    assert "rlnSsnrMap" in model["model_class_2"]
    optimiser = star.read(tmp_path / "run_it002_optimiser.star")["optimiser_general"]
    assert optimiser.text("rlnModelStarFile")[0].endswith("run_it002_model.star")
    assert optimiser.text("rlnDoSkipAlign")[0] == "1"
    rows = star.read(data)["particles"]
    assert set(rows.text("rlnClassNumber")) <= {"1", "2"}


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="--local must not go with --skip-alignment"):
        params(local=True)
    with pytest.raises(InputError, match="--max-resolution must be finer"):
        params(max_resolution_angstrom=50.0)
    true, _, particles, images = a_case(60)
    grid = ImageGrid.square(24, PIXEL)
    with InProcessExecutor(n_threads=1) as executor:
        source = ArraySource(images=images, grid=grid)
        with pytest.raises(InputError, match="must have angles"):
            class3d.problem_of(particles.without_columns("rotation"), source, params(), executor)
        problem = class3d.problem_of(particles, source, params(classes=3), executor)
        maps = [Volume(values=one, grid=problem.volume_grid) for one in true]
        with pytest.raises(InputError, match="one reference, or one for each of 3 classes; got 2"):
            class3d.start(problem, params(classes=3), maps)
        other = Volume(values=torch.zeros((20, 20, 20)), grid=ImageGrid.cubic(20, PIXEL))
        with pytest.raises(InputError, match="must be on the maps' grid"):
            class3d.start(problem, params(classes=3), [other])
