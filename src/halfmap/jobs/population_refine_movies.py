"""Which items of `halfmap population refine` align the movies of their tilts, and what is done with new averages."""

from collections.abc import Sequence
from dataclasses import replace

from halfmap.data.image_series import TiltSeries
from halfmap.jobs.population_refine_items import ItemTask
from halfmap.jobs.population_tilt_movies import use_averages, why_no_movies
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


def bring_averages_into_use(tasks: Sequence[ItemTask]) -> None:
    """Put new averages in the place of those before, which are kept beside them."""
    for task in tasks:
        if task.aligns_movies and task.averages.is_dir():
            series = task.source.read_item(task.item)
            assert isinstance(series, TiltSeries)
            use_averages(task.source, task.item, series, task.averages, task.source.source.version)
