"""`halfmap jobs …` as functions; tests/workflows/test_job_life.py drives the commands."""

import pytest

import halfmap
from halfmap.errors import InputError, ProjectError
from halfmap.jobs import registry
from halfmap.project import lock
from halfmap.project.runner import run_job
from support.counting_job import JOB, CountingJobParams
from support.halfmap_with_counting import add_counting


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "COMMANDS", registry.COMMANDS)
    add_counting()
    (tmp_path / "numbers.txt").write_text("7")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def count(project, **values):
    return run_job(JOB, CountingJobParams(numbers=project / "numbers.txt", **values))


def test_a_project_without_jobs_says_so(project):
    assert halfmap.jobs_list() == [f"No jobs in {project}."]
    assert halfmap.jobs_clean() == ["Nothing to clean."]


def test_jobs_of_one_command_are_listed_alone(project):
    count(project)
    (project / "Import" / "job002").mkdir(parents=True)
    assert len(halfmap.jobs_list()) == 3
    assert len(halfmap.jobs_list(command="count")) == 2


def test_a_job_is_repeated_as_it_was(project):
    count(project, steps=2)
    assert halfmap.jobs_rerun(job="1") == [str(project / "Count" / "job002" / "counted.txt")]


def test_a_report_that_is_not_there_is_told(project):
    count(project)
    with pytest.raises(ProjectError, match=r"A job must have a report; got no .*report\.html"):
        halfmap.jobs_report(job="1")


def test_a_report_is_opened_in_the_browser(project, monkeypatch):
    folder = count(project).folder
    (folder / "report.html").write_text("<html></html>")
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert halfmap.jobs_report(job="1", browser=False) == [str(folder / "report.html")]
    assert opened == []
    halfmap.jobs_report(job="1")
    assert opened == [(folder / "report.html").as_uri()]


def test_running_jobs_are_left_alone_by_clean(project):
    folder = count(project).folder
    (folder / "SUCCESS").unlink()
    lock.acquire(folder)
    assert halfmap.jobs_clean() == ["Nothing to clean."]
    with pytest.raises(ProjectError, match="must have ended before it is moved"):
        halfmap.jobs_clean(jobs="1")


def test_another_programs_job_that_may_be_running_is_not_cleaned(project):
    (project / "Refine3D" / "job001").mkdir(parents=True)
    assert halfmap.jobs_clean() == ["Nothing to clean."]
    with pytest.raises(ProjectError, match="of another program, without a marker"):
        halfmap.jobs_clean(jobs="1")


def test_a_folder_chosen_by_out_is_not_cleaned(project):
    run_job(JOB, CountingJobParams(numbers=project / "numbers.txt"), out="mine")
    with pytest.raises(InputError, match="Only numbered jobs of the project can be cleaned"):
        halfmap.jobs_clean(jobs=("mine",))


def test_notes_are_shown_without_a_text(project):
    count(project)
    halfmap.jobs_note(job="1", text="good one")
    assert [line.split(" ", 2)[2] for line in halfmap.jobs_note(job="1")] == ["good one"]
