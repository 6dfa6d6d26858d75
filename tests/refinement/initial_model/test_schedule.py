"""What each mini-batch does, as tables."""

import itertools
import math

import pytest

from halfmap.errors import InputError
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import (
    SYMMETRIC_MINIBATCHES,
    class_trial,
    minibatch,
    n_iterations,
    total_visits,
)


def params(**given):
    return InitialModelParams(**{"mask_diameter_angstrom": 180.0, **given})


def test_symmetry_adds_minibatches_after_its_axes_are_found():
    assert n_iterations(params()) == 61
    assert n_iterations(params(symmetry="D2")) == 61 + SYMMETRIC_MINIBATCHES
    assert n_iterations(params(symmetry="D2", symmetry_from_start=True)) == 61
    assert n_iterations(params(symmetry="O")) == 61


def test_detail_grows_and_never_falls_back():
    run = params(symmetry="D2")
    details = [minibatch(run, i, 5000).resolution_angstrom for i in range(1, n_iterations(run) + 1)]
    assert details[0] == 40.0  # 180 / 4.5
    assert details[-1] == 15.0
    assert all(one >= next_one for one, next_one in itertools.pairwise(details))


def test_detail_begins_anew_where_classes_are_tried():
    run = params(classes=2)
    first, last = class_trial(run)
    details = [minibatch(run, i, 5000).resolution_angstrom for i in range(1, n_iterations(run) + 1)]
    assert (first, last) == (30, 45)
    assert details[first - 1] < 25.0
    assert 35.0 < details[first] <= 40.0  # 180 / 4.5
    assert all(one >= next_one for one, next_one in itertools.pairwise(details[first:]))
    assert details[-1] == 15.0


@pytest.mark.parametrize(
    ("n_particles", "classes", "first", "before_last"),
    [(100, 1, 100, 100), (800, 1, 200, 500), (20_000, 1, 200, 1000), (1_000_000, 1, 200, 2000), (20_000, 3, 600, 3000)],
)
def test_minibatches_grow_with_the_set_within_bounds(n_particles, classes, first, before_last):
    run = params(classes=classes)
    assert minibatch(run, 1, n_particles).n_particles == first
    assert minibatch(run, 60, n_particles).n_particles == before_last
    assert minibatch(run, 61, n_particles).n_particles == n_particles


def test_sums_are_forgotten_where_they_mean_nothing_any_more():
    run = params(symmetry="D3")
    forgets = [i for i in range(1, n_iterations(run) + 1) if minibatch(run, i, 5000).memory == 0]
    assert forgets == [1, 61, 71]  # drawn poses, axes found, all particles
    assert all(0.8 <= minibatch(run, i, 5000).memory <= 0.9 for i in range(2, 61))


@pytest.mark.parametrize("symmetry", ["T", "O", "I1"])
def test_nearly_round_particles_begin_with_symmetry_and_with_the_details_that_tell_rotations(symmetry):
    run = params(symmetry=symmetry, mask_diameter_angstrom=160.0)
    first, middle, last = (minibatch(run, i, 5000) for i in (1, 30, 60))
    assert first.has_symmetry
    assert first.resolution_angstrom == pytest.approx(160 / 8)
    assert middle.resolution_angstrom == pytest.approx(160 / 8)
    assert last.resolution_angstrom == pytest.approx(12.0)
    assert (middle.healpix_order, last.healpix_order) == (2, 3)
    for batch, fine_degrees in ((middle, 7.5), (last, 3.75)):
        assert math.radians(fine_degrees) * 80.0 < 0.55 * batch.resolution_angstrom
    # each mini-batch makes a map of its own, which is what lets the hand take double steps
    assert all(minibatch(run, i, 5000).memory == 0 for i in range(1, n_iterations(run) + 1))


def test_symmetry_is_imposed_from_where_it_was_asked_for():
    assert not minibatch(params(symmetry="D2"), 60, 800).has_symmetry
    assert minibatch(params(symmetry="D2"), 61, 800).has_symmetry
    assert minibatch(params(symmetry="D2", symmetry_from_start=True), 1, 800).has_symmetry
    assert not minibatch(params(), 61, 800).has_symmetry


def test_visits_are_those_of_all_minibatches():
    run = params(minibatches=10)
    assert total_visits(run, 300) == sum(minibatch(run, i, 300).n_particles for i in range(1, 12))


def test_detail_that_stays_is_that_of_all_minibatches():
    run = params(symmetry="O", resolution_angstrom=20.0, first_resolution_angstrom=20.0)
    assert {minibatch(run, i, 5000).resolution_angstrom for i in range(1, n_iterations(run) + 1)} == {20.0}


def test_detail_that_becomes_coarser_is_refused():
    with pytest.raises(InputError, match="--resolution must not be coarser than --first-resolution; got 30 and 20"):
        params(resolution_angstrom=30.0, first_resolution_angstrom=20.0)
