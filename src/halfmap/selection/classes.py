"""Which classes of a 2D classification are kept, and what happens to their particles."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.fourier import resample
from halfmap.grid import ImageGrid
from halfmap.selection.params import ClassesParams

MIN_GROUP_PARTICLES = 10
"""Fewest particles, on average, from which the scale of a group can be refined."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassChoice:
    """Which classes are kept, and why.

    Parameters
    ----------
    kept : bool, shape (n,).
    reason : of each class, in a few words; empty for a class that simply fulfils all that was asked.
    resolution_angstrom : that was compared, shape (n,); nan or inf: none.
    is_frc : whether it is the FRC's, between halves classified apart, or the model's signal-to-noise ratio's.
    """

    kept: NDArray[np.bool_]
    reason: tuple[str, ...]
    resolution_angstrom: NDArray[np.float64]
    is_frc: bool


def choose(averages: ClassAverages, params: ClassesParams, *, earlier: NDArray[np.bool_] | None = None) -> ClassChoice:
    """Decide which classes are kept: those that fulfil everything asked, and that hold particles.

    Parameters
    ----------
    averages : with ``class_number`` and ``n_particles``, and ``score`` where scores decide.
    params : what is asked.
    earlier : an earlier selection, shape (n,), that also must hold.

    Raises
    ------
    InputError
        Nothing is asked, a class does not exist, those named hold no particles, or none is left.
    InconsistentDataError
        Scores decide, and there are none.

    Notes
    -----
    The next best scores are added among classes that fulfil all the rest, as RELION's class ranker does; asked for
    both a number of particles and of classes, classes are added until both are reached.
    """
    numbers, counts = averages["class_number"], averages["n_particles"]
    resolution, is_frc = compared_resolution(averages)
    _check_asked(params, numbers, earlier)
    if params.classes and not counts[np.isin(numbers, params.classes)].any():
        raise InputError(
            f"`--classes` must name a class with particles; got {', '.join(map(str, params.classes))}, to which none "
            "is assigned; look up the counts in the gallery."
        )
    failures: list[list[str]] = [[] for _ in numbers]

    def demand(holds: NDArray[np.bool_], reason: str) -> None:
        for row in np.flatnonzero(~holds):
            failures[row].append(reason)

    demand(counts > 0, "no particles")
    if params.classes:
        demand(np.isin(numbers, params.classes), "not listed")
    demand(~np.isin(numbers, params.exclude), "excluded")
    if earlier is not None:
        demand(earlier, "not in the earlier selection")
    if params.min_resolution_angstrom is not None:
        worst = params.min_resolution_angstrom
        demand(resolution <= worst, f"resolution worse than {worst:g} Å")
    added: set[int] = set()
    if params.is_scored:
        score = averages["score"]
        fulfils = np.array([not reasons for reasons in failures])
        kept = fulfils & (score >= params.threshold)
        added = _next_best(kept, fulfils, score, counts, params)
        kept[list(added)] = True
        demand(kept | ~fulfils | np.isnan(score), f"score below {params.threshold:g}")
        demand(kept | ~fulfils | ~np.isnan(score), "no score")
    kept = np.array([not reasons for reasons in failures])
    if not kept.any():
        each = sorted({reason for reasons in failures for reason in reasons})
        raise InputError(
            f"At least one of the {len(numbers)} classes must be selected; got none ({', '.join(each)}); ask for less."
        )
    reasons = ["next best score" if row in added else ", ".join(failures[row]) for row in range(len(numbers))]
    return ClassChoice(kept=kept, reason=tuple(reasons), resolution_angstrom=resolution, is_frc=is_frc)


def compared_resolution(averages: ClassAverages) -> tuple[NDArray[np.float64], bool]:
    """Return the resolution by which classes are compared, in Å, and whether it is the FRC's."""
    frc = averages.get("frc_resolution_angstrom", np.nan)
    if np.isfinite(frc).any():
        return frc, True
    return averages.get("ssnr_resolution_angstrom", np.inf), False


