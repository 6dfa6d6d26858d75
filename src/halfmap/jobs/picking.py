"""What all picking jobs do around a picker: read, pick, write, resume, show.

A picker is a module-level function of a micrograph; its job is a parameter class and one call of `pick_all`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from halfmap.compute.device import task_device
from halfmap.data.picks import Picks
from halfmap.errors import InconsistentDataError
from halfmap.io import relion_picks, star
from halfmap.jobs import micrograph_masks, picking_report
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs, read_finite
from halfmap.jobs.per_micrograph import Rejected, forget_states, rejected_micrographs, resumable_map
from halfmap.jobs.picking_report import PickedMicrograph
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.project.job import JobContext

MICROGRAPHS_SHOWN = 500
"""Micrographs drawn on the page, evenly spaced: what a browser still scrolls through."""

LARGE_PICTURES = 24
"""Micrographs drawn large, evenly spaced; the others small, which costs a fraction."""


class Picker(Protocol):
    """Finds particles in one micrograph, shape (y, x), as recorded; a module-level function, so that it travels, or
    a ``functools.partial`` of one.
    """

    def __call__(self, micrograph: Tensor, *, pixel_size_angstrom: float, params: Any) -> MicrographPicks:
        """Pick in one micrograph."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PickingTask:
    """One micrograph.

    Parameters
    ----------
    name : of the micrograph.
    path, mask : micrograph and where its mask goes, absolute.
    pixel_size_angstrom : of the micrograph.
    picker, params : who picks, and how.
    picture_side : longest side of its picture on the page; 0 for none.
    """

    name: str
    path: Path
    mask: Path
    pixel_size_angstrom: float
    picker: Picker
    params: Any
    picture_side: int


def pick_all(
    context: JobContext,
    micrographs: Path,
    picker: Picker,
    params: Any,
    *,
    pixel_size_angstrom: float | None,
    radius_angstrom: float,
    title: str,
) -> Path:
    """Pick in all micrographs of a table and write what a picking job leaves.

    Parameters
    ----------
    context : the job.
    micrographs : STAR file of the micrographs.
    picker, params : who picks, and how.
    pixel_size_angstrom : of the micrographs, where their table does not know it.
    radius_angstrom : of the circles that are drawn.
    title : of the page, and the picks' source.

    Returns
    -------
    Path
        Of ``autopick.star``.

    Raises
    ------
    JobFailed
        More than a tenth of the micrographs cannot be picked in.
    InconsistentDataError
        Two micrographs would write one coordinate file.
    """
    opened = open_micrographs(context, micrographs, pixel_size_angstrom=pixel_size_angstrom)
    pickers = [picker] * len(opened.names)
    return pick_opened(context, opened, pickers, params, radius_angstrom=radius_angstrom, title=title)


def pick_opened(
    context: JobContext,
    opened: OpenedMicrographs,
    pickers: Sequence[Picker],
    params: Any,
    *,
    radius_angstrom: float,
    title: str,
) -> Path:
    """Pick in micrographs, each with a picker of its own: one that knows its CTF, say; otherwise as `pick_all`.

    Parameters
    ----------
    opened : the micrographs.
    pickers : of each micrograph, picklable.
    """
    names = opened.names
    shown, large = (_evenly(len(names), n) for n in (MICROGRAPHS_SHOWN, LARGE_PICTURES))
    _check_distinct(names)
    tasks = [
        PickingTask(
            name=name,
            path=path,
            mask=context.folder / micrograph_masks.mask_path(name),
            pixel_size_angstrom=float(size),
            picker=picker,
            params=params,
            picture_side=picking_report.LARGE_SIDE if index in large else picking_report.SMALL_SIDE * (index in shown),
        )
        for index, (name, path, size, picker) in enumerate(
            zip(names, opened.paths, opened.pixel_size_angstrom, pickers, strict=True)
        )
    ]
    largest = max(height * width for height, width in opened.shapes)
    context.expect_memory(12 * largest + 2**28, "one micrograph in each worker")
    done: list[tuple[PickingTask, PickedMicrograph]] = []
    rejected = list(opened.rejected)
    results = resumable_map(context, pick_one, tasks, names=names, result_type=PickedMicrograph, label="Picking")
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            done.append((task, result))
    parts = [
        Picks.of_micrograph(
            task.name,
            one.position_pixel,
            source=title,
            figure_of_merit=one.figure_of_merit,
            class_number=one.class_number,
            psi_degrees=one.psi_degrees,
        )
        for task, one in done
    ]
    picks = Picks.concatenate(parts)
    output = relion_picks.write_autopick(context.folder, picks, project_root=context.project)
    micrograph_masks.write_list(
        context,
        [
            micrograph_masks.ListedMask(
                micrograph_name=task.name,
                pixel_size_angstrom=one.mask_pixel_size_angstrom,
                fraction_excluded=sum(one.excluded_share),
                reason=", ".join(one.excluded_reason),
            )
            for task, one in done
        ],
    )
    if rejected:
        star.write(context.folder / "rejected.star", [star.with_version(rejected_micrographs(rejected))])
    context.progress.message(
        f"Picked {len(picks)} particles in {len(done)} micrographs; set aside {len(rejected)} micrographs."
    )
    context.report(
        picking_report.page(
            title,
            [(task.name, one, radius_angstrom / task.pixel_size_angstrom) for task, one in done],
            rejected,
        )
    )
    forget_states(context)
    return output


def pick_one(task: PickingTask) -> PickedMicrograph:
    """Pick in one micrograph and write its mask.

    Raises
    ------
    FormatError
        The micrograph cannot be read or holds values that are no numbers.
    InputError
        The picker cannot work on it.
    """
    micrograph = read_finite(task.path)
    found = task.picker(micrograph.to(task_device()), pixel_size_angstrom=task.pixel_size_angstrom, params=task.params)
    micrograph_masks.write_mask(task.mask, found.reason > 0)
    return PickedMicrograph(
        shape=(micrograph.shape[0], micrograph.shape[1]),
        position_pixel=found.position_pixel,
        figure_of_merit=found.figure_of_merit,
        diameter_angstrom=found.diameter_angstrom,
        threshold=found.threshold,
        n_above=found.n_above,
        mask_pixel_size_angstrom=found.mask_pixel_size_angstrom,
        excluded_reason=tuple(found.reasons),
        excluded_share=tuple(found.reasons.values()),
        class_number=np.zeros(len(found), dtype=np.int64) if found.class_number is None else found.class_number,
        psi_degrees=np.zeros(len(found)) if found.psi_degrees is None else found.psi_degrees,
        picture=_picture(micrograph, found, task.picture_side) if task.picture_side else None,
    )


def _picture(micrograph: Tensor, found: MicrographPicks, side: int) -> np.ndarray:
    """Draw the micrograph, for a small picture from what the picker has reduced already."""
    if side == picking_report.SMALL_SIDE and found.reduced is not None:
        micrograph = found.reduced.cpu()
    return picking_report.picture(micrograph, found.reason, side)


def _evenly(n: int, n_chosen: int) -> set[int]:
    return set(np.linspace(0, n - 1, min(n, n_chosen)).astype(np.int64).tolist())


def _check_distinct(names: list[str]) -> None:
    owner: dict[Path, str] = {}
    for name in names:
        first = owner.setdefault(relion_picks.coordinate_path(name), name)
        if first != name:
            raise InconsistentDataError(
                f"Micrographs must differ in their path after JobType/jobNNN/ and without ending; got {first} and "
                f"{name}; rename one of them."
            )
