"""Contexts of jobs without the runner around them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.project.job import JobContext
from halfmap.project.options import RunOptions


@dataclass
class Told:
    """A progress that remembers what it was told."""

    messages: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    advanced: int = 0

    def start(self, label: str, total: int | None) -> None:
        self.labels.append(label)

    def advance(self, n: int = 1) -> None:
        self.advanced += n

    def message(self, text: str) -> None:
        self.messages.append(text)


def a_context(project: Path, *, job: str = "Class2D/job001", cancelled: bool = False, **options: Any) -> JobContext:
    """Return the context of a job in a project, with one worker; what it tells is in ``progress.messages``."""
    folder = project / job
    folder.mkdir(parents=True, exist_ok=True)
    told = Told()
    return JobContext(
        folder=folder,
        project=project,
        command="halfmap test",
        options=RunOptions(**{"workers": 1, "devices": "cpu", **options}),
        progress=told,
        log=told.messages.append,
        is_cancelled=lambda: cancelled,
        seed=1,
        continuing=False,
    )
