"""``halfmap export``, and the way back by ``halfmap import``."""

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from support.particle_sets import a_particle_set, some_optics
from support.projects import SHAPE, a_small_project


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Particles extracted from small micrographs, with poses."""
    small = a_small_project(tmp_path)
    monkeypatch.chdir(small.root)
    extracted = halfmap.extract(micrographs=small.micrographs, picks=small.coordinates, box_pixel=32, workers=1)
    particles = relion.read_particles(extracted.main_output)
    poses = a_particle_set(n=len(particles))
    particles = particles.with_columns(
        rotation=poses["rotation"], origin_angstrom=poses["origin_angstrom"], random_subset=poses["random_subset"]
    )
    relion.write_particles("posed.star", particles)
    return particles


def shared_columns_agree(before, after, *names, tolerance=1e-3):
    for name in names:
        np.testing.assert_allclose(after[name], before[name], atol=tolerance, err_msg=name)


@pytest.mark.parametrize("y_origin", ["last-row", "first-row"])
def test_cryosparc_and_back_loses_nothing_and_images_tell_where_positions_count_from(made, y_origin):
    exported = halfmap.export(particles="posed.star", to="cryosparc", y_origin=y_origin)
    assert exported.folder.parent.name == "Export"
    raw = np.load(exported.main_output)
    assert set(raw["blob/sign"]) == {1.0}
    assert raw["blob/path"][0].decode().startswith("/")
    assert {tuple(shape) for shape in raw["location/micrograph_shape"]} == {SHAPE}
    assert (exported.folder / "particles.csg").is_file()
    back = halfmap.import_files(files=(exported.main_output,), workers=1)
    assert f"from the {y_origin.removesuffix('-row')} stored row" in (back.folder / "run.log").read_text()
    after = relion.read_particles(back.main_output)
    np.testing.assert_array_equal(after.uid, made.uid)
    assert after["image_name"].tolist() == made["image_name"].tolist()
    assert after["micrograph_name"].tolist() == made["micrograph_name"].tolist()
    shared_columns_agree(made, after, "position_pixel", "origin_angstrom", "random_subset", "rotation")
    for name in ("pixel_size_angstrom", "micrograph_pixel_size_angstrom", "voltage_kv", "image_size_pixel"):
        np.testing.assert_allclose(after.optics[name], made.optics[name])


def test_cistem_gets_one_stack_in_the_order_of_the_table_and_it_comes_back(made):
    defocus = np.linspace(9000, 12000, len(made))
    columns = {
        "defocus_u_angstrom": defocus,
        "defocus_v_angstrom": defocus - 100,
        "defocus_angle_degrees": defocus / 200,
    }
    shuffled = made.with_columns(**columns).take(np.random.default_rng(1).permutation(len(made)))
    relion.write_particles("shuffled.star", shuffled)
    exported = halfmap.export(particles="shuffled.star", to="cistem")
    stack = mrc.map_data(exported.folder / "particles.mrc")
    source = mrc.StackSource(shuffled["image_name"], exported.folder.parents[1])
    np.testing.assert_array_equal(stack, source.read(np.arange(len(source))))
    after = relion.read_particles(halfmap.import_files(files=(exported.main_output,)).main_output)
    shared_columns_agree(shuffled, after, "origin_angstrom", "rotation", "random_subset", *columns)
    assert after["image_name"][3] == f"000004@{exported.folder.relative_to(exported.folder.parents[1])}/particles.mrc"


@pytest.mark.parametrize("layout", ["3.1", "3.0"])
def test_relion_gets_either_layout(made, layout):
    exported = halfmap.export(particles="posed.star", to="relion", relion_layout=layout)
    assert ("optics" in star.read(exported.main_output)) is (layout == "3.1")
    after = relion.read_particles(exported.main_output)
    np.testing.assert_array_equal(after.uid, made.uid)
    shared_columns_agree(made, after, "position_pixel", "origin_angstrom", "rotation", "random_subset")


def test_without_their_micrographs_particles_go_without_positions(made, tmp_path):
    (tmp_path / "Micrographs/mic1.mrc").rename(tmp_path / "elsewhere.mrc")
    exported = halfmap.export(particles="posed.star", to="cryosparc")
    assert "location/center_x_frac" not in np.load(exported.main_output).dtype.names
    assert "Positions are left out" in (exported.folder / "run.log").read_text()


def test_aberrations_that_are_left_out_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=1.5)
    with mrc.StackWriter(tmp_path / "stack.mrcs", grid, 3) as writer:
        writer.write(np.zeros((3, 64, 64)))
    optics = some_optics(1, beam_tilt_mrad=np.array([[0.3, 0.0]]), magnification_matrix=np.eye(2)[None])
    particles = a_particle_set(n=3)
    relion.write_particles("p.star", type(particles)(columns=particles.columns, optics=optics))
    exported = halfmap.export(particles="p.star", to="cistem")
    assert "Aberrations are left out: beam_tilt_mrad." in (exported.folder / "run.log").read_text()


def test_particles_without_images_or_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    relion.write_particles("bare.star", a_particle_set(n=3).without_columns("image_name"))
    with pytest.raises(InconsistentDataError, match="rlnImageName"):
        halfmap.export(particles="bare.star", to="cistem")
    relion.write_particles("empty.star", a_particle_set(n=3).take([]))
    with pytest.raises(InputError, match="got none"):
        halfmap.export(particles="empty.star", to="relion")
