"""The page of a refined population."""

from types import SimpleNamespace

import numpy as np

from halfmap.jobs.population_refine_report import _curve, series_sections
from halfmap.report.blocks import Axis


def _outcome(**of):
    nothing = {"is_changed": True, "reason": "", "movies": (), "concerns": (), "gauges": (), "species": ()}
    return SimpleNamespace(objective_before=9.0, objective_after=2.0, n_effective=3.25, **(nothing | of))


def _sections(outcomes, names, species=()):
    tasks = [
        SimpleNamespace(
            item=SimpleNamespace(name=name), source=SimpleNamespace(source=SimpleNamespace(name="tilts")),
            n_particles=7, schedule=SimpleNamespace(objective="likelihood"),
        )
        for name in names
    ]  # fmt: skip
    work = SimpleNamespace(tasks=tasks, set_aside=(), opened=SimpleNamespace(species=species))
    return series_sections(work, SimpleNamespace(outcomes=outcomes, rejected={}, optics=()))


def test_sentences_about_series_have_a_table_of_their_own():
    long = "One of the images is too faint to be placed. " * 8
    outcome = _outcome(is_changed=False, reason="nothing got better", concerns=(long,))
    numbers, remarks = _sections({0: outcome}, ("TS_1", "TS_2"))[0].blocks
    assert numbers.rows == [("TS_1", "tilts", 7, 7.0, 3.2), ("TS_2", "tilts", 7, None, None)]
    assert remarks.rows == [("TS_1", "nothing got better"), ("TS_1", long), ("TS_2", "not refined")]


def test_histograms_of_poses_are_of_particles_that_have_a_say():
    changed = SimpleNamespace(
        names=("turn x[0]", "defocus"), units=("rad", "Å"), change=np.array([[0.01, 30.0], [0.0, 0.0]]),
        deviation=np.array([[0.02, 50.0], [1.0, 9000.0]]), n_images=np.array([5, 0]),
    )  # fmt: skip
    outcome = _outcome(species=(changed,), is_changed=False)
    ribosome = SimpleNamespace(species=SimpleNamespace(name="ribosome"))
    particles = _sections({0: outcome}, ("TS_1",), (ribosome,))[-1]
    assert [block.title for block in particles.blocks] == ["ribosome: turn about each axis", "ribosome: defocus"]
    assert particles.blocks[1].x.limits == (-50.0, 50.0)


def test_both_bounds_of_a_parameter_are_one_line_with_one_name():
    x = np.array([-3.0, 0.0, 3.0])
    curve = _curve("defocus", "Å", x, Axis(label="tilt"), np.zeros((3, 1)), np.full((3, 1), 5.0), np.full((3, 1), 2.0))
    after, before, bounds = curve.lines
    np.testing.assert_array_equal([after.y, before.y], [[5, 5, 5], [0, 0, 0]])
    assert bounds.label == "± standard deviation of a node"
    np.testing.assert_array_equal(bounds.y, [7, 7, 7, np.nan, 3, 3, 3])
