"""A folder of versions is always of one version, whatever a killed process left."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from halfmap.errors import InputError, ProjectError
from halfmap.jobs.versioned_folder import VersionedFolder, held

FILES = ("thing.main", "thing_map", "thing_note")


def version_of(main: Path) -> tuple[str, str]:
    version, previous = main.read_text().split(",")
    return version, previous


def listed(main: Path, folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("thing"))


def versioned(folder: Path) -> VersionedFolder:
    return VersionedFolder(
        main=folder / "thing.main", list_files=listed, version_of=version_of, holds_nothing_else=True
    )


def commit(folder: Path, version: str, **files: str) -> VersionedFolder:
    things = versioned(folder)
    previous = things.live_version if things.main.exists() else ""
    with things.staging() as staged:
        (staged / "thing.main").write_text(f"{version},{previous}")
        for name, text in files.items():
            (staged / f"thing_{name}").write_text(text)
        things.commit(staged, version)
    return things


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_commit_keeps_the_version_whole_and_takes_over_what_did_not_change(tmp_path):
    commit(tmp_path, "aaaa", map="1", note="x")
    things = commit(tmp_path, "bbbb", map="2")
    assert {name: text.decode() for name, text in state(tmp_path).items()} == {
        "thing.main": "bbbb,aaaa",
        "thing_map": "2",
        "thing_note": "x",
    }
    assert state(things.version_folder("bbbb")) == state(tmp_path)
    assert [(version, previous) for version, previous, _ in things.history()] == [("aaaa", ""), ("bbbb", "aaaa")]
    assert things.changed_files() == []


def test_a_checkout_restores_every_byte_and_removes_what_the_version_lacks(tmp_path):
    commit(tmp_path, "aaaa", map="1")
    before = state(tmp_path)
    things = commit(tmp_path, "bbbb", map="2", note="later")
    assert things.checkout("aa") == ["thing.main", "thing_map", "thing_note"]
    assert state(tmp_path) == before
    assert things.checkout("aaaa") == []


def test_a_file_changed_by_hand_is_noticed(tmp_path):
    things = commit(tmp_path, "aaaa", map="1")
    (tmp_path / "thing_map").write_text("3")
    assert things.changed_files() == ["thing_map"]


def test_a_version_must_be_named_without_doubt(tmp_path):
    commit(tmp_path, "aaaa", map="1")
    things = commit(tmp_path, "aabb", map="2")
    with pytest.raises(InputError, match="beginning of several"):
        things.checkout("aa")
    with pytest.raises(InputError, match="aaaa, aabb"):
        things.checkout("cc")


KILLED_AT = """
import os, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from jobs.test_versioned_folder import commit
import halfmap.jobs.versioned_folder as module

calls = 0
def dying(function):
    def call(*values, **named):
        global calls
        calls += 1
        if calls == {step}:
            os._exit(9)
        return function(*values, **named)
    return call

module.os.replace = dying(os.replace)
module.os.fsync = dying(os.fsync)
module.shutil.copyfile = dying(module.shutil.copyfile)
commit(Path({folder!r}), "bbbb", map="2", note="new")
"""


@pytest.mark.parametrize("step", [1, 3, 5, 7, 8, 9, 10, 11, 13])
def test_a_process_killed_at_any_step_leaves_one_version_or_the_other(tmp_path, step):
    things = commit(tmp_path, "aaaa", map="1", note="old")
    first = state(tmp_path)
    script = KILLED_AT.format(tests=[str(Path(__file__).parents[1])], step=step, folder=str(tmp_path))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=False)
    said = things.heal()
    version = things.live_version
    assert state(tmp_path) == (first if version == "aaaa" else state(things.version_folder("bbbb")))
    assert things.changed_files() == []
    assert {path.name for path in (tmp_path / "versions").iterdir()} in ({"aaaa"}, {"aaaa", "bbbb"})
    assert (ended.returncode == 9) or version == "bbbb"
    assert said is None or version in said or "dropped" in said
    assert things.heal() is None


def test_two_commands_exclude_each_other_and_a_dead_one_does_not_count(tmp_path):
    said: list[str] = []
    with (
        held([tmp_path], said.append),
        pytest.raises(ProjectError, match="must be free"),
        held([tmp_path], said.append),
    ):
        pass
    with held([tmp_path], said.append):
        pass
    assert said == []
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    holder = {"host": os.uname().nodename, "pid": dead.pid, "start_time": 1.0}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    with held([tmp_path], said.append):
        assert "taken over" in said[0]
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ProjectError, match="must be writable"), held([tmp_path], print):
        pass
