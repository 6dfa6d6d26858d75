"""Picks and micrographs chosen by eye, left as a job that ``extract`` and ``pick train`` take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.data.micrographs import MicrographSet
from halfmap.data.picks import Picks
from halfmap.errors import InputError
from halfmap.io import relion
from halfmap.project.folder import FAILED, SUCCESS, claim

TYPE_FOLDER = "ManualPick"
SAME_PIXEL = 1e-3


@dataclass(frozen=True, kw_only=True)
class PickEdits:
    """What was changed by eye.

    Parameters
    ----------
    added : micrograph name, as in the micrograph table, → positions (x, y) in pixels.
    removed : micrograph name → positions of picks that are not wanted.
    accepted : micrograph name → whether it is wanted; those not named are.
    thresholds : micrograph name → least figure of merit, above that for all.
    threshold : least figure of merit for all micrographs; None: all picks.
    """

    added: Mapping[str, Sequence[tuple[float, float]]]
    removed: Mapping[str, Sequence[tuple[float, float]]]
    accepted: Mapping[str, bool]
    thresholds: Mapping[str, float]
    threshold: float | None = None


def save_manual_picks(
    project: Path, micrographs: Path | MicrographSet, edits: PickEdits, *, picks: Path | Picks | None = None
) -> Path:
    """Write edited picks and the accepted micrographs into a new job folder; nothing is overwritten.

    Parameters
    ----------
    project : its folder.
    micrographs : the table of micrographs, or its file.
    edits : what was changed.
    picks : to begin with, or a file of them in any form that ``halfmap extract`` takes; None: none.

    Returns
    -------
    Path
        Of ``autopick.star``, RELION's list of the coordinate files, in ``ManualPick/jobNNN``; beside it lies
        ``micrographs_selected.star``.

    Raises
    ------
    InputError
        A micrograph is not in the table, or a pick that is removed is not there.
    FormatError
        A table cannot be read.
    ProjectError
        The folder cannot be written to.
    """
    table = relion.read_micrographs(micrographs) if isinstance(micrographs, Path) else micrographs
    names = [str(name) for name in table["micrograph_name"].tolist()]
    known = set(names)
    for given in (edits.added, edits.removed, edits.accepted, edits.thresholds):
        for name in given:
            if name not in known:
                raise InputError(f"An edited micrograph must be in the table; got {name!r}; name it as there.")
    before = relion.read_picks(picks, names, project_root=project) if isinstance(picks, Path) else picks
    accepted = [name for name in names if edits.accepted.get(name, True)]
    if not accepted:
        raise InputError("At least one micrograph must be accepted; got none; accept one.")
    edited = Picks.concatenate([_edited(name, before, edits) for name in accepted])
    job = claim(project, TYPE_FOLDER)
    try:
        relion.write_micrographs(
            job.path / "micrographs_selected.star", table.take([name in set(accepted) for name in names])
        )
        path = relion.write_autopick(job.path, edited, project_root=project)
    except BaseException as error:
        job.mark(FAILED, str(error))
        raise
    job.mark(SUCCESS)
    return path


def _edited(name: str, before: Picks | None, edits: PickEdits) -> Picks:
    """Return the picks of a micrograph: those there were, above the threshold, without the removed, with the added."""
    position, merit = np.zeros((0, 2)), np.zeros(0)
    if before is not None and name in before.micrographs:
        own = before.in_micrograph(name)
        position, merit = own.position_pixel, own.figure_of_merit
    least = edits.thresholds.get(name, edits.threshold)
    kept = np.ones(len(position), dtype=bool) if least is None else merit >= least
    added = np.array(edits.added.get(name, ()), dtype=np.float64).reshape(-1, 2)
    position, merit = np.concatenate([position[kept], added]), np.concatenate([merit[kept], np.ones(len(added))])
    for place in np.array(edits.removed.get(name, ()), dtype=np.float64).reshape(-1, 2):
        distance = np.linalg.norm(position - place, axis=1)
        if not len(distance) or distance.min() > SAME_PIXEL:
            raise InputError(
                f"A removed pick must be one of {name}; got ({place[0]:g}, {place[1]:g}); read the picks again."
            )
        nearest = int(distance.argmin())
        position, merit = np.delete(position, nearest, axis=0), np.delete(merit, nearest)
    return Picks.of_micrograph(name, position, source="by eye", figure_of_merit=merit)
