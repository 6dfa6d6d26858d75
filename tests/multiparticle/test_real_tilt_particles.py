"""40 real ribosomes of tilt series at their given poses: conventions turned round make their map worse."""

import pytest

from support import real_tilt_particles as real
from support.shared_data import ROOT, shared_data

COMPARED = slice(3, 12)
"""Shells of 128 to 32 Å."""


@pytest.fixture(scope="module")
def particles():
    shared_data(real.FOLDER)
    return real.read(ROOT)


def test_map_of_real_particles_is_a_ribosome(particles):
    shared_data("maps/ribosome70s_4v5a_96.mrc")
    found = real.reconstruct(particles)
    agreement, _ = real.best_agreement(found, real.ribosome(ROOT), real.POSE_OF_MODEL[None])
    assert agreement > 0.4  # the best of 1500 orientations of the map's mirror image reaches 0.25
    assert real.best_agreement(-found, real.ribosome(ROOT), real.POSE_OF_MODEL[None])[0] < 0.25  # particles are bright


@pytest.mark.parametrize(("change", "loss"), [("tilt sign", 0.15), ("axis sign", 0.05), ("transposed rotations", 0.2)])
def test_a_convention_turned_round_makes_halves_agree_less(particles, change, loss):
    right = float(real.half_map_fsc(particles)[COMPARED].mean())
    wrong = float(real.half_map_fsc(real.changed(particles, change))[COMPARED].mean())
    assert right > 0.4
    assert wrong < right - loss
