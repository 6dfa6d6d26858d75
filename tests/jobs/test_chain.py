"""Jobs whose steps are other jobs, with steps that count."""

import os

import pytest

from halfmap.errors import InputError
from halfmap.jobs import chain
from halfmap.jobs.chain import is_begun, run_step
from halfmap.project.folder import JobFolder
from halfmap.project.record import read_record
from support import counting_job
from support.contexts import a_context


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "project/.halfmap").mkdir(parents=True)
    (tmp_path / "project/numbers.txt").write_text("7 8")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(chain.registry, "find_job", lambda command: counting_job.JOB)
    return tmp_path / "project"


def count(context, folder="Count", **values):
    return run_step(context, "count", folder, numbers=context.project / "numbers.txt", **values)


def log_of(folder):
    return (folder / "run.log").read_text()


def test_a_step_is_a_job_in_the_folder_of_the_chain(project):
    context = a_context(project)
    done = count(context, steps=2)
    assert done.folder == context.folder / "Count"
    assert done.main_output.read_text() == "0 1 7 8"
    assert JobFolder(path=done.folder).marker == "SUCCESS"
    assert set(context.progress.labels) == {"Counting"}
    assert context.progress.advanced == 2


def test_a_step_that_has_succeeded_is_not_done_again(project):
    done = count(a_context(project), steps=2)
    before = log_of(done.folder)
    again = count(a_context(project), steps=5)
    assert again.main_output == done.main_output
    assert log_of(done.folder) == before


def test_a_step_that_failed_goes_on_with_what_it_was_first_asked(project):
    context = a_context(project)
    with pytest.raises(InputError, match="Numbers must be positive"):
        count(context, steps=4, fail="user")
    assert is_begun(context, "Count")
    assert count(a_context(project), steps=9).main_output.read_text() == "0 1 2 3 7 8"
    assert "goes on from 2" in log_of(context.folder / "Count")


def test_a_step_killed_before_it_knew_what_to_do_begins_anew(project):
    context = a_context(project)
    (context.folder / "Count").mkdir()
    (context.folder / "Count/run.log").write_text("cut sh")
    assert not is_begun(context, "Count")
    assert count(context, steps=2).main_output.read_text() == "0 1 7 8"


def test_steps_belong_to_the_project_of_the_chain_wherever_it_is_continued(project, tmp_path):
    os.chdir(tmp_path)
    done = count(a_context(project), steps=2)
    assert read_record(done.folder)["main_output"] == "Class2D/job001/Count/counted.txt"
    assert not (tmp_path / ".halfmap").exists()


def test_a_step_stops_when_the_chain_is_asked_to(project):
    context = a_context(project, cancelled=True)
    with pytest.raises(KeyboardInterrupt) as stopped:
        count(context, steps=3)
    assert not hasattr(stopped.value, "__notes__")  # the chain says itself how to go on
    assert JobFolder(path=context.folder / "Count").marker == "ABORTED"
    assert count(a_context(project)).main_output.read_text() == "0 1 2 7 8"
