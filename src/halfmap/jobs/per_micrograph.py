"""Working through micrographs one at a time, so that a killed job loses only those in flight.

Every job that treats micrographs alone (picking, extraction, simulation) goes through `resumable_map`:
a task's result is a frozen dataclass, saved under ``state/`` of the job's folder as soon as it exists and
loaded instead of computed when the job is continued.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from halfmap.errors import FormatError, InconsistentDataError, InputError, JobFailed
from halfmap.io import star
from halfmap.project.job import JobContext

T = TypeVar("T")
Item = TypeVar("Item")

TOLERATED = 0.1
"""Share of bad micrographs or particles up to which a job goes on without them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rejected:
    """A micrograph that could not be treated, and why."""

    name: str
    reason: str


def resumable_map(
    context: JobContext,
    task: Callable[[Item], T],
    items: Sequence[Item],
    *,
    names: Sequence[str],
    result_type: type[T],
    label: str,
    is_whole: Callable[[Item], bool] | None = None,
    part: str = "",
    what: str = "micrographs",
) -> Iterator[T | Rejected]:
    """Yield the result of a task for each item, in order.

    Parameters
    ----------
    context : the job.
    task : a picklable function of one item that returns a frozen dataclass. What it writes must be
        complete before it returns.
    items, names : what to work on, and the micrographs' names.
    result_type : class of the results.
    label : what the progress line says.
    is_whole : picklable; says whether what a finished task wrote is whole. It may not be where a machine lost its
        power; then the task runs again.
    part : tells the passes of a job apart that makes several.
    what : the items are, for people.

    Yields
    ------
    The result, or `Rejected` where the item's own files or values are at fault. Errors of the machine
    (a full disk, a lost worker) end the job.

    Raises
    ------
    JobFailed
        More than a tenth of the items are bad; the first reasons are named.
    """
    folder = context.folder / "state" / part
    paths = [folder / f"{index:07d}.safetensors" for index in range(len(items))]
    work = partial(_once, task, result_type, is_whole)
    rejected: list[Rejected] = []
    jobs = list(zip(items, names, paths, strict=True))
    for result in context.executor.map(work, jobs, progress=context.progress, label=label):
        if isinstance(result, Rejected):
            context.log(f"set aside {result.name}: {result.reason}")
            rejected.append(result)
            check_rejections(rejected, len(items), what)
        yield result


def forget_states(context: JobContext) -> None:
    """Remove what `resumable_map` kept; call it when the job's outputs are complete."""
    shutil.rmtree(context.folder / "state", ignore_errors=True)


def check_rejections(rejected: Sequence[Rejected], n_items: int, what: str) -> None:
    """Raise `JobFailed`, with the first reasons, when more than a tenth of the input is bad.

    A single bad one is always tolerated, unless it is all there is.
    """
    if len(rejected) <= max(1, TOLERATED * n_items) and len(rejected) < n_items:
        return
    first = "; ".join(_said(one).rstrip(".") for one in rejected[:3])
    raise JobFailed(
        f"At most a tenth of the {what} may be bad; got {len(rejected)} bad ones among {n_items}, the first: "
        f"{first}; mend or remove them and run again."
    )


def _said(one: Rejected) -> str:
    return one.reason if one.name in one.reason else f"{one.name}: {one.reason}"


def rejected_micrographs(rejected: Sequence[Rejected]) -> star.StarTable:
    """Return the table of ``rejected.star``: name and reason of each micrograph set aside."""
    return star.StarTable(
        name="micrographs",
        columns={
            "rlnMicrographName": np.array([one.name for one in rejected]),
            "halfmapReason": np.array([one.reason for one in rejected]),
        },
    )


def _once(
    task: Callable[[Any], Any],
    result_type: type,
    is_whole: Callable[[Any], bool] | None,
    job: tuple[Any, str, Path],
) -> Any:
    from halfmap.io import states  # loads torch, which tables can be looked at without

    item, name, path = job
    if path.exists() and (is_whole is None or is_whole(item)):
        return states.load(path, result_type)
    try:
        result = task(item)
    except (FormatError, InputError, InconsistentDataError) as error:
        return Rejected(name=name, reason=str(error))
    states.save(path, result)
    return result
