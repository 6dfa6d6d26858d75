"""The page of a selection of classes: which were kept and which not, and where their particles came from."""

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun
from halfmap.report.blocks import Axis, Bars, Block, Cell, Fact, Facts, Gallery, Histogram, Note, Report, Section, Table
from halfmap.selection.classes import ClassChoice

MOST_ROWS = 500
"""Micrographs listed one by one; of more, those with the smallest share are."""


def page(run: ClassRun, choice: ClassChoice, keep: NDArray[np.bool_], *, shown: ClassAverages) -> Report:
    """Return the page.

    Parameters
    ----------
    run : the classification, with scores where they decided.
    choice : which of its classes were kept.
    keep : which of its particles were, shape (n,).
    shown : the averages of the classes kept, as they are written.
    """
    averages = run.averages
    counts = averages["n_particles"]
    facts = Facts(
        facts=(
            Fact(
                label="particles selected",
                value=int(keep.sum()),
                note=f"of {len(keep)}: {100 * float(keep.mean()):.1f} %",
            ),
            Fact(label="classes selected", value=int(choice.kept.sum()), note=f"of {len(averages)}"),
        )
    )
    images = averages["average"].copy()
    images[choice.kept] = shown["average"]
    galleries: list[Block] = [_gallery("Selected", images, choice.kept, run, choice)]
    occupied = ~choice.kept & (counts > 0)
    if occupied.any():
        galleries.append(_gallery("Rejected", images, occupied, run, choice))
    n_empty = int((counts == 0).sum())
    if n_empty:
        galleries.append(Note(text=f"{_counted(n_empty, 'class')} without particles: not shown."))
    n_unassigned = len(keep) - int(counts.sum())
    if n_unassigned:
        text = f"{_counted(n_unassigned, 'particle')} without a class: not selected."
        galleries.append(Note(text=text, level="warning"))
    return Report(
        title="Selected classes",
        summary=f"{keep.sum()} of {len(keep)} particles from {choice.kept.sum()} of {len(averages)} classes.",
        facts=facts,
        sections=(
            Section(
                title="Classes",
                blocks=tuple(galleries),
                intro="Counts are of particles whose best class it is; the selection holds just these.",
            ),
            Section(title="Class by class", blocks=(_classes(run, choice),)),
            Section(title="Where the particles came from", blocks=_micrographs(run, keep)),
        ),
    )


def _gallery(
    title: str, images: NDArray[np.float32], rows: NDArray[np.bool_], run: ClassRun, choice: ClassChoice
) -> Gallery:
    averages = run.averages
    counts, numbers = averages["n_particles"], averages["class_number"]
    order = np.flatnonzero(rows)
    order = order[np.argsort(-counts[order], kind="stable")]
    total = max(len(run.particles), 1)
    captions = []
    for row in order.tolist():
        parts = [f"{numbers[row]}: {counts[row]} ({100 * counts[row] / total:.1f} %)"]
        if np.isfinite(choice.resolution_angstrom[row]):
            parts.append(f"{'FRC' if choice.is_frc else 'SSNR'} {choice.resolution_angstrom[row]:.1f} Å")
        if "score" in averages and np.isfinite(averages["score"][row]):
            parts.append(f"score {averages['score'][row]:.2f}")
        captions.append(" · ".join(parts))
    return Gallery.of(
        images[order],
        captions,
        title=f"{title}: {_counted(int(counts[order].sum()), 'particle')} of {_counted(len(order), 'class')}",
        caption="Number, particles, resolution, score; by size. Contrast of each on its own.",
    )


def _classes(run: ClassRun, choice: ClassChoice) -> Table:
    averages = run.averages
    total = max(len(run.particles), 1)
    optional = (
        ("fraction", "expected share (%)", 100.0),
        ("frc_resolution_angstrom", "FRC resolution (Å)", 1.0),
        ("ssnr_resolution_angstrom", "model SSNR (Å)", 1.0),
        ("rotation_accuracy_degrees", "rotation accuracy (°)", 1.0),
        ("offset_accuracy_angstrom", "offset accuracy (Å)", 1.0),
        ("score", "score", 1.0),
    )
    there = [entry for entry in optional if entry[0] in averages]
    rows: list[tuple[Cell, ...]] = []
    for row in range(len(averages)):
        count = int(averages["n_particles"][row])
        rows.append(
            (
                int(averages["class_number"][row]),
                "yes" if choice.kept[row] else "no",
                choice.reason[row],
                count,
                round(100 * count / total, 2),
                *(_rounded(factor * averages[name][row]) for name, _, factor in there),
            )
        )
    return Table(
        columns=("class", "selected", "why", "particles", "share (%)", *(heading for _, heading, _ in there)),
        rows=rows,
        caption="The expected share counts every particle in all classes it may belong to, by its posterior.",
    )


def _micrographs(run: ClassRun, keep: NDArray[np.bool_]) -> tuple[Block, ...]:
    column = "micrograph_name" if "micrograph_name" in run.particles else "group_name"
    names, which = np.unique(run.particles[column].astype(str), return_inverse=True)
    total = np.bincount(which, minlength=len(names))
    selected = np.bincount(which, weights=keep, minlength=len(names)).astype(np.int64)
    share = selected / total
    edges = np.linspace(0, 100, 21)
    histogram = Histogram(
        title="Share selected of each micrograph's particles",
        edges=edges,
        bars=(Bars(label="", counts=np.histogram(100 * share, edges)[0]),),
        x=Axis(label="selected", unit="%"),
        y=Axis(label="micrographs"),
    )
    listed = np.argsort(share, kind="stable")[:MOST_ROWS]
    caption = f"The {MOST_ROWS} with the smallest share of {len(names)}." if len(names) > MOST_ROWS else ""
    table = Table(
        columns=("micrograph", "particles", "selected", "share (%)"),
        rows=[
            (str(names[row]), int(total[row]), int(selected[row]), round(100 * float(share[row]), 1))
            for row in listed.tolist()
        ],
        caption=caption,
    )
    return histogram, table


def _counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
