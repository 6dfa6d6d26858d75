"""``job.json``: inputs, hashes and settings."""

import json
import os
from pathlib import Path

import pytest

from halfmap.errors import FormatError, InputError, ProjectError
from halfmap.project import record
from support.counting_job import JOB, CountingJobParams


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    (tmp_path / "numbers.txt").write_text("1 2 3")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def large_file(path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(record, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(record, "_SAMPLE_BYTES", 10)
    path.write_bytes(bytes(200))
    return path


def test_a_small_file_is_known_by_its_whole_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    before = record.hash_input(path)
    assert before["method"] == "whole"
    os.utime(path, (0, 0))
    assert record.hash_input(path) == before
    path.write_bytes(b"abd")
    assert record.hash_input(path) != before


@pytest.mark.parametrize("position", [0, 199])
def test_a_large_file_is_known_by_head_and_tail(tmp_path, monkeypatch, position):
    path = large_file(tmp_path / "a", monkeypatch)
    before = record.hash_input(path)
    assert before["method"] == "head and tail"
    content = bytearray(200)
    content[position] = 1
    path.write_bytes(content)
    os.utime(path, ns=(0, before["modified_ns"]))
    assert record.hash_input(path)["blake2b"] != before["blake2b"]


def test_a_large_file_is_known_by_its_date(tmp_path, monkeypatch):
    path = large_file(tmp_path / "a", monkeypatch)
    before = record.hash_input(path)
    os.utime(path, ns=(0, before["modified_ns"] + 1000))
    assert record.hash_input(path) != before


def test_a_folder_is_known_by_the_names_and_sizes_of_its_files(tmp_path):
    (tmp_path / "in").mkdir()
    before = record.hash_input(tmp_path / "in")
    (tmp_path / "in" / "a").write_text("1")
    assert record.hash_input(tmp_path / "in") != before


def test_a_record_says_all_parameters_relative_to_the_project(project):
    params = CountingJobParams(numbers=project / "numbers.txt", extra=(project / "numbers.txt", Path("/elsewhere/x")))
    params = CountingJobParams(numbers=params.numbers, extra=params.extra[:1])
    entry = record.make_record(JOB, params, project)
    assert entry["parameters"]["numbers"] == "numbers.txt"
    assert entry["parameters"]["extra"] == ["numbers.txt"]
    assert entry["parameters"]["box_pixel"] == 256
    assert entry["seed"] == 1
    assert entry["inputs"]["numbers"][0]["path"] == "numbers.txt"
    assert {"python", "halfmap", "torch", "numpy"} <= set(entry["versions"])


def test_an_input_is_looked_for_from_the_working_directory_and_then_from_the_project(project, monkeypatch):
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    assert record.locate_input(project, Path("numbers.txt"), "numbers", "--numbers") == project / "numbers.txt"
    (project / "sub" / "numbers.txt").touch()
    assert record.locate_input(project, Path("numbers.txt"), "numbers", "--numbers") == project / "sub" / "numbers.txt"


@pytest.mark.parametrize("reference", ["8", "job008", "Extract/job008", "best"])
def test_a_job_stands_for_its_main_output(project, reference):
    folder = project / "Extract" / "job008"
    folder.mkdir(parents=True)
    (folder.parent / "best").symlink_to("job008")
    (folder / "particles.star").touch()
    record.write_record(folder, {"project": "../..", "main_output": "Extract/job008/particles.star"})
    assert record.locate_input(project, Path(reference), "particles", "--particles") == folder / "particles.star"


def test_a_job_stands_for_what_it_has_for_an_input_of_that_name(project):
    folder = project / "Refine3D" / "job008"
    folder.mkdir(parents=True)
    record.write_record(
        folder,
        {
            "project": "../..",
            "main_output": "Refine3D/job008/postprocess.mrc",
            "outputs": {"particles": "Refine3D/job008/run_data.star"},
        },
    )
    assert record.locate_input(project, Path("8"), "particles", "--particles") == folder / "run_data.star"
    assert record.locate_input(project, Path("8"), "reference", "--reference") == folder / "postprocess.mrc"


def test_a_job_without_output_is_no_input(project):
    folder = project / "Extract" / "job008"
    folder.mkdir(parents=True)
    record.write_record(folder, {"project": "../..", "main_output": None})
    with pytest.raises(InputError, match="which has no output yet"):
        record.locate_input(project, Path("8"), "particles", "--particles")


def test_a_missing_input_is_answered_with_the_places_tried(project, monkeypatch):
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    with pytest.raises(
        InputError, match=r"`--numbers` must be an existing file; got a\.txt; looked for .*sub/a\.txt and"
    ):
        record.locate_input(project, Path("a.txt"), "numbers", "--numbers")


def test_settings_come_from_a_file_of_parameters_a_record_or_a_job(project):
    folder = project / "Count" / "job001"
    folder.mkdir(parents=True)
    entry = {"command": "count", "parameters": {"steps": 5}, "project": "../.."}
    record.write_record(folder, entry)
    record.write_settings(project / "saved.json", entry)
    (project / "bare.json").write_text('{"steps": 5}')
    for source in ("1", "Count/job001", "Count/job001/job.json", "saved.json", "bare.json"):
        assert record.read_settings(project, source, JOB) == {"steps": 5}


def test_settings_of_another_command_are_refused(project):
    (project / "saved.json").write_text('{"command": "pick log", "parameters": {}}')
    with pytest.raises(InputError, match="must come from the same command; got those of `pick log`"):
        record.read_settings(project, "saved.json", JOB)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_settings_that_are_no_object_are_refused(project, content):
    (project / "saved.json").write_text(content)
    with pytest.raises(FormatError, match=r"saved\.json: expected a? ?JSON"):
        record.read_settings(project, "saved.json", JOB)


def test_a_folder_without_record_is_no_job(project):
    with pytest.raises(ProjectError, match=r"must hold job\.json"):
        record.read_record(project)


def test_changed_and_missing_inputs_are_told(project):
    entry = record.make_record(JOB, CountingJobParams(numbers=project / "numbers.txt"), project)
    record.check_inputs_unchanged(json.loads(json.dumps(entry)), project)
    (project / "numbers.txt").write_text("other")
    with pytest.raises(ProjectError, match="must be unchanged since the job began"):
        record.check_inputs_unchanged(entry, project)
    (project / "numbers.txt").unlink()
    with pytest.raises(ProjectError, match="is missing; bring it back"):
        record.check_inputs_unchanged(entry, project)


def test_an_input_may_become_what_the_job_itself_said_it_would_make_of_it(project):
    path, folder = project / "numbers.txt", project / "Count"
    entry = record.make_record(JOB, CountingJobParams(numbers=path), project)
    record.write_record(folder, {**entry, "project": ".."})
    (project / "next.txt").write_text("1 2 3 4")
    record.expect_input(folder, path, project / "next.txt")
    expected = record.read_record(folder)
    for text in ("1 2 3", "1 2 3 4"):
        path.write_text(text)
        record.check_inputs_unchanged(expected, project)
    path.write_text("1 2 3 4 5")
    with pytest.raises(ProjectError, match="must be unchanged since the job began"):
        record.check_inputs_unchanged(expected, project)


def test_the_command_line_of_a_record_repeats_it():
    line = record.command_line(
        JOB,
        {"numbers": "my numbers.txt", "extra": ["a", "b"], "invert": False, "mask_diameter": "5.0px", "seed": 1}
        | {"recenter_angstrom": [-1.0, 2.0, 0.1]},
    )
    assert line == (
        "halfmap count --numbers 'my numbers.txt' --extra a --extra b --recenter -1.0,2.0,0.1 --no-invert "
        "--mask-diameter 5.0px"
    )
