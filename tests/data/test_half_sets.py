"""Half-sets share nothing, whatever is added or taken away."""

import numpy as np
import pytest

from halfmap.data.half_sets import HalfSets, with_random_subsets
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from support.particle_sets import a_particle_set


def unassigned(n, **columns):
    return a_particle_set(n, **columns).without_columns("random_subset")


def test_halves_hold_every_particle_once():
    halves = HalfSets(particles=with_random_subsets(unassigned(100), seed=1))
    uids = np.concatenate([half.uid for half in halves.halves])
    assert len(halves.first) + len(halves.second) == 100
    assert set(uids) == set(halves.particles.uid)
    assert set(halves.first["random_subset"]) == {1}


def test_a_particle_keeps_its_half_in_any_selection():
    particles = unassigned(200)
    whole = with_random_subsets(particles, seed=4)
    part = with_random_subsets(particles.take(np.arange(199, 0, -3)), seed=4)
    assert part["random_subset"].tolist() == whole.select_uids(part.uid)["random_subset"].tolist()


def test_halves_are_of_about_one_size():
    subset = with_random_subsets(unassigned(10_000), seed=0)["random_subset"]
    assert abs((subset == 1).sum() - 5000) < 4 * 50  # four standard deviations of a fair coin


def test_another_seed_gives_other_halves():
    first, second = (with_random_subsets(unassigned(100), seed)["random_subset"] for seed in (1, 2))
    assert (first != second).any()


def test_halves_given_by_the_file_are_kept():
    given = np.array([2, 2, 1, 0, 0, 0])
    subset = with_random_subsets(a_particle_set(6, random_subset=given), seed=1)["random_subset"]
    assert subset[:3].tolist() == [2, 2, 1]
    assert set(subset[3:]) <= {1, 2}


def test_tilts_of_a_particle_share_their_half():
    uid = np.repeat(np.arange(1, 51), 4)
    subset = with_random_subsets(unassigned(200, uid=uid), seed=1)["random_subset"].reshape(50, 4)
    assert (subset == subset[:, :1]).all()


def test_rows_of_one_image_share_their_half():
    names = np.repeat([f"{k}@s.mrcs" for k in range(50)], 2)
    subset = with_random_subsets(unassigned(100, image_name=names), seed=1)["random_subset"].reshape(50, 2)
    assert (subset[:, 0] == subset[:, 1]).all()


def test_a_new_tilt_follows_the_half_given_to_its_particle():
    for half in (1, 2):
        particles = a_particle_set(3, uid=[9, 9, 9], random_subset=[0, half, 0])
        assert with_random_subsets(particles, seed=1)["random_subset"].tolist() == [half] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"random_subset": [1, 2, 0, 2]}, "must be 1 or 2; got 0 for 1 of 4"),
        ({"random_subset": [1, 1, 1, 1]}, "must have particles; got 4 and 0"),
        ({"random_subset": [1, 2, 1, 2], "uid": [1, 1, 2, 3]}, "got 1 values of uid in both, for example 1"),
        (
            {"random_subset": [1, 2, 1, 2], "image_name": ["1@a", "1@a", "2@a", "3@a"]},
            "got 1 values of image_name in both, for example 1@a",
        ),
    ],
)
def test_halves_that_are_incomplete_or_share_a_particle_are_refused(columns, message):
    with pytest.raises(InconsistentDataError, match=message):
        HalfSets(particles=a_particle_set(4, **columns))


def test_particles_without_halves_are_refused():
    with pytest.raises(InconsistentDataError, match="must have the column random_subset"):
        HalfSets(particles=unassigned(4))


def test_an_empty_set_gets_no_halves():
    assert len(with_random_subsets(ParticleSet(columns={"uid": np.zeros(0)}), seed=1)) == 0
