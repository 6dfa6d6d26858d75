"""cisTEM's tables: labels and units of its own writer, and nothing lost on the way and back."""

from dataclasses import replace

import numpy as np
import pytest

from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.io import cistem, star
from support.particle_sets import a_particle_set


def test_particles_come_back_as_they_went(tmp_path):
    before = a_particle_set(n=6, n_optics_groups=2, phase_shift_degrees=np.linspace(0, 90, 6))
    cistem.write_particles(tmp_path / "p.star", before, stack_name="Export/job001/particles.mrc")
    after = cistem.read_particles(tmp_path / "p.star")
    for name in ("class_number", "random_subset", "optics_group"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in ("origin_angstrom", "defocus_u_angstrom", "defocus_angle_degrees"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    np.testing.assert_allclose(after["rotation"], before["rotation"], atol=1e-7)
    np.testing.assert_allclose(after["phase_shift_degrees"], before["phase_shift_degrees"], atol=1e-4)
    assert after["image_name"][5] == "000006@Export/job001/particles.mrc"
    assert after["micrograph_name"].tolist() == before["micrograph_name"].tolist()
    for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "pixel_size_angstrom"):
        np.testing.assert_allclose(after.optics[name], before.optics[name])


def test_shifts_say_where_the_particle_is_and_phase_shifts_are_radians(tmp_path):
    particles = a_particle_set(
        n=1, origin_angstrom=np.array([[2.0, -3.0]]), phase_shift_degrees=np.array([90.0]), log_likelihood=[12.5]
    )
    cistem.write_particles(tmp_path / "p.star", particles, stack_name="s.mrc")
    table = star.read(tmp_path / "p.star").tables[0]
    assert (table.value("cisTEMXShift"), table.value("cisTEMYShift")) == ("-2.000000", "3.000000")
    assert table.value("cisTEMPhaseShift") == "1.570796"
    assert table.value("cisTEMLogP") == "12.500000"
    assert table.labels[:4] == ("cisTEMPositionInStack", "cisTEMAnglePsi", "cisTEMAngleTheta", "cisTEMAnglePhi")


def test_a_table_of_2d_classification_needs_the_stack_named(tmp_path):
    path = tmp_path / "classes.star"
    path.write_text(
        "data_\n\nloop_\n_cisTEMPositionInStack #1\n_cisTEMAnglePsi #2\n_cisTEMXShift #3\n_cisTEMYShift #4\n"
        "_cisTEMBest2DClass #5\n#  POS PSI SHX SHY 2DCLS\n1 90 1 2 3\n2 0 0 0 0\n"
    )
    with pytest.raises(InconsistentDataError, match="stack"):
        cistem.read_particles(path)
    particles = cistem.read_particles(path, stack_name="combined_stack.mrcs")
    assert particles["class_number"].tolist() == [3, 0]
    np.testing.assert_allclose(particles["rotation"][0], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(particles["origin_angstrom"][0], [-1, -2])


def test_what_is_missing_is_named(tmp_path):
    bare = ParticleSet(columns={"image_name": np.array(["1@a.mrcs"], dtype=object)})
    with pytest.raises(InconsistentDataError, match="defocus_u_angstrom"):
        cistem.write_particles(tmp_path / "p.star", bare, stack_name="s.mrc")
    path = tmp_path / "other.star"
    path.write_text("data_\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
    with pytest.raises(FormatError, match="cisTEMPositionInStack"):
        cistem.read_particles(path)


def test_particles_without_images_say_where_they_lie_in_the_micrograph(tmp_path):
    particles = a_particle_set(n=2, position_pixel=np.array([[10.0, 20.5], [0.0, 3.0]]))
    particles = replace(particles, optics=particles.optics.with_columns(micrograph_pixel_size_angstrom=2.0))
    cistem.write_particles(tmp_path / "p.star", particles, stack_name=None)
    table = star.read(tmp_path / "p.star").tables[0]
    assert "cisTEMStackFilename" not in table
    assert table.numbers("cisTEMOriginalXPosition").tolist() == [20.0, 0.0]
    assert table.numbers("cisTEMOriginalYPosition").tolist() == [41.0, 6.0]
