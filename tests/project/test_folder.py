"""Project folders, job numbers, aliases and notes."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from halfmap.errors import InputError, ProjectError
from halfmap.project import folder
from halfmap.project.folder import claim, find_job, find_project, job_folders, move_to_trash, set_alias, take

PIPELINE = """
data_pipeline_general

_rlnPipeLineJobCounter                      {counter}

data_pipeline_processes
"""


def make_job(project: Path, name: str) -> Path:
    path = project / name
    path.mkdir(parents=True)
    (path / "job.json").write_text("{}")
    return path


@pytest.mark.parametrize("sign", [".halfmap/events.jsonl", "default_pipeline.star"])
def test_the_project_is_the_nearest_folder_upwards_with_its_sign(tmp_path, sign):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for where in (tmp_path, tmp_path / "a"):
        (where / sign).parent.mkdir(exist_ok=True)
        (where / sign).touch()
    assert find_project(tmp_path / "a" / "b" / "c") == tmp_path / "a"


def test_without_a_sign_the_project_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_project() == tmp_path


@pytest.mark.parametrize(
    ("present", "counter", "number"),
    [([], None, 1), (["Extract/job007"], None, 8), (["Extract/job007", "Class2D/job012"], 3, 13), ([], 20, 21)],
)
def test_a_number_is_one_more_than_the_largest_of_all_jobs_and_relion_s_counter(tmp_path, present, counter, number):
    for name in present:
        make_job(tmp_path, name)
    if counter is not None:
        (tmp_path / "default_pipeline.star").write_text(PIPELINE.format(counter=counter))
    assert claim(tmp_path, "Select").path == tmp_path / "Select" / f"job{number:03d}"


def test_numbers_above_999_go_on(tmp_path):
    make_job(tmp_path, "Extract/job999")
    assert claim(tmp_path, "Extract").path.name == "job1000"
    assert claim(tmp_path, "Extract").path.name == "job1001"


def test_a_number_in_the_trash_is_not_given_again(tmp_path):
    first = claim(tmp_path, "Extract")
    move_to_trash(tmp_path, first)
    assert claim(tmp_path, "Extract").number == 2


CLAIMING = """
import sys
from pathlib import Path
from halfmap.project.folder import claim
sys.stdin.readline()
for _ in range(20):
    print(claim(Path(sys.argv[1]), sys.argv[2]).number)
"""


def test_processes_that_claim_at_once_get_different_numbers(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMING, str(tmp_path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for kind in ("Extract", "Extract", "Select", "AutoPick")
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    numbers = [int(word) for process in processes for word in process.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 81))
    assert [job.number for job in job_folders(tmp_path)] == sorted(numbers)


def test_what_a_kill_leaves_between_claim_and_folder_costs_one_number(tmp_path):
    (tmp_path / ".halfmap" / "claims" / "job001").mkdir(parents=True)
    assert claim(tmp_path, "Extract").number == 2
    assert claim(tmp_path, "Extract").number == 3


@pytest.mark.parametrize(
    "reference", ["8", "08", "job008", "Extract/job008", "Extract/job008/", "best", "Extract/best"]
)
def test_a_job_is_found_by_number_path_and_alias(tmp_path, monkeypatch, reference):
    path = make_job(tmp_path, "Extract/job008")
    make_job(tmp_path, "Class2D/job009")
    (tmp_path / ".halfmap").mkdir()
    set_alias(tmp_path, find_job(tmp_path, "8"), "best")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_job(tmp_path, reference).path == path


def test_an_unknown_job_is_answered_with_those_that_are_there(tmp_path):
    make_job(tmp_path, "Extract/job008")
    with pytest.raises(ProjectError, match=r"got '9'; use one of Extract/job008"):
        find_job(tmp_path, "9")


def test_files_behind_an_alias_are_reached_through_it(tmp_path):
    path = make_job(tmp_path, "Extract/job008")
    (path / "particles.star").write_text("data_")
    set_alias(tmp_path, find_job(tmp_path, "8"), "best")
    assert (tmp_path / "Extract" / "best" / "particles.star").read_text() == "data_"


def test_a_new_alias_replaces_the_old_one_and_moves_with_the_project(tmp_path):
    project = tmp_path / "project"
    make_job(project, "Extract/job008")
    for alias in ("good", "best"):
        set_alias(project, find_job(project, "8"), alias)
    project.rename(tmp_path / "moved")
    assert find_job(tmp_path / "moved", "best").number == 8
    assert find_job(tmp_path / "moved", "8").aliases() == ["best"]


@pytest.mark.parametrize("alias", ["job009", "9", "a/b", "", "..", "two words"])
def test_an_alias_that_is_no_plain_word_is_refused(tmp_path, alias):
    make_job(tmp_path, "Extract/job008")
    with pytest.raises(InputError, match="An alias must be a word"):
        set_alias(tmp_path, find_job(tmp_path, "8"), alias)


def test_an_alias_that_is_taken_is_refused(tmp_path):
    make_job(tmp_path, "Extract/job008")
    make_job(tmp_path, "Class2D/job009")
    set_alias(tmp_path, find_job(tmp_path, "8"), "best")
    with pytest.raises(ProjectError, match="An alias must be free"):
        set_alias(tmp_path, find_job(tmp_path, "9"), "best")


def test_notes_are_kept_in_their_order(tmp_path):
    job = claim(tmp_path, "Extract")
    job.add_note("first")
    job.add_note("second")
    assert [line.split(" ", 2)[2] for line in job.note().splitlines()] == ["first", "second"]


def test_a_chosen_folder_must_be_empty(tmp_path):
    (tmp_path / "out").mkdir()
    assert take(tmp_path / "out").path == tmp_path / "out"
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ProjectError, match=r"must be new or empty; got .*out, which holds files"):
        take(tmp_path / "out")


def test_a_marker_replaces_the_one_before(tmp_path):
    job = claim(tmp_path, "Extract")
    job.mark(folder.FAILED, "because")
    assert (job.state, job.reason()) == ("failed", "because")
    job.mark(folder.SUCCESS)
    assert [name for name in folder.MARKERS if (job.path / name).exists()] == ["SUCCESS"]
    job.mark(None)
    (job.path / "job.json").touch()
    assert job.state == "killed"


def test_jobs_of_relion_have_a_state_too(tmp_path):
    (tmp_path / "Import" / "job001").mkdir(parents=True)
    (tmp_path / "Import" / "job001" / "RELION_JOB_EXIT_SUCCESS").touch()
    (tmp_path / "Import" / "job002").mkdir()
    assert [(job.number, job.state) for job in job_folders(tmp_path)] == [(1, "succeeded"), (2, "unknown")]


def test_a_project_that_cannot_be_written_to_is_one_paragraph(tmp_path):
    (tmp_path / ".halfmap").write_text("a file where a folder should be")
    with pytest.raises(ProjectError, match=r"must be writable; got .*; free space"):
        claim(tmp_path, "Extract")


AS_NOBODY = """
import os, sys
from pathlib import Path
from halfmap.errors import ProjectError
from halfmap.project.folder import claim, take
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for attempt in (lambda: claim(Path(sys.argv[1]), "Extract"), lambda: take(Path(sys.argv[1]) / "out")):
    try:
        attempt()
    except ProjectError as error:
        print(error)
"""


def test_a_read_only_folder_is_one_paragraph():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        answer = subprocess.run([sys.executable, "-c", AS_NOBODY, folder], capture_output=True, text=True, check=True)
    assert answer.stdout.count("must be writable; got 'Permission denied'; free space") == 2
