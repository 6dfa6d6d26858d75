"""What `halfmap pick compare` shows and writes: counts, curves, differences of position, pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.io import star
from halfmap.io.images import read_micrograph
from halfmap.picking.agreement import Agreement
from halfmap.picking.comparison import Comparison, Positions
from halfmap.project.job import JobContext
from halfmap.report.blocks import (
    Axis,
    Block,
    Curve,
    Fact,
    Facts,
    Histogram,
    Line,
    Note,
    Overlay,
    Report,
    Scatter,
    Section,
    Table,
)

PICTURE_SIDE = 700


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One list of picks, and how it agrees with the positions taken as right.

    Parameters
    ----------
    name : of the list.
    picked : its picks in each micrograph.
    result : the comparison.
    """

    name: str
    picked: Sequence[Positions]
    result: Comparison


def table(context: JobContext, compared: Sequence[Compared], right: str, names: Sequence[str]) -> Path:
    """Write ``comparison.star``: totals of each list, and each micrograph's counts; return its path."""
    totals = {
        "halfmapPicks": [one.name for one in compared],
        "halfmapComparedWith": [right for _ in compared],
        **_columns([one.result.total for one in compared]),
    }
    each = {
        "halfmapPicks": [one.name for one in compared for _ in names],
        "rlnMicrographName": [name for _ in compared for name in names],
        **_columns([count for one in compared for count in one.result.counts]),
    }
    path = context.folder / "comparison.star"
    tables = [
        star.StarTable(name=name, columns={label: np.array(values) for label, values in columns.items()})
        for name, columns in (("comparison", totals), ("micrographs", each))
    ]
    star.write(path, [star.with_version(tables[0]), tables[1]])
    return path


def _columns(counts: Sequence[Agreement]) -> dict[str, list[str]]:
    return {
        "halfmapNrPicked": [str(count.n_picked) for count in counts],
        "halfmapNrKnown": [str(count.n_true) for count in counts],
        "halfmapNrMatched": [str(count.n_matched) for count in counts],
        "halfmapPrecision": [f"{count.precision:.4f}" for count in counts],
        "halfmapRecall": [f"{count.recall:.4f}" for count in counts],
        "halfmapF1": [f"{count.f1:.4f}" for count in counts],
    }


def page(
    compared: Sequence[Compared],
    *,
    right: tuple[str, Sequence[Positions]],
    is_truth: bool,
    micrographs: Sequence[tuple[str, Path, float]],
    diameter_angstrom: float,
    n_pictures: int,
) -> Report:
    """Return the page.

    Parameters
    ----------
    compared : the lists.
    right : name and positions of what they are held against.
    is_truth : whether that is known to be right, or one more list of picks.
    micrographs : name, file and pixel size of each.
    diameter_angstrom : of the particles.
    n_pictures : micrographs to be shown.
    """
    taken = "known to be right" if is_truth else "taken as right"
    sections = [
        Section(
            title="Agreement",
            intro=f"Held against {right[0]}, {taken}: {sum(map(len, right[1]))} positions in {len(micrographs)} "
            f"micrographs. Pairs lie within a quarter of the diameter, {diameter_angstrom / 4:g} Å; as many are made "
            "as can be, each position in one of them.",
            blocks=(_totals(compared), *_remarks(compared)),
        ),
        Section(title="Over the figure of merit", blocks=tuple(_curves(compared))),
        Section(title="Differences of position", blocks=tuple(_differences(compared, diameter_angstrom / 4))),
        Section(title="Each micrograph", blocks=(_each(compared, [name for name, _, _ in micrographs]),)),
    ]
    chosen = sorted(set(np.linspace(0, len(micrographs) - 1, min(n_pictures, len(micrographs))).astype(int).tolist()))
    pictures = [
        _overlay(one, right, index, micrographs[index], diameter_angstrom, is_truth=is_truth)
        for index in chosen
        for one in compared
    ]
    if pictures:
        sections.append(Section(title="Micrographs", blocks=tuple(pictures)))
    return Report(
        title="Comparison of picks",
        summary=" ".join(f"{one.name}: F1 {one.result.total.f1:.3f}." for one in compared),
        facts=Facts(facts=tuple(Fact(label="F1", value=round(o.result.total.f1, 3), note=o.name) for o in compared)),
        sections=tuple(sections),
    )


