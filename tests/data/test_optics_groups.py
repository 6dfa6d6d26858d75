"""Optics groups: equal ones unite, clashing numbers change, missing ones are named."""

import numpy as np
import pytest

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from support.particle_sets import a_particle_set, some_optics


def particles_with(optics: OpticsGroups, n: int = 4, stack: str = "s.mrcs") -> ParticleSet:
    columns = dict(a_particle_set(n, stack=stack).columns)
    columns["optics_group"] = optics.numbers[np.arange(n) % len(optics)]
    return ParticleSet(columns=columns, optics=optics)


def test_equal_groups_become_one():
    first, second = particles_with(some_optics(2)), particles_with(some_optics(2), stack="t.mrcs")
    joined = ParticleSet.concatenate([first, second])
    assert joined.optics.numbers.tolist() == [1, 2]
    assert joined["optics_group"].tolist() == [1, 2, 1, 2, 1, 2, 1, 2]


def test_equal_groups_with_different_numbers_become_one():
    second = some_optics(1).with_columns(optics_group=np.array([5]))
    joined = ParticleSet.concatenate([particles_with(some_optics(1), 2), particles_with(second, 2, "t.mrcs")])
    assert joined.optics.numbers.tolist() == [1]
    assert joined["optics_group"].tolist() == [1, 1, 1, 1]


def test_different_groups_with_one_number_are_renumbered_and_renamed():
    first = particles_with(some_optics(1), 2)
    second = particles_with(some_optics(1, voltage_kv=[200.0]), 2, "t.mrcs")
    joined = ParticleSet.concatenate([first, second])
    assert joined.optics.numbers.tolist() == [1, 2]
    assert joined.optics["name"].tolist() == ["opticsGroup1", "opticsGroup1_2"]
    assert joined.optics_values("voltage_kv").tolist() == [300.0, 300.0, 200.0, 200.0]


def test_values_of_every_particle_survive_a_tangle_of_numbers():
    voltages = ([300.0, 200.0, 120.0], [200.0, 300.0, 100.0])
    sets = [
        particles_with(
            some_optics(3, voltage_kv=values, name=[f"kv{value:g}" for value in values], optics_group=numbers),
            6,
            f"{values[0]}.mrcs",
        )
        for values, numbers in zip(voltages, ([1, 2, 3], [3, 1, 2]), strict=True)
    ]
    joined = ParticleSet.concatenate(sets)
    expected = np.concatenate([part.optics_values("voltage_kv") for part in sets])
    assert joined.optics_values("voltage_kv").tolist() == expected.tolist()
    assert sorted(joined.optics["voltage_kv"]) == [100.0, 120.0, 200.0, 300.0]


@pytest.mark.parametrize(("first", "second"), [(6, 9), (9, 6)])
def test_aberrations_of_different_order_unite(first, second):
    parts = [
        particles_with(some_optics(1, odd_zernike=np.ones((1, width)), name=[f"g{width}"]), 2, f"{width}.mrcs")
        for width in (first, second)
    ]
    joined = ParticleSet.concatenate(parts)
    assert joined.optics["odd_zernike"].sum(1).tolist() == [first, second]


def test_optics_tables_with_different_columns_are_not_joined_silently():
    first, second = some_optics(1), some_optics(1).without_columns("amplitude_contrast")
    with pytest.raises(InconsistentDataError, match="got amplitude_contrast in only some"):
        ParticleSet.concatenate([particles_with(first), particles_with(second, stack="t.mrcs")])


def test_particles_of_a_missing_group_are_named():
    with pytest.raises(InconsistentDataError, match=r"got number 4 for 1 rows, the table has \[1\]"):
        ParticleSet(columns={"uid": [1, 2], "optics_group": [1, 4]}, optics=some_optics(1))


def test_a_group_may_stand_only_once():
    with pytest.raises(InconsistentDataError, match="got number 1 more than once"):
        some_optics(2, optics_group=[1, 1])


def test_several_groups_need_a_column():
    with pytest.raises(InconsistentDataError, match="must have the column optics_group"):
        ParticleSet(columns={"uid": [1, 2]}, optics=some_optics(2))
    assert ParticleSet(columns={"uid": [1, 2]}, optics=some_optics(1))["optics_group"].tolist() == [1, 1]


def test_unused_groups_can_be_left_out():
    particles = a_particle_set(4, n_optics_groups=3).take([0, 3])
    assert particles.without_unused_optics().optics.numbers.tolist() == [1]
