"""Where the files lie that a STAR file names: one rule, one folder for the whole file."""

import pytest

from halfmap.errors import FormatError
from halfmap.io.relion import resolve_paths
from support.shared_data import shared_data


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def project(tmp_path):
    touch(tmp_path, "project/Extract/job001/particles.star")
    return tmp_path / "project"


def test_project_folder_comes_first(project):
    touch(project, "a.mrcs", "Extract/job001/a.mrcs")
    assert resolve_paths(project / "Extract/job001/particles.star", project, ["1@a.mrcs"]) == project


def test_own_folder_comes_before_its_parents(project):
    touch(project, "Extract/a.mrcs", "Extract/job001/a.mrcs")
    found = resolve_paths(project / "Extract/job001/particles.star", project, ["1@a.mrcs"])
    assert found == project / "Extract/job001"


def test_parents_are_tried_up_to_the_project(project):
    touch(project, "Extract/a.mrcs")
    touch(project.parent, "b.mrcs")
    star = project / "Extract/job001/particles.star"
    assert resolve_paths(star, project, ["1@a.mrcs"]) == project / "Extract"
    with pytest.raises(FormatError):
        resolve_paths(star, project, ["1@b.mrcs"])


def test_one_folder_serves_the_whole_file(project):
    touch(project, "a.mrcs", "Extract/a.mrcs", "Extract/b.mrcs")
    star = project / "Extract/job001/particles.star"
    assert resolve_paths(star, project, ["1@a.mrcs", "1@b.mrcs"]) == project / "Extract"


def test_a_missing_file_does_not_hide_the_folder_of_the_others(project):
    touch(project, "a.mrcs", "Extract/a.mrcs", "Extract/b.mrcs")
    star = project / "Extract/job001/particles.star"
    assert resolve_paths(star, project, ["a.mrcs", "b.mrcs", "gone.mrcs"]) == project / "Extract"


def test_among_equals_the_folder_tried_first_wins(project):
    touch(project, "a.mrcs", "Extract/b.mrcs")
    star = project / "Extract/job001/particles.star"
    assert resolve_paths(star, project, ["a.mrcs", "b.mrcs"]) == project


def test_file_outside_the_project_finds_its_own_neighbours():
    star = shared_data("apoferritin/micrographs_ctf.star")
    found = resolve_paths(star, "/nowhere", ["micrographs/May08_03.05.02.mrc"])
    assert found.samefile(star.parent)


def test_the_error_lists_all_folders_tried(project):
    star = project / "Extract/job001/particles.star"
    with pytest.raises(FormatError, match=r"such as a.mrcs; found none of them below") as caught:
        resolve_paths(star, project, ["1@a.mrcs"])
    for folder in (project, project / "Extract", project / "Extract/job001"):
        assert str(folder) in str(caught.value)


def test_a_table_without_files_needs_none(project):
    assert resolve_paths(project / "Extract/job001/particles.star", project, []) == project
