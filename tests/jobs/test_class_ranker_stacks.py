import numpy as np
import pytest

from halfmap.classification.ranking.structures import TRAINING_SPECIMENS
from halfmap.jobs.class_ranker_stacks import Structure, examples_of, groups_of

SETTINGS = {"n_stacks": 3, "most_particles": 160, "most_iterations": 3, "seed": 5}


def a_group():
    return groups_of([Structure(name="compact-d2-100-27"), Structure(name="barrel-c3-120-82")], **SETTINGS)[0]


@pytest.fixture(scope="module")
def examples():
    return examples_of(a_group())


def test_structures_of_like_size_share_a_group_and_each_is_in_one():
    groups = groups_of([Structure(name=name) for name in TRAINING_SPECIMENS], **SETTINGS, first=7)
    assert [group.number for group in groups] == list(range(7, 7 + len(groups)))
    names = [structure.name for group in groups for structure in group.structures]
    assert sorted(names) == sorted(TRAINING_SPECIMENS)
    for group in groups:
        sizes = [structure.nominal_diameter_angstrom for structure in group.structures]
        assert max(sizes) <= 1.35 * min(sizes)


def test_names_tell_symmetry_and_size_of_specimens():
    assert Structure(name="barrel-d7-210-92").symmetry == "D7"
    assert Structure(name="betagal-like-d2-180").symmetry == "D2"
    assert Structure(name="ferritin-like-o-130").nominal_diameter_angstrom == 130


def test_stacks_show_the_first_the_second_and_both(examples):
    shown = {number: set(examples.structures[examples.stack == number]) for number in np.unique(examples.stack)}
    assert shown == {
        0: {"compact-d2-100-27"},
        1: {"barrel-c3-120-82"},
        2: {"compact-d2-100-27, barrel-c3-120-82"},
    }
    assert set(examples.group) == {0}


def test_every_class_with_particles_is_an_example(examples):
    assert (examples.n_particles > 0).all()
    counts = [examples.n_particles[examples.stack == number].sum() for number in range(3)]
    assert all(80 <= count <= 160 for count in counts)
    assert ((examples.purity >= 0) & (examples.purity <= 1)).all()
    assert (np.abs(examples.frc) <= 1).all()
    assert examples.is_pure.any()


@pytest.mark.slow
def test_the_same_group_gives_the_same_examples(examples):
    again = examples_of(a_group())
    for name in ("images", "features", "purity", "frc", "n_particles"):
        np.testing.assert_array_equal(getattr(again, name), getattr(examples, name))
