"""The progress line."""

import io

import pytest

from halfmap.cli import render
from halfmap.cli.render import LiveDisplay, complain, line_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("done", "total", "seconds", "line"),
    [
        (0, 10, 0.0, "Picking ░░░░░░░░░░░░░░░░░░░░ 0/10"),
        (5, 10, 61.0, "Picking ██████████░░░░░░░░░░ 5/10, 1:01 left"),
        (10, 10, 3725.0, "Picking ████████████████████ 10/10, took 1:02:05"),
        (7, None, 9.0, "Picking: 7, 0:09"),
        (0, 0, 0.0, "Picking: nothing to do"),
    ],
)
def test_a_line_holds_label_counts_and_time(done, total, seconds, line):
    assert line_of("Picking", done, total, seconds) == line


def test_a_terminal_shows_one_line_that_is_overwritten(clock):
    terminal = Terminal()
    with LiveDisplay(terminal) as display:
        for done in range(11):
            clock[0] += 0.06
            display.update("Picking", done, 10)
        display.message("Said")
        display.update("Writing", 0, None)
    text = terminal.getvalue()
    assert text.count("\n") == 3
    assert text.count("\r\x1b[2K") < 11
    assert "10/10" in text
    assert text.index("10/10") < text.index("Said") < text.index("Writing")


def test_elsewhere_there_are_plain_lines_a_few_seconds_apart(clock):
    stream = io.StringIO()
    with LiveDisplay(stream) as display:
        for done in range(101):
            clock[0] += 0.1
            display.update("Picking", done, 100)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert len(lines) == 3
    assert lines[-1].startswith("Picking ████████████████████ 100/100, took 0:10")


def test_a_complaint_is_one_paragraph_on_the_error_stream(capsys):
    complain("The file must be whole;\n  got half of it.")
    captured = capsys.readouterr()
    assert captured.err == "halfmap: The file must be whole; got half of it.\n"
    assert captured.out == ""