def _totals(compared: Sequence[Compared]) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for one in compared:
        total, best = one.result.total, one.result.best
        at_best = (
            (None, None) if best is None else (float(one.result.f1[best]), float(one.result.curve.threshold[best]))
        )
        rows.append((one.name, total.n_picked, total.n_matched, total.precision, total.recall, total.f1, *at_best))
    return Table(
        columns=("list", "picks", "matched", "precision", "recall", "F1", "best F1", "at figure of merit ≥"),
        rows=rows,
        caption="The best F1 is that of the threshold chosen afterwards on these micrographs, so it flatters a little.",
    )


def _remarks(compared: Sequence[Compared]) -> list[Note]:
    empty = [one.name for one in compared if one.result.best is None]
    return [Note(text=f"{name} has no picks in these micrographs.", level="warning") for name in empty]


def _has_merits(one: Compared) -> bool:
    return len(one.result.curve.threshold) > 1


def _curves(compared: Sequence[Compared]) -> list[Block]:
    """Draw curves of the lists whose picks differ in figure of merit."""
    ranked = [one for one in compared if _has_merits(one)]
    if not ranked:
        return [Note(text="The picks have no figures of merit that differ, so there is no curve over them.")]
    blocks: list[Block] = [
        Curve(
            title="Recall and precision",
            lines=[Line(label=one.name, x=one.result.curve.recall, y=one.result.curve.precision) for one in ranked],
            x=Axis(label="recall", limits=(0, 1)),
            y=Axis(label="precision", limits=(0, 1)),
        )
    ]
    for one in ranked:
        curve = one.result.curve
        series = (("precision", curve.precision), ("recall", curve.recall), ("F1", one.result.f1))
        blocks.append(
            Curve(
                title=one.name,
                lines=[Line(label=label, x=curve.threshold, y=values) for label, values in series],
                x=Axis(label="least figure of merit"),
                y=Axis(label="share", limits=(0, 1)),
            )
        )
    return blocks


def _differences(compared: Sequence[Compared], reach: float) -> list[Block]:
    blocks: list[Block] = []
    for one in compared:
        offset = one.result.offset_angstrom
        if not len(offset):
            continue
        mean, spread = offset.mean(axis=0), np.sqrt((offset**2).sum(axis=1).mean())
        blocks += [
            Histogram.of(
                np.hypot(offset[:, 0], offset[:, 1]),
                title=f"Distances: {one.name}",
                x=Axis(label="distance of a pair", unit="Å", limits=(0, reach)),
                caption=f"Root mean square {spread:.1f} Å.",
            ),
            Scatter(
                title=f"Directions: {one.name}",
                points=offset,
                x=Axis(label="x", unit="Å"),
                y=Axis(label="y", unit="Å"),
                equal=True,
                caption=f"Mean ({mean[0]:.1f}, {mean[1]:.1f}) Å: far from 0, one list counts from another pixel.",
            ),
        ]
    return blocks or [Note(text="There are no pairs.")]


def _each(compared: Sequence[Compared], names: Sequence[str]) -> Table:
    rows = [
        (Path(name).name, one.name, count.n_picked, count.n_true, count.precision, count.recall, count.f1)
        for one in compared
        for name, count in zip(names, one.result.counts, strict=True)
    ]
    return Table(columns=("micrograph", "list", "picks", "known", "precision", "recall", "F1"), rows=rows)


def _overlay(
    one: Compared,
    right: tuple[str, Sequence[Positions]],
    index: int,
    micrograph: tuple[str, Path, float],
    diameter_angstrom: float,
    *,
    is_truth: bool,
) -> Overlay:
    """Draw one list on one micrograph: what is in both, and what is in one alone."""
    name, path, pixel_size = micrograph
    picked, known = one.picked[index], right[1][index]
    mine, theirs = one.result.pairs[index]
    missed = np.setdiff1d(np.arange(len(known)), theirs)
    labels = ("right", "wrong", "missed") if is_truth else ("in both", "only in this list", "only in the first list")
    kinds = np.concatenate([~np.isin(np.arange(len(picked)), mine), np.full(len(missed), 2)])
    return Overlay.of(
        read_micrograph(path),
        np.concatenate([picked.position_angstrom, known.position_angstrom[missed]]) / pixel_size,
        radius_pixel=diameter_angstrom / 2 / pixel_size,
        values=np.concatenate([picked.figure_of_merit, np.full(len(missed), np.nan)]) if _has_merits(one) else None,
        kind_labels=labels,
        kinds=kinds,
        title=f"{Path(name).name}: {one.name}",
        max_side=PICTURE_SIDE,
    )
