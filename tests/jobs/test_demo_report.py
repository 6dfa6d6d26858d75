import numpy as np

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.jobs.demo_report import NOTHING, kinds

OPTICS = OpticsGroups(columns={"optics_group": np.array([1])})


def particles(micrographs, positions, **columns):
    return ParticleSet(
        columns={
            "uid": np.arange(1, len(positions) + 1),
            "optics_group": np.ones(len(positions), dtype=np.int64),
            "micrograph_name": np.array(micrographs, dtype=object),
            "position_pixel": np.array(positions, dtype=np.float64),
            **{name: np.array(values, dtype=object) for name, values in columns.items()},
        },
        optics=OPTICS,
    )


def test_particles_are_what_lies_nearest_in_their_own_micrograph():
    truth = particles(
        ["a", "a", "b"],
        [(10, 10), (100, 50), (10, 10)],
        halfmapKind=["particle", "broken", "aggregate"],
    )
    found = particles(["a", "a", "b", "b"], [(103, 46), (12, 9), (9, 12), (100, 50)])
    assert kinds(found, truth, distance_pixel=6.0).tolist() == ["broken", "particle", "aggregate", NOTHING]


def test_one_true_particle_is_not_counted_twice():
    truth = particles(["a"], [(10, 10)], halfmapKind=["particle"])
    found = particles(["a", "a"], [(10, 10), (12, 10)])
    assert sorted(kinds(found, truth, distance_pixel=6.0)) == sorted(["particle", NOTHING])


def test_a_micrograph_without_truth_holds_nothing():
    truth = particles(["a"], [(10, 10)], halfmapKind=["particle"])
    assert kinds(particles(["b"], [(10, 10)]), truth, distance_pixel=6.0).tolist() == [NOTHING]
