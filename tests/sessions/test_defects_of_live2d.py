"""The 17 defects of Live2D: which test shows of each that it is none of ours; and those that no other file has."""

import re
from pathlib import Path

import numpy as np
import pytest

from halfmap.io.mrc import map_data
from halfmap.io.mrc_header import read_header
from halfmap.sessions import store
from halfmap.sessions.child import Child
from support.live_folders import PER_MICROGRAPH, LiveFolder
from support.live_sessions import FAST, ChildHere, a_session, until_idle

TESTS = Path(__file__).parents[1]
LIST = TESTS.parent / "docs/decisions/0052-defects-of-live2d.md"


def test_each_of_the_17_defects_has_tests_that_exist() -> None:
    rows = [row.split("|") for row in LIST.read_text().splitlines() if re.match(r"\| \d", row)]
    assert [int(row[1]) for row in rows] == list(range(1, 18))
    for row in rows:
        named = re.findall(r"`(\w+/\w+\.py)::(\w+)`", row[4])
        assert named
        assert [name for file, name in named if f"def {name}(" not in (TESTS / file).read_text()] == []


def test_stacks_of_warp_2_are_classified_as_they_lie(tmp_path: Path, child_here: type[ChildHere]) -> None:
    folder = LiveFolder(tmp_path / "acquisition", version=2, n_micrographs=3)
    folder.arrive(range(3))
    assert read_header(folder.path / folder.name(0)).mode == 12
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST | {"startup_cycles": 1})
    assert until_idle(session) == "listening"
    last = session.cycle(3)
    assert sum(one["particles"] for one in last["classes"]) == 3 * PER_MICROGRAPH
    averages = np.array(map_data(store.folder_of(tmp_path / "s", 3) / store.CLASSES))
    assert averages[:, 12:20, 12:20].mean() > 3 * abs(averages[:, :4].mean())  # bright particles in the middle
    session.close()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("raise MemoryError('no room')", "exit code 1: MemoryError: no room"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
    ],
)
def test_how_a_process_has_ended_is_told_with_its_last_words(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "ends.py").write_text(code)
    child = Child(tmp_path, ("ends",), lambda: None)
    child.process.wait(60)
    assert child.last_words() == told
    child.end()
