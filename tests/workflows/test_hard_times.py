"""What `halfmap extract` leaves behind, and how it goes on, when it is killed, interrupted or out of room."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from halfmap import keyed_random
from halfmap.cli.main import main
from support.commands import command, environment, halfmap, refusal, started, wait_until
from support.projects import a_small_project

N_MICROGRAPHS = 60
EXTRACT = ("extract", "--micrographs", "micrographs_ctf.star", "--picks", "Coordinates", "--box", "32")
ALONE = ("--workers", "1")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A project of many micrographs in which nothing has run."""
    return a_small_project(tmp_path_factory.mktemp("pristine") / "project", n_micrographs=N_MICROGRAPHS, n_particles=2)


@pytest.fixture(scope="module")
def undisturbed(pristine, tmp_path_factory):
    """What a run that nothing disturbs leaves: answer, folder."""
    root = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(pristine.root, root)
    return halfmap(root, *EXTRACT, *ALONE), root / "Extract/job001"


@pytest.fixture
def project(pristine, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(pristine.root, root)
    return root


@pytest.fixture
def few(tmp_path):
    """A project of three micrographs."""
    return a_small_project(tmp_path / "few", n_particles=2).root


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def half_written(folder: Path) -> list[str]:
    return [name for name in files(folder) if name.endswith(".partial")]


def markers(folder: Path) -> set[str]:
    return {name for name in ("SUCCESS", "FAILED", "ABORTED") if (folder / name).exists()}


def n_states(folder: Path) -> int:
    return len(list(folder.glob("state/*.safetensors")))


def begun(project: Path, *words: str, n: int) -> subprocess.Popen:
    """Start a job and return when it has saved the states of ``n`` micrographs."""
    process = started(project, *words)
    wait_until(lambda: n_states(project / "Extract/job001") >= n, process)
    return process


def killed(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def assert_same_result(folder: Path, expected: Path) -> None:
    """Compare every file: data byte for byte, and of those that hold dates that they are there."""
    here, there = files(folder), files(expected)
    assert set(here) == set(there)
    for name in here:
        if name.endswith((".star", ".mrcs", "job.json")):
            assert here[name].read_bytes() == there[name].read_bytes(), name


def test_the_standard_output_is_the_main_output_alone_and_progress_is_on_standard_error(undisturbed):
    answer, folder = undisturbed
    assert answer.returncode == 0
    assert answer.stdout == f"{folder / 'particles.star'}\n"
    assert f"{N_MICROGRAPHS}/{N_MICROGRAPHS}" in answer.stderr
    assert markers(folder) == {"SUCCESS"}
    assert not (folder / "state").exists()


def test_a_page_is_signed_with_command_date_version_and_outcome(undisturbed):
    page = (undisturbed[1] / "report.html").read_text()
    assert "halfmap extract --micrographs micrographs_ctf.star --picks Coordinates --box 32" in page
    assert time.strftime("%Y-") in page
    assert f"version {version('halfmap')}<" in page
    assert re.search(r'<span class="status good">finished</span>', page)


@pytest.mark.slow  # one kill of each kind of state is among the quick tests of class2d
def test_a_job_killed_again_and_again_ends_as_one_that_nothing_disturbed(project, undisturbed):
    folder = project / "Extract/job001"
    killed(begun(project, *EXTRACT, *ALONE, n=N_MICROGRAPHS // 5))
    assert N_MICROGRAPHS // 5 <= n_states(folder) < N_MICROGRAPHS
    assert markers(folder) == set()
    assert not (folder / "particles.star").exists()
    when = {path: path.stat().st_mtime_ns for path in folder.glob("Micrographs/*.mrcs")}
    done = sorted(when, key=lambda path: when[path])[: n_states(folder)]
    again = ("extract", "--continue", "Extract/job001", *ALONE)
    killed(begun(project, *again, n=N_MICROGRAPHS // 2))
    assert n_states(folder) < N_MICROGRAPHS
    log = folder / "run.log"
    for attempt, pause in enumerate(keyed_random.uniform(3, "kills", range(3), size=1)[:, 0], start=3):
        process = started(project, *again)
        wait_until(lambda attempt=attempt: log.read_text().count("Extracting:") == attempt, process)
        wait_until(lambda: n_states(folder) == N_MICROGRAPHS, process)
        time.sleep(pause)  # seconds: while tables and page are written
        killed(process)
    (folder / "Micrographs/.mic1.mrcs.1.partial").write_bytes(b"left by a writer that was killed")
    answer = halfmap(project, *again)
    assert answer.returncode == 0
    assert answer.stdout == f"{folder / 'particles.star'}\n"
    assert_same_result(folder, undisturbed[1])
    assert [path.stat().st_mtime_ns for path in done] == [when[path] for path in done]  # not done again


def test_workers_die_with_the_job_and_any_number_of_them_may_go_on(project, undisturbed):
    process = begun(project, *EXTRACT, "--workers", "2", n=5)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    killed(process)
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    folder = project / "Extract/job001"
    assert n_states(folder) < N_MICROGRAPHS
    assert halfmap(project, "extract", "--continue", "1", *ALONE).returncode == 0
    assert_same_result(folder, undisturbed[1])


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGINT, "2")])
def test_an_interrupted_job_is_aborted_and_keeps_its_state(project, number, workers):
    process = begun(project, *EXTRACT, "--workers", workers, n=3)
    folder = project / "Extract/job001"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("halfmap: Interrupted. The state is kept")
    assert f"halfmap extract --continue {folder}" in err.splitlines()[-1]
    assert markers(folder) == {"ABORTED"}
    assert 3 <= n_states(folder) < N_MICROGRAPHS
    assert half_written(folder) == []
    assert not (folder / ".lock").exists()


def test_a_job_is_continued_only_as_it_was_begun(few):
    """A failed job is refused with other inputs or parameters, and goes on once the micrographs are mended."""
    good = {path: path.read_bytes() for path in (few / "Micrographs").iterdir()}
    for path, content in good.items():
        path.write_bytes(content[:-100])
    assert "truncated" in refusal(halfmap(few, *EXTRACT, *ALONE))
    table = few / "micrographs_ctf.star"
    before = table.read_text()
    table.write_text(before.replace("15000.0", "15001.0"))
    said = refusal(halfmap(few, "extract", "--continue", "1"))
    assert "The input micrographs must be unchanged since the job began" in said
    assert str(table) in said
    assert "restore the file, or begin a new job" in said
    table.write_text(before)
    said = refusal(halfmap(few, "extract", "--continue", "1", "--box", "48"))
    assert "only run options may be given; got `--box`" in said
    for path, content in good.items():
        path.write_bytes(content)
    assert halfmap(few, "extract", "--continue", "1", *ALONE).returncode == 0
    assert markers(few / "Extract/job001") == {"SUCCESS"}


def test_a_job_that_has_succeeded_says_so_and_is_left_alone(undisturbed):
    _, folder = undisturbed
    before = {name: path.stat().st_mtime_ns for name, path in files(folder).items()}
    answer = halfmap(folder.parents[1], "extract", "--continue", str(folder))
    assert answer.returncode == 0
    assert answer.stderr == f"{folder} has succeeded already: nothing is left to do.\n"
    assert answer.stdout == f"{folder / 'particles.star'}\n"
    assert {name: path.stat().st_mtime_ns for name, path in files(folder).items()} == before


def test_two_jobs_at_once_in_one_project_both_succeed_in_folders_of_their_own(few):
    processes = [started(few, *EXTRACT, *ALONE) for _ in range(2)]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == {f"{few / f'Extract/job00{number}/particles.star'}\n" for number in (1, 2)}
    first, second = (few / f"Extract/job00{number}" for number in (1, 2))
    assert (first / "Micrographs/mic1.mrcs").read_bytes() == (second / "Micrographs/mic1.mrcs").read_bytes()
    assert (second / "particles.star").read_text() == (first / "particles.star").read_text().replace("job001", "job002")


# Disks that are full or read-only.


@pytest.fixture
def here(few, monkeypatch, capsys):
    """The command in this process, in a small project."""
    monkeypatch.chdir(few)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "name",
    ["mic2.mrcs", "0000001.safetensors", "particles.star", "rejected.star", "report.html", "job.json"],
)
def test_a_disk_that_fills_up_costs_nothing_that_was_done(few, here, monkeypatch, name):
    pick = few / "Coordinates/mic1_pick.star"
    pick.write_text(pick.read_text().rstrip() + "\n5000 5000 0 0 0 77\n")  # so that something is set aside
    put, begun_well = os.replace, []

    def full(source, target):
        if Path(target).name == name and (name != "job.json" or begun_well):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        begun_well.append(target)
        put(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        code, out, err = here(*EXTRACT, *ALONE)
    folder = few / "Extract/job001"
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith("halfmap: ")
    assert f"{name} must be writable; got 'No space left on device'; free space" in last
    assert markers(folder) == {"FAILED"}
    assert half_written(folder) == []
    assert name not in {Path(other).name for other in files(folder)} or name == "job.json"
    code, out, _ = here("extract", "--continue", "1", *ALONE)
    assert (code, out) == (0, f"{folder / 'particles.star'}\n")
    assert markers(folder) == {"SUCCESS"}
    assert len(list(folder.glob("Micrographs/*.mrcs"))) == 3
    assert not (folder / "state").exists()


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_done(few, here, monkeypatch):
    def refused(path, *more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", refused)
        code, out, err = here(*EXTRACT, *ALONE)
    assert (code, out) == (2, "")
    assert err == (
        f"halfmap: {few} must be writable; got 'Read-only file system'; free space on the disk, mend the folder's "
        "permissions, or choose another folder with --out.\n"
    )


@pytest.mark.parametrize("out", ["micrographs_ctf.star", "micrographs_ctf.star/below"])
def test_a_file_where_the_folder_should_be_is_said(few, out):
    said = refusal(halfmap(few, *EXTRACT, "--out", out))
    assert f"{few / out} must be writable" in said
    assert "choose another folder with --out" in said


@pytest.mark.parametrize(("n_bytes", "name"), [(2000, "mic1.mrcs"), (7500, "0000000.safetensors")])
def test_a_file_larger_than_the_system_allows_is_named(few, n_bytes, name):
    """A stack and a state are cut off while they are written, as on a disk that fills up or has a quota."""
    answer = halfmap(
        few, *EXTRACT, *ALONE, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    )
    said = refusal(answer)
    folder = few / "Extract/job001"
    assert f"{name} must be writable; got 'File too large'; free space on the disk" in said
    assert markers(folder) == {"FAILED"}
    assert half_written(folder) == []


ON_A_DISK_OF_ITS_OWN = """
set -u
mount -t tmpfs -o size={size} tmpfs {disk} && cp -r {few}/. {disk}/ && cd {disk} || exit 99
mount -o remount,{options} {disk} || exit 99
{extract}
code=$?
find . -name '*.partial'
ls Extract/job001 2>/dev/null
mount -o remount,rw,size=50m {disk}
{after} >&2 || exit 98
exit $code
"""


def on_a_disk_of_its_own(few: Path, *, size: str, options: str, after: str) -> subprocess.CompletedProcess:
    """Extract on a small file system that this process alone sees."""
    disk = few.parent / "disk"
    disk.mkdir()
    script = ON_A_DISK_OF_ITS_OWN.format(
        few=few, disk=disk, size=size, options=options, after=after, extract=" ".join([command(), *EXTRACT, *ALONE])
    )
    if shutil.which("unshare") is None:
        pytest.skip("a file system of its own needs the program unshare")
    answer = subprocess.run(
        ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    if answer.returncode in (1, 99) and "halfmap" not in answer.stderr:
        pytest.skip(f"this system gives processes no file system of their own: {answer.stderr.strip()}")
    return answer


def test_a_job_on_a_disk_that_is_truly_full_goes_on_when_there_is_room(few):
    after = f"{command()} extract --continue 1 {' '.join(ALONE)}"
    answer = on_a_disk_of_its_own(few, size="672k", options="rw", after=after)
    assert answer.returncode == 2, answer
    said = next(line for line in answer.stderr.splitlines() if line.startswith("halfmap: "))
    assert "got 'No space left on device'; free space on the disk" in said
    assert "Traceback" not in answer.stderr
    left = answer.stdout.split()
    assert "FAILED" in left
    assert not any(name.endswith(".partial") for name in left)
    assert answer.stderr.splitlines()[-1].endswith("Extract/job001/particles.star")


def test_a_disk_that_is_truly_read_only_is_named(few):
    answer = on_a_disk_of_its_own(few, size="20m", options="ro", after="true")
    assert answer.returncode == 2
    assert "must be writable; got 'Read-only file system'; free space on the disk, mend" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stdout == ""
