"""Refinement of a series from whole images: recovery, streaming, and what is refused or left as it was."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from halfmap.data.image_source import ArraySource
from halfmap.errors import InconsistentDataError, InputError
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import refine_series
from halfmap.multiparticle.schedule import Schedule
from support.tilt_windows import EVERYTHING, as_problem, as_recorded, scene, tilt_series, warped_and_defocused

SCHEDULE = Schedule(sub_iterations=2, steps=2, ctf_resolution_angstrom=30.0)


@pytest.fixture(scope="module")
def drawn():
    return scene(n=8, n_tilts=5, box=64, snr=0.05, true_series=warped_and_defocused(tilt_series(5)))


@pytest.fixture(scope="module")
def problem(drawn):
    return as_problem(drawn, as_recorded(drawn))


@pytest.fixture(scope="module")
def result(problem):
    return refine_series(problem, EVERYTHING, schedule=SCHEDULE)


def _errors(drawn, series, species):
    state = dataclasses.replace(
        drawn.start[1],
        position_angstrom=torch.from_numpy(species.position_angstrom),
        rotation=torch.from_numpy(species.rotation),
    )
    return drawn.errors(dataclasses.make_dataclass("Place", ["series", "species"])(series, (state,)))


def test_a_series_is_refined_from_its_images(drawn, problem, result):
    found = result.species[0]
    before = _errors(drawn, problem.series, problem.species[0].particles)
    after = _errors(drawn, result.series, found)
    assert result.is_changed
    assert before[0] > 4.5
    assert before[1] > 4.0
    assert after[0] < 1.8  # degrees; error bars of 8 particles in 5 tilts
    assert after[1] < 1.2  # Å
    assert after[2] < 500  # Å
    assert result.objective_after < result.objective_before
    assert found.n_images.tolist() == [5] * 8
    assert (found.gain > 50).all()
    # the noise is known to a few percent from the windows of 8 particles
    assert found.chi2_per_component == pytest.approx(np.ones(8), abs=0.1)


def test_the_result_names_every_parameter_with_its_change_and_error_bar(problem, result):
    assert len(result.names) == len(result.units) == len(result.change) == len(result.deviation) == 2 * 5 * 4 + 5
    found = result.species[0]
    assert found.names == ("position x[0]", "position y[0]", "position z[0]", "turn x[0]", "turn y[0]", "turn z[0]")
    assert found.change.shape == found.deviation.shape == (8, 6)
    assert (found.deviation > 0).all()
    # a particle's turn as a whole is what its change says, since all steps are small
    turned = angular_distance_degrees(
        torch.from_numpy(problem.species[0].particles.rotation[:, 0]), torch.from_numpy(found.rotation[:, 0])
    )
    assert turned.numpy() == pytest.approx(np.rad2deg(np.linalg.norm(found.change[:, 3:], axis=1)), abs=0.2)
    assert any("image warp" in gauge for gauge in result.gauges)


def test_without_memory_images_are_cut_again_with_the_same_result(problem, result):
    again = refine_series(problem, EVERYTHING, schedule=SCHEDULE, memory_bytes=0)
    assert np.array_equal(again.change, result.change)
    assert np.array_equal(again.species[0].rotation, result.species[0].rotation)


def test_a_problem_and_its_result_can_be_sent_elsewhere(problem, result):
    assert len(pickle.loads(pickle.dumps(problem)).species) == 1
    assert pickle.loads(pickle.dumps(result)).objective_after == result.objective_after


def test_a_species_without_particles_takes_no_part(problem, result):
    empty = dataclasses.replace(
        problem.species[0], name="absent", particles=problem.species[0].particles.take(np.zeros(8, dtype=bool))
    )
    both = dataclasses.replace(problem, species=(empty, problem.species[0]))
    found = refine_series(both, EVERYTHING, schedule=SCHEDULE)
    assert found.species[0] is None
    assert np.array_equal(found.species[1].rotation, result.species[0].rotation)


def test_a_series_of_one_tilt_is_refined(drawn, problem):
    series, state = drawn.start
    middle = slice(2, 3)
    one = series.with_values(
        dose_e_per_angstrom2=series.dose_e_per_angstrom2[middle],
        is_used=series.is_used[middle],
        tilt_angle_degrees=series.tilt_angle_degrees[middle],
        axis_angle_degrees=series.axis_angle_degrees[middle],
        axis_offset_angstrom=series.axis_offset_angstrom[middle],
        defocus_angstrom=series.defocus_angstrom.resized((1, 1, 1)),
        movement_x_angstrom=series.movement_x_angstrom.resized((1, 2, 2)),
        movement_y_angstrom=series.movement_y_angstrom.resized((1, 2, 2)),
    )
    images = ArraySource(images=problem.images.read([2]), grid=problem.images.grid)
    found = refine_series(dataclasses.replace(problem, series=one, images=images), EVERYTHING, schedule=SCHEDULE)
    assert found.is_changed
    assert np.isfinite(found.species[0].deviation).all()
    assert len(state.subset) == len(found.species[0].gain)


def test_nothing_chosen_leaves_the_series_as_it_is(problem):
    found = refine_series(problem, ParameterChoice(), schedule=SCHEDULE)
    assert not found.is_changed
    assert found.series is problem.series
    assert found.reason == "no step made the images likelier"
    assert np.array_equal(found.species[0].position_angstrom, problem.species[0].particles.position_angstrom)


def test_bad_series_are_named(problem):
    images = problem.images.read(range(5))
    broken = images.copy()
    broken[3, 0, 0] = np.nan
    for other, message in (
        (images[:2], "one image for each of its 5"),
        (broken, "must be finite"),
        (np.ones_like(images), "must show something"),
    ):
        source = ArraySource(images=other, grid=problem.images.grid)
        changed = dataclasses.replace(problem, images=source)
        with pytest.raises((InputError, InconsistentDataError), match=message):
            refine_series(changed, EVERYTHING)
    nobody = problem.species[0].particles.take(np.zeros(8, dtype=bool))
    species = (dataclasses.replace(problem.species[0], particles=nobody),)
    with pytest.raises(InputError, match="has none of the 1 species"):
        refine_series(dataclasses.replace(problem, species=species), EVERYTHING)


def test_images_without_use_or_particles_inside_are_refused(problem):
    unused = problem.series.with_values(is_used=np.zeros(5, dtype=bool))
    with pytest.raises(InputError, match="none of 8 in 0 used images of 5"):
        refine_series(dataclasses.replace(problem, series=unused), EVERYTHING)
    elsewhere = problem.species[0].particles.with_poses(
        problem.species[0].particles.position_angstrom + 1e5, problem.species[0].particles.rotation
    )
    species = (dataclasses.replace(problem.species[0], particles=elsewhere),)
    with pytest.raises(InputError, match="none of 8 in 5 used images of 5"):
        refine_series(dataclasses.replace(problem, species=species), EVERYTHING)
