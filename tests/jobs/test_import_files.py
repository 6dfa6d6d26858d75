"""``halfmap import``: every kind of file ends as tables that the other commands read."""

import numpy as np
import pytest

import halfmap
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.jobs import registry
from halfmap.jobs.import_files import JOB
from support.particle_sets import a_particle_set
from support.projects import a_small_project
from support.shared_data import shared_data


@pytest.fixture
def small(tmp_path, monkeypatch):
    project = a_small_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return project


def log_of(result):
    return (result.folder / "run.log").read_text()


def write_cs(path, **fields):
    named = {name.replace("__", "/"): np.asarray(values) for name, values in fields.items()}
    array = np.zeros(len(named["uid"]), dtype=[(name, v.dtype, v.shape[1:]) for name, v in named.items()])
    for name, values in named.items():
        array[name] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        np.save(stream, array)
    return path


def a_cryosparc_project(root, sign=-1.0):
    """Write a stack and the two files of a refinement that uses it, as a project of cryoSPARC has them."""
    images = np.random.default_rng(3).normal(size=(4, 16, 16)).astype(np.float32)
    (root / "J3/extract").mkdir(parents=True)
    with mrc.StackWriter(
        root / "J3/extract/mic1_particles.mrc", ImageGrid(shape=(16, 16), pixel_size_angstrom=2.0)
    ) as w:
        w.write(images)
    uid = np.array([2**63 + 9, 5, 6, 7], dtype="u8")
    main = write_cs(
        root / "J9/cryosparc_P1_J9_004_particles.cs",
        uid=uid,
        alignments3D__pose=np.full((4, 3), 0.3, dtype="f4"),
        alignments3D__shift=np.ones((4, 2), dtype="f4"),
        alignments3D__split=np.array([0, 1, 0, 1], dtype="u4"),
        blob__path=np.full(4, b"J3/extract/mic1_particles.mrc"),
        blob__idx=np.arange(4, dtype="u4"),
        blob__shape=np.full((4, 2), 16, dtype="u4"),
        blob__psize_A=np.full(4, 2.0, dtype="f4"),
        blob__sign=np.full(4, sign, dtype="f4"),
    )
    passthrough = write_cs(
        root / "J9/P1_J9_passthrough_particles.cs",
        uid=uid[::-1].copy(),
        ctf__df1_A=np.array([4, 3, 2, 1], dtype="f4") * 1000,
        ctf__df2_A=np.array([4, 3, 2, 1], dtype="f4") * 900,
    )
    return main, passthrough, images


