"""How what a task tells reaches the caller, once."""

from halfmap.compute.progress import (
    ReportingProgress,
    ReportLedger,
    SilentProgress,
    TaskReport,
    reporting_to,
    task_progress,
)


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.count = 0
        self.messages: list[str] = []

    def advance(self, n: int = 1) -> None:
        self.count += n

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_outside_of_a_task_progress_is_silent() -> None:
    assert isinstance(task_progress(), SilentProgress)
    task_progress().start("nothing", None)
    task_progress().advance(3)
    task_progress().message("unheard")


def test_within_the_block_a_task_finds_its_progress_and_afterwards_no_more() -> None:
    recorder = Recorder()
    with reporting_to(recorder):
        task_progress().advance(2)
    task_progress().advance(5)
    assert recorder.count == 2


def test_reports_are_rare_and_say_everything_so_far() -> None:
    sent: list[TaskReport] = []
    told = ReportingProgress(send=sent.append)
    for _ in range(10_000):
        told.advance(1)
    told.message("halfway")
    assert len(sent) < 100
    assert told.report().advanced == 10_000
    assert told.report().messages == ("halfway",)


def test_a_report_that_is_repeated_or_told_again_by_a_second_try_counts_once() -> None:
    recorder, ledger = Recorder(), ReportLedger()
    for advanced, messages in [(3, ("a",)), (3, ("a",)), (1, ()), (4, ("a", "b"))]:
        ledger.pass_on(TaskReport(advanced=advanced, messages=messages), recorder)
    assert recorder.count == 4
    assert recorder.messages == ["a", "b"]
