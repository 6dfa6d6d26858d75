"""A job's life as a user sees it: the command in a process of its own, interrupted and killed."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halfmap.project.events import read_events

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "support" / "halfmap_with_counting.py")]
SLOW = ["count", "numbers.txt", "--steps", "40", "--step-seconds", "0.03"]
COUNTED = " ".join(str(number) for number in range(40)) + " 7 8"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "numbers.txt").write_text("7 8")
    return tmp_path


def halfmap(project: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *words], cwd=project, capture_output=True, text=True, timeout=60)


def begin(project: Path) -> tuple[subprocess.Popen, Path]:
    """Start a slow job and wait until it has counted a little."""
    process = subprocess.Popen(
        [*COMMAND, *SLOW], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for state in project.glob("Count/*/state.txt"):
            if len(state.read_text().split()) >= 3:
                return process, state.parent
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def markers(folder: Path) -> set[str]:
    return {name for name in ("SUCCESS", "FAILED", "ABORTED") if (folder / name).exists()}


def test_a_job_prints_its_main_output_last_and_succeeds(project):
    answer = halfmap(project, "count", "numbers.txt")
    assert answer.returncode == 0
    assert Path(answer.stdout.splitlines()[-1]).read_text() == "0 1 2 7 8"
    assert markers(project / "Count" / "job001") == {"SUCCESS"}
    assert "\x1b" not in answer.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_keeps_its_state_and_goes_on(project, number):
    process, folder = begin(project)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "--continue" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert markers(folder) == {"ABORTED"}
    assert not (folder / ".lock").exists()
    assert halfmap(project, "count", "--continue", "1").returncode == 0
    assert (folder / "counted.txt").read_text() == COUNTED
    assert "goes on from" in (folder / "run.log").read_text()


def test_a_killed_job_leaves_no_marker_and_goes_on(project):
    process, folder = begin(project)
    process.kill()
    process.communicate()
    assert markers(folder) == set()
    assert "killed" in halfmap(project, "jobs", "list").stdout
    answer = halfmap(project, "count", "--continue", str(folder))
    assert answer.returncode == 0
    assert f"Took over the lock of process {process.pid}" in answer.stderr
    assert (folder / "counted.txt").read_text() == COUNTED
    assert markers(folder) == {"SUCCESS"}


def test_a_running_job_is_neither_continued_nor_cleaned(project):
    process, _ = begin(project)
    process.send_signal(signal.SIGSTOP)  # it cannot end while the commands below start up
    try:
        for words in (["count", "--continue", "1"], ["jobs", "clean", "1"]):
            answer = halfmap(project, *words)
            assert answer.returncode == 2
            assert "must be free" in answer.stderr or "which runs" in answer.stderr
        assert "running" in halfmap(project, "jobs", "list").stdout
    finally:
        process.kill()
        process.communicate()


def test_two_jobs_at_once_in_one_project_get_folders_of_their_own(project):
    processes = [
        subprocess.Popen(
            [*COMMAND, "count", "numbers.txt"], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=60)[0].decode().strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs == {str(project / "Count" / f"job00{number}" / "counted.txt") for number in (1, 2, 3)}
    events = read_events(project)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))


def test_the_working_directory_may_lie_deep_in_the_project(project):
    assert halfmap(project, "count", "numbers.txt").returncode == 0
    (project / "deep" / "er").mkdir(parents=True)
    answer = halfmap(project / "deep" / "er", "count", "../../numbers.txt")
    assert answer.stdout.strip() == str(project / "Count" / "job002" / "counted.txt")


def test_a_terminal_sees_one_live_line(project):
    leader, follower = pty.openpty()
    answer = subprocess.run(
        [*COMMAND, "count", "numbers.txt"], cwd=project, stdout=subprocess.PIPE, stderr=follower, timeout=60
    )
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert answer.returncode == 0
    assert "\r\x1b[2KCounting" in shown
    assert "3/3" in shown
    assert b"Counting" not in answer.stdout


def test_jobs_are_listed_named_noted_repeated_and_cleaned(project):
    assert halfmap(project, "count", "numbers.txt", "--steps", "2").returncode == 0
    assert halfmap(project, "count", "numbers.txt", "--fail", "user").returncode == 2
    assert halfmap(project, "jobs", "alias", "1", "best").returncode == 0
    assert halfmap(project, "jobs", "note", "best", "worth", "keeping").returncode == 0
    shown = halfmap(project, "jobs", "show", "best").stdout
    for line in (
        "Count/job001: succeeded",
        "alias: best",
        "input numbers: numbers.txt",
        "parameter steps: 2",
        "again: halfmap count --numbers numbers.txt --steps 2",
        "main output: Count/job001/counted.txt",
    ):
        assert line in shown.splitlines()
    assert "worth keeping" in shown
    assert "reason: Numbers must be positive" in halfmap(project, "jobs", "show", "2").stdout
    assert halfmap(project, "count", "best").returncode == 0
    assert (project / "Count" / "job003" / "counted.txt").read_text() == "0 1 2 0 1 7 8"
    assert halfmap(project, "jobs", "save-settings", "best", "two.json").returncode == 0
    assert halfmap(project, "count", "--settings", "two.json", "--seed", "5").returncode == 0
    assert (project / "Count" / "job004" / "counted.txt").read_text() == "0 5 7 8"
    assert halfmap(project, "jobs", "clean").stdout == "Count/job002 → Trash/Count/job002\n"
    assert [line.split()[0] for line in halfmap(project, "jobs", "list").stdout.splitlines()[1:]] == ["1", "3", "4"]
    assert halfmap(project, "jobs", "report", "1").returncode == 2


def test_the_installed_command_answers(project):
    command = Path(sys.executable).with_name("halfmap")
    if not command.exists():
        pytest.skip("the package is not installed beside this interpreter")
    answer = subprocess.run([command, "doctor"], cwd=project, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0
    subjects = [line[3:].split("  ")[0] for line in answer.stdout.splitlines()]
    for subject in ("python", "halfmap", "torch", "numpy", "numba", "threads", "memory", "disk", "topaz", "RELION"):
        assert subject in subjects
    assert list(project.iterdir()) == [project / "numbers.txt"]