def test_cryosparc_particles_come_with_their_passthrough_and_bright_images(tmp_path, monkeypatch):
    main, passthrough, images = a_cryosparc_project(tmp_path / "sparc")
    here = tmp_path / "here"
    (here / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(here)
    result = halfmap.import_files(files=(main, passthrough), pixel_size_angstrom=1.0, workers=1)
    assert result.folder == here / "Import/job001"
    particles = relion.read_particles(result.main_output)
    assert particles["defocus_u_angstrom"].tolist() == [1000, 2000, 3000, 4000]
    assert particles["random_subset"].tolist() == [1, 2, 1, 2]
    assert particles["cryosparcUid"].tolist() == [str(2**63 + 9), "5", "6", "7"]
    assert particles.uid.tolist() == [9, 5, 6, 7]  # cryoSPARC's without the highest of 64 bits
    assert particles.optics["micrograph_pixel_size_angstrom"].tolist() == [1.0]
    source = mrc.StackSource(particles["image_name"], here)
    np.testing.assert_array_equal(source.read(np.arange(4)), -images)
    assert particles["image_name"][0].startswith("000001@Import/job001/Particles/")
    assert "cryoSPARC metadata" in log_of(result)
    assert "Inverted copies" in log_of(result)


def test_cryosparc_stacks_are_left_alone_when_bright_or_when_asked(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    main, _, _ = a_cryosparc_project(tmp_path)
    kept = halfmap.import_files(files=(main,), invert_contrast=False, workers=1)
    assert relion.read_particles(kept.main_output)["image_name"][0] == "000001@J3/extract/mic1_particles.mrc"
    assert "dark in these stacks" in log_of(kept)
    bright, _, _ = a_cryosparc_project(tmp_path / "other", sign=1.0)
    (tmp_path / "other/.halfmap").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    result = halfmap.import_files(files=(bright,), workers=1)
    assert relion.read_particles(result.main_output)["image_name"][0] == "000001@J3/extract/mic1_particles.mrc"
    assert not (result.folder / "Particles").exists()


def test_a_real_cryosparc_file_is_imported_without_its_images(tmp_path, monkeypatch):
    path = shared_data("particles/cryodrgn_tests/cryosparc_P12_J24_001_particles.cs")
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    result = halfmap.import_files(files=(path,))
    particles = relion.read_particles(result.main_output)
    assert len(particles) == 2019
    assert "Images could not be found" in log_of(result)
    again = halfmap.import_files(files=(result.main_output,))
    np.testing.assert_array_equal(relion.read_particles(again.main_output).uid, particles.uid)


def test_cryosparc_picks_and_micrographs_become_tables_of_their_own(small):
    name = b"Micrographs/mic1.mrc"
    picks = write_cs(
        small.root / "J4/picked.cs",
        uid=np.array([1, 2], dtype="u8"),
        location__micrograph_path=np.full(2, name),
        location__micrograph_shape=np.full((2, 2), (200, 240), dtype="u4"),
        location__center_x_frac=np.array([0.5, 0.25], dtype="f4"),
        location__center_y_frac=np.array([0.5, 0.25], dtype="f4"),
        pick_stats__ncc_score=np.array([0.5, 0.75], dtype="f4"),
    )
    result = halfmap.import_files(files=(picks,), y_origin="first-row")
    found = relion.read_autopick(result.main_output, small.root)
    assert found.micrographs == (name.decode(),)
    np.testing.assert_allclose(found.position_pixel, [[120, 100], [60, 50]])
    np.testing.assert_allclose(found.figure_of_merit, [0.5, 0.75])
    micrographs = write_cs(
        small.root / "J5/mics.cs",
        uid=np.array([1], dtype="u8"),
        micrograph_blob__path=np.array([name]),
        micrograph_blob__psize_A=np.array([2.0], dtype="f4"),
        ctf__df1_A=np.array([9000], dtype="f4"),
    )
    result = halfmap.import_files(files=(micrographs,))
    assert result.main_output.name == "micrographs.star"
    assert relion.read_micrographs(result.main_output)["defocus_u_angstrom"].tolist() == [9000]


def test_leopard_particles_come_with_their_micrographs_and_can_be_extracted(tmp_path, monkeypatch):
    folder = shared_data("oracles/leopard12")
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    result = halfmap.import_files(files=(folder / "refined_leopard.csv",))
    assert "Leopard-EM particles" in log_of(result)
    particles = relion.read_particles(result.main_output)
    assert len(particles) == 30
    assert particles["micrograph_name"][0] == str(folder / "micrograph.mrc")
    extracted = halfmap.extract(
        micrographs=result.folder / "micrographs.star", picks=result.main_output, box_pixel=64, workers=1
    )
    images = relion.read_particles(extracted.main_output)
    np.testing.assert_array_equal(np.sort(images.uid), np.sort(particles.uid))


def test_topaz_coordinates_are_scaled_and_find_their_micrographs(small):
    path = small.root / "picks.txt"
    path.write_text("image_name\tx_coord\ty_coord\tscore\nmic1\t10\t20\t1.5\nmic3\t5.5\t7\t-1\n")
    result = halfmap.import_files(files=(path,), micrographs=small.micrographs, scale=4)
    found = relion.read_autopick(result.main_output, small.root)
    assert result.main_output.name == "autopick.star"
    assert found.micrograph_name.tolist() == ["Micrographs/mic1.mrc", "Micrographs/mic3.mrc"]
    np.testing.assert_allclose(found.position_pixel, [[40, 80], [22, 28]])
    assert found.figure_of_merit.tolist() == [1.5, -1]
    with pytest.raises(InputError, match="--micrographs"):
        halfmap.import_files(files=(path,))
    path.write_text("image_name\tx_coord\ty_coord\nmic9\t10\t20\n")
    with pytest.raises(InconsistentDataError, match="mic9 must fit one micrograph"):
        halfmap.import_files(files=(path,), micrographs=small.micrographs)


def test_coordinate_files_of_several_kinds_are_imported_together(small):
    boxes, text = small.root / "mic1.coords", small.root / "mic2_pick.txt"
    boxes.write_text("10 20 64 64\n")
    text.write_text("x y\n30 40\n50 60\n")
    star = small.coordinates / "mic3_pick.star"
    result = halfmap.import_files(files=(boxes, text, star), micrographs=small.micrographs)
    found = relion.read_autopick(result.main_output, small.root).by_micrograph()
    assert {name: len(rows) for name, rows in found.items()} == {
        "Micrographs/mic1.mrc": 1,
        "Micrographs/mic2.mrc": 2,
        "Micrographs/mic3.mrc": 6,
    }
    assert "EMAN boxes" in log_of(result)
    extracted = halfmap.extract(micrographs=small.micrographs, picks=result.main_output, box_pixel=32, workers=1)
    assert len(relion.read_particles(extracted.main_output)) == 9
    with pytest.raises(InputError, match="--micrographs"):
        halfmap.import_files(files=(boxes,))


def test_relion_tables_of_another_project_are_taken_over(small, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / ".halfmap").mkdir(parents=True)
    made = halfmap.pick_log(
        micrographs=small.micrographs, min_diameter_angstrom=30, max_diameter_angstrom=60, workers=1
    )
    monkeypatch.chdir(here)
    micrographs = relion.read_micrographs(halfmap.import_files(files=(small.micrographs,)).main_output)
    assert all((here / name).is_file() for name in micrographs["micrograph_name"])
    picks = halfmap.import_files(files=(made.main_output,), micrographs=small.micrographs)
    assert len(relion.read_autopick(picks.main_output, here)) == len(relion.read_autopick(made.main_output, small.root))


def test_species_of_m_need_a_pixel_size(small):
    path = small.root / "s_particles.star"
    path.write_text(
        "data_\n\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n_wrpCoordinateZ1\n_wrpSourceName\n10 20 30 a.tomostar\n"
    )
    with pytest.raises(InputError, match="--pixel-size"):
        halfmap.import_files(files=(path,))
    particles = relion.read_particles(halfmap.import_files(files=(path,), pixel_size_angstrom=2.0).main_output)
    assert particles["position_pixel"].tolist() == [[5, 10]]


def test_what_does_not_go_together_is_refused(small):
    relion.write_particles("p.star", a_particle_set(n=2))
    relion.write_particles("q.star", a_particle_set(n=2))
    with pytest.raises(InputError, match="one at a time"):
        halfmap.import_files(files=("p.star", "q.star"))
    with pytest.raises(InputError, match="must be of one kind"):
        halfmap.import_files(files=("p.star", small.micrographs))
    relion.write_particles("empty.star", a_particle_set(n=2).take([]))
    with pytest.raises(InputError, match="must have rows"):
        halfmap.import_files(files=("empty.star",))
    masks = write_cs(small.root / "mask.cs", uid=np.array([1], dtype="u8"), map__path=np.array([b"m.mrc"]))
    with pytest.raises(FormatError, match=r"choose the \.cs file of particles"):
        halfmap.import_files(files=(masks,))


def test_the_command_import_is_the_function_import_files():
    assert "import_files" in halfmap.__all__
    assert registry.find("import").load() is JOB
