"""A job's folder from claim to marker."""

import dataclasses
import errno
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from halfmap.compute.threads import usable_cores
from halfmap.errors import ComputeError, InputError, ProjectError
from halfmap.project import lock, runner
from halfmap.project.events import read_events
from halfmap.project.job import as_function
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_from_values, continue_job, run_from_values, run_job
from support import counting_job
from support.counting_job import JOB, CountingJobParams


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "numbers.txt").write_text("7 8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(**values) -> CountingJobParams:
    return CountingJobParams(numbers=Path("numbers.txt"), **values)


def only_job(project: Path) -> Path:
    (folder,) = project.glob("Count/job*")
    return folder


def test_a_job_leaves_output_record_log_marker_and_events(project):
    result = run_job(JOB, params(steps=2))
    assert result.folder == project / "Count" / "job001"
    assert result.main_output.read_text() == "0 1 7 8"
    assert {path.name for path in result.folder.iterdir()} == {
        "SUCCESS",
        "counted.txt",
        "job.json",
        "run.log",
        "state.txt",
    }
    entry = json.loads((result.folder / "job.json").read_text())
    assert (entry["command"], entry["project"]) == ("count", "../..")
    assert entry["main_output"] == "Count/job001/counted.txt"
    assert "counts from the beginning" in (result.folder / "run.log").read_text()
    events = read_events(project)
    assert [event["event"] for event in events if event["event"] != "progress"] == ["started", "finished"]
    assert {event["job"] for event in events} == {"Count/job001"}


def test_a_chosen_folder_outside_the_project_is_recorded_in_full(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("elsewhere") / "out"
    result = run_job(JOB, params(), out=out)
    assert result.folder == out
    entry = json.loads((out / "job.json").read_text())
    assert (entry["project"], entry["main_output"]) == (str(project), str(out / "counted.txt"))


def test_a_finished_job_can_be_the_input_of_the_next(project):
    run_job(JOB, params(steps=2))
    result = run_job(JOB, dataclasses.replace(params(), numbers=Path("1")))
    assert result.main_output.read_text() == "0 1 2 0 1 7 8"


def test_a_missing_input_makes_no_folder(project):
    with pytest.raises(InputError, match="`--numbers` must be an existing file"):
        run_job(JOB, CountingJobParams(numbers=Path("other.txt")))
    assert not (project / "Count").exists()


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("user", InputError, "Numbers must be positive"),
        (
            "disk",
            ProjectError,
            r"counted\.txt must be readable and writable; got 'No space left on device'; free space",
        ),
        ("memory", ComputeError, "must fit into memory; got 'out of memory'"),
        ("tensor", ComputeError, "must fit into memory; got 'DefaultCPUAllocator: .* allocate 9 bytes'"),
        ("output", FileNotFoundError, "left no main output"),
        ("bug", ZeroDivisionError, "division by zero"),
        ("file", FileNotFoundError, "nowhere"),
    ],
)
def test_a_failure_leaves_marker_reason_and_traceback(project, fail, error, message):
    with pytest.raises(error, match=message) as caught:
        run_job(JOB, params(fail=fail))
    folder = only_job(project)
    assert (folder / "FAILED").exists()
    assert not (folder / lock.NAME).exists()
    assert "Traceback" in (folder / "run.log").read_text()
    assert read_events(project)[-1]["event"] == "failed"
    if fail in ("user", "bug"):
        assert (folder / "FAILED").read_text().strip() in str(caught.value)


def test_a_failed_job_goes_on_where_it_stopped(project):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug", steps=6))
    result = continue_job("1", JOB)
    assert result.main_output.read_text() == "0 1 2 3 4 5 7 8"
    assert "goes on from 3" in (result.folder / "run.log").read_text()
    assert [name for name in ("SUCCESS", "FAILED", "ABORTED") if (result.folder / name).exists()] == ["SUCCESS"]


def test_a_chosen_folder_whose_job_has_made_nothing_is_taken_again(project):
    def refuse(context, params):
        raise InputError("`steps` must suit the numbers; got 2; choose another.")

    with pytest.raises(InputError):
        run_job(dataclasses.replace(JOB, run=refuse), params(steps=2), out="chosen")
    assert (project / "chosen/FAILED").exists()
    result = run_job(JOB, params(steps=2), out="chosen")
    assert sorted(path.name for path in result.folder.glob("[A-Z]*")) == ["SUCCESS"]
    assert "must suit the numbers" in (result.folder / "run.log").read_text()
    with pytest.raises(ProjectError, match="holds a job"):
        run_job(JOB, params(steps=2), out="chosen")


