"""Scratch folders come and go."""

import subprocess
import sys
from pathlib import Path

import pytest

from halfmap.compute.scratch import ScratchFolder
from halfmap.errors import ComputeError


def test_a_scratch_folder_lives_until_it_is_removed(tmp_path: Path) -> None:
    scratch = ScratchFolder(tmp_path / "deep" / "scratch")
    (scratch.path / "value").write_text("x")
    other = ScratchFolder(tmp_path / "deep" / "scratch")
    assert scratch.path.is_dir()
    assert other.path != scratch.path
    scratch.remove()
    scratch.remove()
    assert list((tmp_path / "deep" / "scratch").iterdir()) == [other.path]
    other.remove()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = "import sys, os; from halfmap.compute.scratch import ScratchFolder; ScratchFolder(sys.argv[1]); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    scratch = ScratchFolder(tmp_path)
    assert list(tmp_path.iterdir()) == [scratch.path]
    scratch.remove()


def test_a_parent_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ComputeError, match=r"scratch folder .*file must be writable; .* choose another one with --scratch"
    ):
        ScratchFolder(tmp_path / "file")
