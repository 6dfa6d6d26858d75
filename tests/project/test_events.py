"""Events with growing numbers, and what progress makes of them."""

import subprocess
import sys

from halfmap.project.events import JobProgress, append_event, read_events

APPENDING = """
import sys
from pathlib import Path
from halfmap.project.events import append_event
print("ready", flush=True)
sys.stdin.readline()
for step in range(200):
    append_event(Path(sys.argv[1]), "progress", step=step)
"""


def test_numbers_grow_by_one(tmp_path):
    assert [append_event(tmp_path, "started") for _ in range(3)] == [1, 2, 3]
    assert [event["number"] for event in read_events(tmp_path, after=1)] == [2, 3]


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [event["number"] for event in read_events(tmp_path)] == list(range(1, 601))


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    append_event(tmp_path, "started")
    with open(tmp_path / ".halfmap" / "events.jsonl", "a") as stream:
        stream.write('{"number": 2, "event": "prog')
    assert append_event(tmp_path, "finished") == 2
    assert [event["event"] for event in read_events(tmp_path)] == ["started", "finished"]


def test_there_are_no_events_before_the_first(tmp_path):
    assert read_events(tmp_path) == []


class Watcher:
    def __init__(self):
        self.shown, self.said = [], []

    def update(self, label, done, total):
        self.shown.append((label, done, total))

    def message(self, text):
        self.said.append(text)


def test_every_step_reaches_the_display_and_few_the_events():
    events, lines, watcher = [], [], Watcher()
    progress = JobProgress(emit=lambda kind, **values: events.append((kind, values)), log=lines.append, display=watcher)
    progress.start("Picking", 1000)
    for _ in range(1000):
        progress.advance()
    progress.message("done")
    assert watcher.shown[0] == ("Picking", 0, 1000)
    assert watcher.shown[-1] == ("Picking", 1000, 1000)
    assert len(watcher.shown) == 1001
    assert watcher.said == ["done"]
    assert lines == ["Picking: 1000 to do", "done"]
    assert [values.get("done") for kind, values in events if kind == "progress"] == [0, 1000]