def test_a_finished_job_that_is_continued_is_left_as_it_is(project):
    first = run_job(JOB, params())
    stamp = first.main_output.stat().st_mtime_ns
    (project / "numbers.txt").write_text("9")  # no longer of any consequence
    said = []
    again = continue_job("1", JOB, display=SimpleNamespace(message=said.append))
    assert said == [f"{first.folder} has succeeded already: nothing is left to do."]
    assert again.main_output == first.main_output
    assert again.main_output.stat().st_mtime_ns == stamp


def test_a_job_is_not_continued_with_changed_inputs(project):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    (project / "numbers.txt").write_text("9")
    with pytest.raises(ProjectError, match="must be unchanged since the job began"):
        continue_job("1", JOB)
    assert (only_job(project) / "FAILED").exists()


def test_a_job_is_continued_after_its_project_has_moved(project, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    moved = project.with_name(project.name + "_moved")
    project.rename(moved)
    monkeypatch.chdir(moved.parent)
    result = continue_job(moved / "Count" / "job001", JOB)
    assert result.main_output == moved / "Count" / "job001" / "counted.txt"


def test_only_run_options_go_with_continue(project):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    with pytest.raises(InputError, match=r"only run options may be given; got `--box`, `--out`"):
        continue_from_values(JOB, "1", {"box_pixel": "64", "out": "x"})
    assert continue_from_values(JOB, "1", {}, options={"threads": "1"}).main_output.exists()


def test_a_job_of_another_command_is_not_continued(project):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    with pytest.raises(ProjectError, match="made by `count`; use `halfmap count --continue`"):
        continue_job("1", dataclasses.replace(JOB, command="tally"))


def test_a_running_job_is_not_continued(project, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    lock.acquire(only_job(project))
    with pytest.raises(ProjectError, match="must be free; got a lock held by"):
        continue_job("1", JOB)


def test_other_versions_are_told_when_a_job_is_continued(project):
    with pytest.raises(ZeroDivisionError):
        run_job(JOB, params(fail="bug"))
    path = only_job(project) / "job.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "0.'))
    continue_job("1", JOB)
    assert "begun with other versions" in (only_job(project) / "run.log").read_text()


@pytest.mark.parametrize("request_file", runner.ABORT_REQUESTS)
def test_a_request_file_stops_a_job_and_keeps_its_state(project, request_file):
    def ask():
        while not (folder := next(project.glob("Count/job001/state.txt"), None)):
            pass
        (folder.parent / request_file).touch()

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(KeyboardInterrupt):
        run_job(JOB, params(steps=1000, step_seconds=0.01))
    asking.join()
    assert (only_job(project) / "ABORTED").read_text() == "interrupted\n"
    assert read_events(project)[-1]["event"] == "aborted"
    assert (only_job(project) / "state.txt").exists()


def test_a_job_runs_outside_the_main_thread(project):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_job(JOB, params())))
    thread.start()
    thread.join()
    assert results[0].main_output.exists()


def test_a_full_disk_at_the_start_is_one_paragraph(project, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProjectError, match="'No space left on device'; free space") as caught:
        run_job(JOB, params())
    assert "\n" not in str(caught.value)


def test_events_that_cannot_be_written_do_not_end_a_job(project, monkeypatch):
    def full(*arguments, **values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runner, "append_event", full)
    assert run_job(JOB, params()).main_output.exists()


def test_settings_are_overridden_by_values(project):
    run_job(JOB, params(steps=5, box_pixel=64))
    result = run_from_values(JOB, {"steps": "2"}, settings="1")
    entry = json.loads((result.folder / "job.json").read_text())
    assert (entry["parameters"]["steps"], entry["parameters"]["box_pixel"]) == (2, 64)


