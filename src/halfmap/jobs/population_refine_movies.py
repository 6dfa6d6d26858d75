"""Which items of `halfmap population refine` align the movies of their tilts, and what is done with new averages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from halfmap.data.image_series import TiltSeries
from halfmap.jobs.population_members import OpenSource
from halfmap.jobs.population_refine_items import ItemTask
from halfmap.jobs.population_tilt_movies import new_averages, why_no_movies
from halfmap.project.job import JobContext


def with_movies(context: JobContext, tasks: Sequence[ItemTask]) -> list[ItemTask]:
    """Return the tasks, of which those without raw frames leave the averages of their tilts as they are."""
    checked, reasons = list[ItemTask](), list[str]()
    for task in tasks:
        series = task.source.read_item(task.item)
        reason: str | None = "frame series have no tilts"
        if isinstance(series, TiltSeries):
            reason = why_no_movies(task.source, task.item, series)
        if reason is not None:
            reasons.append(reason)
        checked.append(replace(task, aligns_movies=reason is None))
    if reasons:
        context.progress.message(
            f"--tilt-movies is not for {len(reasons)} of {len(tasks)} items, which lack raw frames of their tilts: "
            f"{reasons[0]}"
        )
    return checked


def stage_averages(source: OpenSource, staged: Path, tasks: Sequence[ItemTask]) -> None:
    """Put new averages of a source's tilts into the version that is being made."""
    made = list[tuple[Path, Path]]()
    for task in tasks:
        if task.source is source and task.aligns_movies and task.averages.is_dir():
            series = source.read_item(task.item)
            assert isinstance(series, TiltSeries)
            made += new_averages(source, task.item, series, task.averages)
    versions = [source.versions.version_folder(version) for version, _, _ in source.versions.history()]
    source.averages.stage(made, staged, versions)