def particles_of(particles: ParticleSet, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which particles are in one of these classes, by hard assignment, shape (n,)."""
    return np.isin(particles.get("class_number", 0), numbers)


def recentred(
    averages: ClassAverages, particles: ParticleSet, centres_angstrom: NDArray[np.float64]
) -> tuple[ClassAverages, ParticleSet]:
    """Move a point of each average to the centre of its box, and its particles with it.

    Parameters
    ----------
    averages : of some classes.
    particles : with ``class_number``, ``rotation`` and ``origin_angstrom``; those of other classes stay.
    centres_angstrom : the points, (x, y) from the centre of the box, shape (n, 2).

    Notes
    -----
    A point v of the average appears in the image at (A v)_xy − origin. When v is to be the new centre, the origin
    becomes origin − (A v)_xy. RELION moves the averages it saves, not the particles.
    """
    moved: dict[str, NDArray] = {
        name: _moved(averages[name], averages.grid, -centres_angstrom)
        for name in ("average", "unmasked_average")
        if name in averages
    }
    if "prior_offset_angstrom" in averages:
        moved["prior_offset_angstrom"] = np.zeros((len(averages), 2))
    row_of = {int(number): row for row, number in enumerate(averages["class_number"])}
    rows = np.array([row_of.get(int(number), -1) for number in particles["class_number"]], dtype=np.int64)
    centre = np.where((rows >= 0)[:, None], centres_angstrom[rows], 0.0)
    rotation = particles.get("rotation", np.eye(3))
    shift = np.einsum("nij,nj->ni", rotation[:, :2, :2], centre)
    origin = particles.get("origin_angstrom", 0.0) - shift
    return averages.with_columns(**moved), particles.with_columns(origin_angstrom=origin)


def regrouped(particles: ParticleSet, scale: Mapping[str, float], *, number: int) -> ParticleSet:
    """Join groups of particles of like scale into larger ones.

    Parameters
    ----------
    particles : with ``group_name``.
    scale : refined grey scale of each group.
    number : about how many groups there shall be.

    Returns
    -------
    ParticleSet
        With ``group_name`` set to ``group_01`` and so on, and without ``group_number``.

    Raises
    ------
    InputError
        Groups would hold fewer than 10 particles on average.

    Notes
    -----
    RELION's rule: within each optics group, groups in the order of their scale are joined until they hold more than
    particles / number. What is left at the end, where it is less than half of that, goes to the group before it.
    """
    wanted = len(particles) / number
    if wanted < MIN_GROUP_PARTICLES:
        most = max(1, len(particles) // MIN_GROUP_PARTICLES)
        raise InputError(
            f"Groups must hold at least {MIN_GROUP_PARTICLES} particles on average; got {number} groups for "
            f"{len(particles)} particles; give --regroup {most} or less."
        )
    names, optics = particles["group_name"].astype(str), particles["optics_group"]
    joined = np.zeros(len(particles), dtype=np.int64)
    last = 0
    for group in np.unique(optics):
        mine = optics == group
        found, counts = np.unique(names[mine], return_counts=True)
        number_of: dict[str, int] = {}
        last, held = last + 1, 0
        first = last
        order = sorted(range(len(found)), key=lambda row: (scale.get(str(found[row]), 1.0), str(found[row])))
        for row in order:
            if held > wanted:
                last, held = last + 1, 0
            number_of[str(found[row])] = last
            held += int(counts[row])
        if held < wanted / 2 and last > first:
            number_of = {name: min(number, last - 1) for name, number in number_of.items()}
            last -= 1
        joined[mine] = [number_of[name] for name in names[mine]]
    width = max(2, len(str(last)))
    texts = np.array([f"group_{number:0{width}d}" for number in joined.tolist()], dtype=object)
    return particles.without_columns("group_number").with_columns(group_name=texts)


def _check_asked(params: ClassesParams, numbers: NDArray[np.int64], earlier: NDArray[np.bool_] | None) -> None:
    asked = params.classes or params.exclude or params.is_scored or params.min_resolution_angstrom is not None
    if not asked and earlier is None:
        raise InputError(
            "select classes must be told which classes to keep; got nothing; add --classes, --exclude, --auto, "
            "--min-score, --min-resolution or --selection."
        )
    for flag, listed in (("--classes", params.classes), ("--exclude", params.exclude)):
        unknown = sorted(set(listed) - set(numbers.tolist()))
        if unknown:
            raise InputError(
                f"`{flag}` must name classes of the run, {numbers.min()} to {numbers.max()}; got "
                f"{', '.join(map(str, unknown))}; look up the numbers in its gallery."
            )
    if earlier is not None and len(earlier) != len(numbers):
        raise InputError(
            f"`--selection` must have one row for each of the {len(numbers)} classes; got {len(earlier)}; "
            "use the backup_selection.star that was made from this run."
        )


def _next_best(
    kept: NDArray[np.bool_],
    fulfils: NDArray[np.bool_],
    score: NDArray[np.float64],
    counts: NDArray[np.int64],
    params: ClassesParams,
) -> set[int]:
    """Return the rows that are added to those kept until there are enough particles and classes."""
    added: set[int] = set()
    n_particles, n_classes = int(counts[kept].sum()), int(kept.sum())
    candidates = np.flatnonzero(fulfils & ~kept & np.isfinite(score))
    for row in candidates[np.argsort(-score[candidates], kind="stable")].tolist():
        if n_particles >= (params.min_particles or 0) and n_classes >= (params.min_classes or 0):
            break
        added.add(row)
        n_particles += int(counts[row])
        n_classes += 1
    return added


def _moved(images: NDArray[np.float32], grid: ImageGrid, shifts_angstrom: NDArray[np.float64]) -> NDArray[np.float32]:
    moved = resample.shift(torch.from_numpy(np.array(images)), grid, torch.from_numpy(shifts_angstrom))
    return moved.numpy().astype(np.float32)
