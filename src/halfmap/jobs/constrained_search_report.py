"""The page of ``halfmap constrained-search``: which particles have the domain, and how it lies in them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.io.leopard import LeopardColumns
from halfmap.jobs.constrained_search import ConstrainedSearchJobParams
from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import (
    Axis,
    Block,
    Curve,
    Fact,
    Facts,
    Histogram,
    Line,
    Mark,
    Note,
    Report,
    Scatter,
    Section,
    Table,
)
from halfmap.template_matching.global_search.peaks import density_of_highest
from halfmap.template_matching.refine import Refined

ROWS_SHOWN = 2000
"""Particles in the table of the page, the highest first."""

BINS = 50


def page(
    written: LeopardColumns,
    refined: Refined,
    rows: NDArray[np.int64],
    rejected: Mapping[int, Rejected],
    turns: Mapping[str, NDArray[np.float64]],
    n_trials: int,
    cutoff: float,
    params: ConstrainedSearchJobParams,
    warnings: Sequence[str],
) -> Report:
    """Return the page.

    Parameters
    ----------
    written : the table written.
    refined, rows : what was found, and of which rows.
    rejected : reason of each row set aside.
    turns : of `domain_turns`.
    n_trials, cutoff : scores of each particle, and the one that counts as found.
    params : the settings.
    warnings : sentences to be read first.
    """
    z = refined.z.numpy()
    passes = z > cutoff
    expected = params.false_positives * len(z)
    facts = [
        Fact(label="particles", value=len(z)),
        Fact(label="with the domain", value=int(passes.sum()), note=f"noise gives about {expected:.2g}"),
        Fact(label="cutoff", value=round(cutoff, 2), note=f"of {n_trials:,} trials"),
    ]
    if passes.any():
        facts.append(Fact(label="mean z", value=round(float(z[passes].mean()), 2), note="above the cutoff"))
    if rejected:
        facts.append(Fact(label="set aside", value=len(rejected), level="warning"))
    notes = [*warnings, *([] if passes.any() else [_NOTHING])]
    sections = [
        Section(title="What to know", blocks=[Note(text=text, level="warning") for text in notes]),
        Section(title="Scores", blocks=_scores(refined, turns, n_trials, cutoff), intro=_SCORES),
        Section(title="How the domain lies", blocks=_places(refined, turns, passes, params)),
        Section(title="Particles", blocks=[_table(written, refined, rows, turns, cutoff)]),
    ]
    if rejected:
        table = Table(
            columns=("line of the table", "reason"),
            rows=[(row + 2, one.reason) for row, one in sorted(rejected.items())],
        )
        sections.append(
            Section(title="Set aside", blocks=[table], intro="These particles keep their rows, as they were known.")
        )
    return Report(
        title="Constrained search",
        facts=Facts(facts=facts),
        sections=[section for section in sections if section.blocks],
        summary=f"{int(passes.sum())} of {len(z)} particles have the domain, at a score above {cutoff:.2f}.",
    )


_NOTHING = (
    "No particle lies above the cutoff. See that the template of the domain lies in the frame of the particle's, that "
    "the axis and the ranges are right, and that the domain is large enough to be seen alone."
)
_SCORES = (
    "Before: the domain as the particle has it, neither turned nor moved. The model is the highest of as many "
    "independent trials of noise; neighbouring trials share their noise, so particles without the domain lie to its "
    "left."
)


def _scores(refined: Refined, turns: Mapping[str, NDArray[np.float64]], n_trials: int, cutoff: float) -> list[Block]:
    z, start = refined.z.numpy(), refined.start_z.numpy()
    edges = np.linspace(min(float(z.min()), 0.0), max(float(z.max()), cutoff) + 0.5, BINS + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    return [
        Scatter(
            title="Scores before and after",
            points=np.stack([start, z], axis=-1),
            x=Axis(label="z before"),
            y=Axis(label="z after"),
            colours=turns["domain_turn_degrees"],
            colour=Axis(label="turn", unit="°"),
        ),
        Curve(
            title="Scores after",
            lines=[
                Line(label="found", x=middle, y=np.histogram(z, edges)[0], style="steps"),
                Line(
                    label="highest of independent noise",
                    x=middle,
                    y=density_of_highest(middle, n_trials) * len(z) * width,
                    style="dashed",
                ),
            ],
            x=Axis(label="z"),
            y=Axis(label="particles"),
            marks=[Mark(value=cutoff, label="cutoff")],
        ),
    ]


def _places(
    refined: Refined,
    turns: Mapping[str, NDArray[np.float64]],
    passes: NDArray[np.bool_],
    params: ConstrainedSearchJobParams,
) -> list[Block]:
    """Draw turns and tilts, of particles above the cutoff and of the others."""
    if not passes.any():
        return []
    blocks: list[Block] = []
    for name, title in (("domain_turn_degrees", "Turns about the axis"), ("domain_tilt_degrees", "Tilts")):
        parts: dict[str, ArrayLike] = {"above the cutoff": turns[name][passes]}
        if not passes.all():
            parts["below"] = turns[name][~passes]
        blocks.append(Histogram.of(parts, title=title, x=Axis(label=title.lower(), unit="°")))
    blocks.append(
        Scatter(
            title="Turns and scores",
            points=np.stack([turns["domain_turn_degrees"], refined.z.numpy()], axis=-1),
            x=Axis(label="turn about the axis", unit="°"),
            y=Axis(label="z"),
            caption=f"Turns from {params.turn_min_degrees:g} to {params.turn_max_degrees:g}° were tried.",
        )
    )
    return blocks


def _table(
    written: LeopardColumns,
    refined: Refined,
    rows: NDArray[np.int64],
    turns: Mapping[str, NDArray[np.float64]],
    cutoff: float,
) -> Table:
    z = refined.z.numpy()
    best = np.argsort(-z, kind="stable")[:ROWS_SHOWN]
    names = written.columns["micrograph_path"]
    cells = [
        (
            int(rows[i]) + 2,
            str(names[rows[i]]).rsplit("/", 1)[-1],
            round(float(z[i]), 2),
            round(float(refined.start_z[i]), 2),
            "yes" if z[i] > cutoff else "no",
            round(float(turns["domain_turn_degrees"][i]), 1),
            round(float(turns["domain_tilt_degrees"][i]), 1),
            round(float(refined.defocus_offset_angstrom[i])),
        )
        for i in best.tolist()
    ]
    return Table(
        columns=("line", "micrograph", "z", "z before", "domain", "turn (°)", "tilt (°)", "Δ defocus (Å)"),
        rows=cells,
        caption="" if len(z) <= ROWS_SHOWN else f"The best {ROWS_SHOWN} of {len(z)}; all are in particles.csv.",
    )
