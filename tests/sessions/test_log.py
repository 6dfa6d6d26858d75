"""The log of a session, read by offset."""

from pathlib import Path

import pytest

from halfmap.sessions import log as log_module
from halfmap.sessions.log import SessionLog


def test_the_last_thousand_lines_come_first_and_then_what_is_new(tmp_path: Path) -> None:
    log = SessionLog(tmp_path / "log.txt")
    for number in range(1200):
        log.line(f"line {number}")
    text, offset = log.read()
    lines = text.splitlines()
    assert (len(lines), lines[0][20:], lines[-1][20:]) == (1000, "line 200", "line 1199")
    assert log.read(offset) == ("", offset)
    log.line("<script>alert('é')</script>")
    text, after = log.read(offset)
    assert text[20:] == "<script>alert('é')</script>\n"
    assert after == (tmp_path / "log.txt").stat().st_size


def test_an_offset_beyond_the_end_is_of_an_older_file(tmp_path: Path) -> None:
    log = SessionLog(tmp_path / "log.txt")
    log.line("new")
    assert log.read(10_000)[0].endswith("new\n")


def test_half_a_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("whole\nha")
    log = SessionLog(tmp_path / "log.txt")
    assert log.read(0) == ("whole\n", 6)


def test_a_long_log_is_begun_anew_and_the_one_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_ROTATED_BYTES", 2000)
    log = SessionLog(tmp_path / "log.txt")
    for number in range(200):
        log.line(f"line {number}")
    assert (tmp_path / "log.txt").stat().st_size < 2200
    assert (tmp_path / "log.txt.1").exists()
    assert "line 199" in log.read()[0]


def test_there_is_no_log_before_the_first_line(tmp_path: Path) -> None:
    assert SessionLog(tmp_path / "log.txt").read() == ("", 0)
