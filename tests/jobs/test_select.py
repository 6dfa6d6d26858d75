import subprocess
import sys

import numpy as np
import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.io import relion
from support.particle_sets import a_particle_set
from support.projects import a_small_project


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    relion.write_particles("particles.star", a_particle_set(n=25))
    return relion.read_particles("particles.star")


def uids(path):
    return relion.read_particles(path).uid


def test_both_size_and_number_are_honoured_and_the_rest_is_written(table):
    result = halfmap.select_split(table="particles.star", size=10, number=2)
    assert result.main_output.name == "particles_split1.star"
    written = [uids(result.folder / name) for name in ("particles_split1.star", "particles_split2.star")]
    rest = uids(result.folder / "particles_rest.star")
    assert [len(one) for one in written] == [10, 10]
    np.testing.assert_array_equal(np.concatenate([*written, rest]), table.uid)
    assert "5 particles that fit in no subset" in (result.folder / "run.log").read_text()


def test_splitting_and_joining_gives_the_whole_back(table):
    split = halfmap.select_split(table="particles.star", number=3, shuffle=True, seed=4)
    parts = tuple(sorted(split.folder.glob("particles_split*.star")))
    joined = relion.read_particles(halfmap.select_join(tables=(*parts, parts[0])).main_output)
    np.testing.assert_array_equal(np.sort(joined.uid), np.sort(table.uid))
    back = joined.select_uids(table.uid)
    np.testing.assert_allclose(back["origin_angstrom"], table["origin_angstrom"])


@pytest.mark.parametrize("label", ["rlnDefocusU", "_rlnDefocusU", "DefocusU"])
def test_values_are_selected_by_any_spelling_of_the_label_with_both_ends_included(table, label):
    defocus = np.sort(table["defocus_u_angstrom"])
    result = halfmap.select_values(table="particles.star", label=label, min=defocus[3], max=defocus[10])
    kept = relion.read_particles(result.main_output)
    assert kept["defocus_u_angstrom"].min() >= defocus[3]
    assert kept["defocus_u_angstrom"].max() <= defocus[10]
    removed = uids(result.folder / "particles_removed.star")
    np.testing.assert_array_equal(np.sort(np.concatenate([kept.uid, removed])), np.sort(table.uid))


@pytest.mark.parametrize(
    "select",
    [
        lambda table: halfmap.select_values(table=table, label="rlnDefocusU", min=0),
        lambda table: halfmap.select_split(table=table, number=1),
        lambda table: halfmap.select_statistics(particles=table, workers=1),
        lambda table: halfmap.select_duplicates(particles=table),
        lambda table: halfmap.select_join(tables=(table,)),
    ],
)
def test_particles_of_another_project_keep_their_images_and_micrographs(tmp_path, monkeypatch, select):
    other = a_small_project(tmp_path / "other")
    monkeypatch.chdir(other.root)
    made = halfmap.extract(micrographs=other.micrographs, picks=other.coordinates, box_pixel=48, workers=1)
    here = tmp_path / "here"
    (here / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(here)
    selected = relion.read_particles(select(made.main_output).main_output)
    for column in ("image_name", "micrograph_name"):
        files = {here / name.rpartition("@")[2] for name in selected[column]}
        assert len(files) == 3
        assert all(file.is_file() for file in files)
    assert sorted(selected["image_name"])[0].startswith("000001@")


def test_unknown_label_is_an_error_that_lists_the_labels(table):
    with pytest.raises(InputError, match=r"rlnDefocusU.*got 'rlnNoSuchThing'"):
        halfmap.select_values(table="particles.star", label="rlnNoSuchThing", min=0)


def test_selecting_nothing_is_an_error(table):
    with pytest.raises(InputError, match=r"the 25 particles must be selected; got none: rlnDefocusU runs from \d+"):
        halfmap.select_values(table="particles.star", label="rlnDefocusU", min=1e9)


def test_micrograph_tables_are_split_too(tmp_path, monkeypatch):
    project = a_small_project(tmp_path / "project")
    monkeypatch.chdir(project.root)
    result = halfmap.select_split(table=project.micrographs, size=2)
    assert result.main_output.name == "micrographs_split1.star"
    names = relion.read_micrographs(result.main_output)["micrograph_name"]
    np.testing.assert_array_equal(names, ["Micrographs/mic1.mrc", "Micrographs/mic2.mrc"])


def test_of_duplicates_the_best_figure_of_merit_stays(table):
    doubled = table.with_columns(
        position_pixel=table["position_pixel"] + 1.0, uid=table.uid + 1, figure_of_merit=table["figure_of_merit"] + 5
    )
    relion.write_particles("doubled.star", type(table).concatenate([table, doubled]))
    result = halfmap.select_duplicates(
        particles="doubled.star", min_distance_angstrom=5.0, micrograph_pixel_size_angstrom=1.0
    )
    kept = uids(result.main_output)
    assert np.isin(doubled.uid, kept).all()
    assert not np.isin(table.uid, kept).any()


def test_images_that_differ_from_all_others_are_removed(tmp_path, monkeypatch):
    project = a_small_project(tmp_path / "project")
    monkeypatch.chdir(project.root)
    stack = halfmap.extract(
        micrographs=project.micrographs, picks=project.coordinates, box_pixel=48, normalise=False, float16=False
    )
    from halfmap.io.mrc import map_data

    path = stack.folder / "Micrographs/mic2.mrcs"
    data = bytearray(path.read_bytes())
    section = map_data(path)[0].nbytes
    data[1024 : 1024 + section] = (np.array(map_data(path)[0]) * 30).astype("<f4").tobytes()
    path.write_bytes(bytes(data))
    result = halfmap.select_statistics(particles=stack.main_output, sigma=3.5)
    removed = relion.read_particles(result.folder / "particles_removed.star")
    assert removed["image_name"].tolist() == ["000001@Extract/job001/Micrographs/mic2.mrcs"]


LIGHT = """
import sys
import halfmap

halfmap.select_split(table="particles.star", size=10)
halfmap.select_values(table="particles.star", label="rlnDefocusU", min=0)
halfmap.select_duplicates(particles="particles.star", min_distance_angstrom=10, micrograph_pixel_size_angstrom=1)
assert "torch" not in sys.modules
"""


def test_tables_are_selected_without_waiting_for_torch(table):
    answer = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr


def test_particles_are_expanded_by_symmetry_and_joined_again_without_losing_copies(table):
    result = halfmap.select_expand(particles="particles.star", symmetry="D2")
    expanded = relion.read_particles(result.main_output)
    assert len(expanded) == 100
    np.testing.assert_array_equal(expanded["symmetry_copy"], np.tile(np.arange(4), 25))
    np.testing.assert_array_equal(expanded.uid, np.repeat(table.uid, 4))
    assert "25 particles became 100" in (result.folder / "run.log").read_text()
    joined = halfmap.select_join(tables=(result.main_output, result.main_output))
    assert len(relion.read_particles(joined.main_output)) == 100
    with pytest.raises(InputError, match="several rotations"):
        halfmap.select_expand(particles="particles.star", symmetry="C1")
