"""The series of `halfmap population refine`: each by itself, or all of a source with one microscope."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halfmap.data.population import SourceItem
from halfmap.io.atomic import write_json
from halfmap.jobs.per_micrograph import Rejected, resumable_map
from halfmap.jobs.population_images import why_broken
from halfmap.jobs.population_members import OpenSource
from halfmap.jobs.population_refine_items import ItemOutcome, ItemTask, is_written, refine_item
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.shared_optics import (
    SharedOptics,
    changed_optics,
    mean_optics,
    together,
    with_optics,
    without_optics,
)
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.population_refine import RefinePopulationParams
    from halfmap.jobs.population_refine_work import Work


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """What became of the items.

    Parameters
    ----------
    outcomes : of those that were refined, by their number.
    rejected : those that could not be, by their number.
    optics : of each source whose items share them, by its name.
    """

    outcomes: Mapping[int, ItemOutcome] = field(default_factory=dict)
    rejected: Mapping[int, Rejected] = field(default_factory=dict)
    optics: Mapping[str, SharedOptics] = field(default_factory=dict)


def refined_path(folder: Path, source: OpenSource, item: SourceItem) -> Path:
    """Return where a job writes the refined metadata of an item."""
    return folder / "refined" / source.source.name / source.metadata_path(item).name


def refine_items(context: JobContext, params: "RefinePopulationParams", work: "Work") -> Fitted:
    """Refine all items that hold enough particles, unless nothing is to be fitted."""
    if not is_anything_chosen(work.tasks[0].choice):
        context.progress.message("Nothing is to be fitted: maps are made of particles and series as they are.")
        return Fitted()
    tasks = {number: task for number, task in enumerate(work.tasks) if task.n_particles >= params.min_particles}
    left = len(work.tasks) - len(tasks)
    if left:
        context.progress.message(f"{left} items hold fewer than {params.min_particles} particles and stay as they are.")
    if params.share_optics and tasks:
        return _with_shared_optics(context, work, tasks)
    return _refined(context, tasks, label="Refining series")


def is_anything_chosen(choice: ParameterChoice) -> bool:
    """Return whether any parameter is to be fitted."""
    return any(bool(getattr(choice, name)) for name in ParameterChoice.__dataclass_fields__)


def _refined(context: JobContext, tasks: Mapping[int, ItemTask], *, label: str, part: str = "") -> Fitted:
    for folder in {task.refined.parent for task in tasks.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    results = resumable_map(
        context,
        refine_item,
        list(tasks.values()),
        names=[task.item.name for task in tasks.values()],
        result_type=ItemOutcome,
        label=label,
        is_whole=is_written,
        part=part,
        what="series",
    )
    outcomes, rejected = dict[int, ItemOutcome](), dict[int, Rejected]()
    for (number, task), result in zip(tasks.items(), results, strict=True):
        if isinstance(result, Rejected):
            rejected[number] = result
            continue
        outcomes[number] = result
        gain = result.objective_before - result.objective_after
        what = "M's score" if task.schedule.objective == "m_ncc" else "log-likelihood"
        said = f"{what} {gain:+.0f}" if result.is_changed else f"left as it was, as {result.reason}"
        context.log(f"{task.item.name}: {task.n_particles} particles, {said}")
        for movie in result.movies:
            said = movie.reason or f"aligned, log-likelihood {movie.gain:+.0f}"
            context.log(f"{task.item.name}, frames of tilt {movie.tilt + 1}: {said}")
    return Fitted(outcomes=outcomes, rejected=rejected)


def _with_shared_optics(context: JobContext, work: "Work", tasks: Mapping[int, ItemTask]) -> Fitted:
    """Refine items each with optics of its own, put these together, and refine the items again with what is shared.

    Both passes begin where the items were, so that no prior counts twice.
    """
    start = _optics_at_start(context, list(tasks.values()))
    own = {
        number: replace(
            task,
            optics=start[task.source.source.name],
            refined=task.refined.parent / "own" / task.refined.name,
            aligns_movies=False,
        )
        for number, task in tasks.items()
    }
    first = _refined(context, own, label="Refining series and their optics", part="own optics")
    shared, now = dict[str, SharedOptics](), dict[str, dict[str, Any]]()
    for source in work.opened.sources:
        name = source.source.name
        mine = {number: one.optics for number, one in first.outcomes.items() if tasks[number].source is source}
        found = [one for one in mine.values() if one is not None]
        if not found:
            continue
        shared[name] = together(found)
        of_source = tasks[next(iter(mine))]
        now[name] = changed_optics(of_source.start, of_source.choice, start[name], shared[name].change)
        context.log(
            f"{name}: optics of {len(found)} series, which differ {shared[name].disagreement:.2f} times as much as "
            "their error bars say"
        )
    second = {
        number: replace(task, optics=now[name], choice=without_optics(task.choice, task.start))
        for number, task in tasks.items()
        if (name := task.source.source.name) in now and number not in first.rejected
    }
    second = {number: task for number, task in second.items() if is_anything_chosen(task.choice)}
    fitted = _refined(context, second, label="Refining series with one optics") if second else Fitted()
    rejected = {**first.rejected, **fitted.rejected}
    _write_others(work, now, [work.tasks[number].refined for number in rejected])
    return replace(fitted, rejected=rejected, optics=shared)


def _optics_at_start(context: JobContext, tasks: Sequence[ItemTask]) -> dict[str, dict[str, Any]]:
    """Return the optics that the items of each source begin with, by its name; a continued job finds them again."""
    path = context.folder / "state" / "optics.json"
    if not path.is_file():
        start = {}
        for source in {task.source.source.name: task.source for task in tasks}.values():
            series = [task.start for task in tasks if task.source is source]
            fields = mean_optics(series, tasks[0].choice)
            start[source.source.name] = {name: np.asarray(value).tolist() for name, value in fields.items()}
        write_json(path, start)
    read = json.loads(path.read_text())
    return {
        source: {name: np.array(value) if isinstance(value, list) else value for name, value in fields.items()}
        for source, fields in read.items()
    }


def _write_others(work: "Work", optics: Mapping[str, Mapping[str, Any]], rejected: Sequence[Path]) -> None:
    """Give the items that were not refined the optics of their source, too, but for those that cannot be used."""
    folder = work.tasks[0].refined.parents[2]
    for source in work.opened.sources:
        for item in source.source.items:
            refined = refined_path(folder, source, item)
            if source.source.name not in optics or refined.is_file() or refined in rejected:
                continue
            if why_broken(source, item) is None:
                refined.parent.mkdir(parents=True, exist_ok=True)
                series = with_optics(source.read_item(item), optics[source.source.name])
                source.write_item(refined.parent, item, series)
