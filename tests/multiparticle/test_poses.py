"""A species may be turned, moved, expanded or resampled: what its particles show stays where it is."""

import numpy as np
import pytest

from halfmap.data.population import SpeciesParticles
from halfmap.errors import InputError
from halfmap.geometry import symmetry, symmetry_names
from halfmap.geometry.rotations import matrix_from_euler, random_rotations
from halfmap.multiparticle.poses import expanded, resampled, rotated, shifted


def particles(n: int = 3, samples: int = 2) -> SpeciesParticles:
    rotation = random_rotations(1, "poses", np.arange(n * samples)).reshape(n, samples, 3, 3).numpy()
    return SpeciesParticles(
        position_angstrom=np.arange(n * samples * 3, dtype=np.float64).reshape(n, samples, 3) ** 1.5,
        rotation=rotation,
        random_subset=np.arange(n) % 2 + 1,
        source_name=np.array(["TS_1.tomostar"] * n, dtype=object),
        source_hash=np.array(["h"] * n, dtype=object),
        uid=np.arange(n) + 1,
    )


def places(of: SpeciesParticles, point: np.ndarray) -> np.ndarray:
    """Where a point of the reference lies in the tomogram, for every particle and sample."""
    return of.position_angstrom + of.rotation @ point


POINT = np.array([30.0, -20.0, 10.0])


def test_a_turned_species_keeps_its_content_in_place():
    turn = matrix_from_euler(20.0, 40.0, 60.0).numpy()
    assert np.allclose(places(rotated(particles(), turn), turn @ POINT), places(particles(), POINT))


def test_a_moved_species_keeps_its_content_in_place_at_every_sample():
    centre = np.array([5.0, 7.0, -3.0])
    assert np.allclose(places(shifted(particles(), centre), POINT - centre), places(particles(), POINT))


@pytest.mark.parametrize(("group", "remaining"), [("C4", "C1"), ("D2", "C2"), ("O", "C4")])
def test_copies_of_a_particle_are_its_views_that_the_remaining_symmetry_tells_apart(group, remaining):
    before = particles()
    after = expanded(before, group=group, remaining=remaining)
    n = symmetry_names.order(group) // symmetry_names.order(remaining)
    assert after.uid.tolist() == np.repeat(before.uid, n).tolist()
    assert np.allclose(after.rotation[::n], before.rotation)
    # copies under the remaining group together are all views under the whole group
    views = (after.rotation[:n, 0][:, None] @ symmetry.operators(remaining).numpy()).reshape(-1, 9)
    wanted = (before.rotation[0, 0] @ symmetry.operators(group).numpy()).reshape(-1, 9)
    assert np.allclose(sorted(map(tuple, views.round(9))), sorted(map(tuple, wanted.round(9))), atol=1e-8)


def test_a_group_that_is_no_part_of_the_species_symmetry_is_refused():
    with pytest.raises(InputError, match="contained in C4"):
        expanded(particles(), group="C4", remaining="C3")


def test_resampled_trajectories_go_where_they_went():
    one, two = particles(samples=1), particles(samples=2)
    still = resampled(one, 3)
    assert np.allclose(still.position_angstrom, np.repeat(one.position_angstrom, 3, axis=1))
    assert np.allclose(still.rotation, np.repeat(one.rotation, 3, axis=1))
    line = resampled(two, 3)
    assert np.allclose(line.position_angstrom[:, 1], two.position_angstrom.mean(1))
    assert np.allclose(resampled(line, 2).rotation, two.rotation)
    assert np.allclose(resampled(two, 1).position_angstrom[:, 0], two.position_angstrom.mean(1))