def test_memory_that_a_job_states_is_compared_with_the_limit(project):
    def run(context, values):
        context.expect_memory(3 << 30, "windows")
        return counting_job.run(context, values)

    stating = dataclasses.replace(JOB, run=run)
    run_job(stating, params())
    assert "Needs at most 3.0 GiB of memory for windows." in (only_job(project) / "run.log").read_text()
    with pytest.raises(InputError, match=r"at most the 1\.0 GiB of --memory; got 3\.0 GiB; raise --memory"):
        run_job(stating, params(), options=RunOptions(memory="1GiB"))


def test_memory_beyond_what_is_free_is_told(project, monkeypatch):
    def run(context, values):
        context.expect_memory(3 << 30, "windows", n_tasks=values.steps)
        return counting_job.run(context, values)

    monkeypatch.setattr("halfmap.project.job.available_memory_bytes", lambda: 5 << 30)
    stating = dataclasses.replace(JOB, run=run)
    for workers, is_told in ((1, False), (2, True)):
        result = run_job(stating, params(steps=2), options=RunOptions(workers=workers))
        log = (result.folder / "run.log").read_text()
        assert ("Warning: only 5.0 GiB of memory are free" in log) is is_told
    assert "or use fewer --workers." in log


def test_memory_is_counted_for_every_worker_that_tasks_keep_busy(project):
    def run(context, values):
        context.expect_memory(1 << 30, "windows", n_tasks=values.steps)
        return counting_job.run(context, values)

    stating = dataclasses.replace(JOB, run=run)
    options = RunOptions(memory="2GiB", workers=3)
    run_job(stating, params(steps=2), options=options)
    assert (
        "Needs at most 2.0 GiB of memory for windows in each of 2 workers."
        in (only_job(project) / "run.log").read_text()
    )
    with pytest.raises(InputError, match=r"in each of 3 workers must be at most .*; got 3\.0 GiB; .* fewer --workers"):
        run_job(stating, params(steps=5), options=options)


def test_a_job_s_executor_is_entered_and_left(project, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = []

    def run(context, values):
        assert context.executor.n_workers == 1
        seen.append(os.environ.get("OMP_NUM_THREADS"))
        return counting_job.run(context, values)

    run_job(dataclasses.replace(JOB, run=run), params(), options=RunOptions(workers=1, devices="cpu"))
    assert seen == [str(usable_cores())]
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_job_knows_its_paths_seed_and_executor(project):
    seen = {}

    def run(context, values):
        seen["relative"] = context.relative(context.folder / "a.mrcs"), context.relative("/elsewhere/b")
        seen["resolved"] = context.resolve("Count/x")
        seen["seed"] = context.seed
        seen["squares"] = list(context.executor.map(abs, [-1, 2], progress=context.progress, label="Squaring"))
        return counting_job.run(context, values)

    run_job(dataclasses.replace(JOB, run=run), params(seed=5), options=RunOptions(workers=1, devices="cpu"))
    assert seen == {
        "relative": ("Count/job001/a.mrcs", "/elsewhere/b"),
        "resolved": project / "Count" / "x",
        "seed": 5,
        "squares": [1, 2],
    }


@dataclasses.dataclass(frozen=True)
class Page:
    command: str = ""
    created: str = ""
    version: str = ""
    status: str = ""

    def to_html(self, *, beside):
        beside["report_files/large.png"] = b"large"
        return f"<html>{self.command} of halfmap {self.version} {self.status}</html>"


def test_a_report_is_signed_and_written_with_what_goes_beside_it(project):
    def run(context, values):
        context.report(Page())
        return counting_job.run(context, values)

    folder = run_job(dataclasses.replace(JOB, run=run), params(steps=2)).folder
    page = (folder / "report.html").read_text()
    assert page.startswith("<html>halfmap count --numbers numbers.txt --steps 2 of halfmap 0.")
    assert page.endswith(" finished</html>")
    assert (folder / "report_files" / "large.png").read_bytes() == b"large"


def test_an_out_folder_that_is_no_path_is_refused_by_name():
    with pytest.raises(InputError, match="`out` must be a path; got 3"):
        run_from_values(JOB, {"numbers": "numbers.txt"}, out=3)  # type: ignore[arg-type]


def test_a_job_is_a_function_with_the_same_folder_and_checks(project):
    count = as_function(JOB)
    result = count(numbers="numbers.txt", steps=2, out="mine", threads=1)
    assert result.folder == project / "mine"
    with pytest.raises(InputError, match="did you mean `box_pixel`"):
        count(numbers="numbers.txt", boxpixel=3)
