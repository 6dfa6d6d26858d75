import numpy as np
import pytest

from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.io import relion, relion_3_0, star
from support.particle_sets import a_particle_set, some_optics


def test_particles_come_back_as_they_went_with_optics_in_every_row(tmp_path):
    before = a_particle_set(n=6, n_optics_groups=2)
    optics = some_optics(2).with_columns(voltage_kv=np.array([300.0, 200.0]), pixel_size_angstrom=np.array([1.5, 2.0]))
    before = ParticleSet(columns=before.columns, optics=optics)
    lost = relion_3_0.write_particles(tmp_path / "p.star", before)
    assert lost == ("micrograph_pixel_size_angstrom",)
    file = star.read(tmp_path / "p.star")
    assert file.names == ("images",)
    assert "rlnOriginXAngst" not in file["images"]
    assert "rlnOpticsGroup" not in file["images"]
    after = relion.read_particles(tmp_path / "p.star")
    np.testing.assert_array_equal(after.uid, before.uid)
    for name in ("origin_angstrom", "rotation", "position_pixel", "defocus_u_angstrom"):
        np.testing.assert_allclose(after[name], before[name], atol=3e-6)
    for name in ("voltage_kv", "pixel_size_angstrom", "spherical_aberration_mm", "amplitude_contrast"):
        np.testing.assert_allclose(after.optics_values(name), before.optics_values(name))


def test_what_a_file_said_in_the_new_layout_is_not_written_beside_the_old(tmp_path):
    relion.write_particles(tmp_path / "new.star", a_particle_set(n=3))
    relion_3_0.write_particles(tmp_path / "old.star", relion.read_particles(tmp_path / "new.star"))
    labels = star.read(tmp_path / "old.star")["images"].labels
    assert "rlnOriginX" in labels
    assert "rlnOriginXAngst" not in labels


def test_a_pixel_size_is_needed(tmp_path):
    bare = ParticleSet(columns={"image_name": np.array(["1@a.mrcs"], dtype=object)})
    with pytest.raises(InconsistentDataError, match="pixel size"):
        relion_3_0.write_particles(tmp_path / "p.star", bare)
