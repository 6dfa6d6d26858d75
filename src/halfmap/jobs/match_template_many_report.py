"""The page of ``halfmap match-template`` with many micrographs: all of them on one."""

from collections.abc import Sequence

import numpy as np

from halfmap.jobs.match_template import MatchTemplateJobParams
from halfmap.jobs.match_template_peaks import SCORE_EDGES, MicrographPeaks
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
    Overlay,
    Report,
    Section,
    Table,
)
from halfmap.template_matching.global_search.peaks import density_of_highest, expected_false_positives

SHOWN = 12
"""Micrographs whose pictures are on the page, the first."""

LEAST_FOR_HISTOGRAM = 8
"""Micrographs from which a distribution says more than their table."""

ROWS_SHOWN = 2000
"""Peaks in the table of the page, the highest first."""


def page_of_many(
    parts: Sequence[MicrographPeaks],
    rejected: Sequence[Rejected],
    params: MatchTemplateJobParams,
    warnings: Sequence[str],
    *,
    circle_pixel: float,
) -> Report:
    """Return the page.

    Parameters
    ----------
    parts : what was found, one a micrograph.
    rejected : micrographs set aside, and why.
    params : the settings.
    warnings : sentences to be read first.
    circle_pixel : radius of the circles about peaks.
    """
    numbers = [len(part) for part in parts]
    expected = sum(
        float(expected_false_positives(np.array([part.cutoff]), n_places=part.n_places,
                                       n_correlations=part.n_correlations)[0])
        for part in parts
    )  # fmt: skip
    facts = [
        Fact(label="micrographs", value=len(parts)),
        Fact(label="peaks", value=sum(numbers), note=f"noise gives about {expected:.2g}"),
        Fact(label="in a micrograph", value=round(float(np.median(numbers)), 1), note="median"),
        Fact(label="highest scaled MIP", value=round(max(part.highest for part in parts), 2)),
    ]
    if rejected:
        facts.append(Fact(label="set aside", value=len(rejected), level="warning"))
    distribution = [Histogram.of(np.array(numbers), title="Peaks in a micrograph", x=Axis(label="peaks"))]
    if len(parts) < LEAST_FOR_HISTOGRAM:
        distribution = []
    sections = [
        Section(title="What to know", blocks=[Note(text=text, level="warning") for text in warnings]),
        Section(title="Micrographs", blocks=[_micrographs(parts), *distribution]),
        Section(title="Against noise", blocks=[_scores(parts)], intro=_NOISE),
        Section(title="Where", blocks=_pictures(parts, circle_pixel), intro=_where(len(parts))),
        Section(title="Peaks", blocks=[_peaks(parts)]),
    ]  # fmt: skip
    if rejected:
        table = Table(columns=("micrograph", "reason"), rows=[(one.name, one.reason) for one in rejected])
        sections.append(Section(title="Set aside", blocks=[table]))
    cutoff = f"above {params.cutoff:g}" if params.cutoff else f"at {params.false_positives:g} expected of noise in each"
    return Report(
        title="Template matching",
        summary=f"{sum(numbers)} peaks in {len(parts)} micrographs, {cutoff}.",
        facts=Facts(facts=facts),
        sections=[section for section in sections if section.blocks],
    )


_NOISE = (
    "Of all places of all micrographs. A scaled MIP shifted to the left of its model comes from orientations and "
    "places that are not independent; a tail to the right is what was found."
)


def _where(n: int) -> str:
    shown = "" if n <= SHOWN else f" The first {SHOWN} of {n} micrographs."
    return f"The colour of a circle is the scaled MIP, red for the lowest, blue for the highest.{shown}"


def _micrographs(parts: Sequence[MicrographPeaks]) -> Table:
    rows = [
        (
            part.name.rsplit("/", 1)[-1],
            len(part),
            round(part.highest, 2),
            round(part.cutoff, 2),
            round(part.deviation, 3),
        )
        for part in parts
    ]
    return Table(
        columns=("micrograph", "peaks", "highest scaled MIP", "cutoff", "standard deviation"),
        rows=rows,
        caption="Standard deviation of the correlations, 1 of white noise: one far from it tells of a bad micrograph.",
    )


def _scores(parts: Sequence[MicrographPeaks]) -> Curve:
    counts = np.sum([part.counts for part in parts], axis=0).astype(np.float64)
    middle, width = (SCORE_EDGES[:-1] + SCORE_EDGES[1:]) / 2, SCORE_EDGES[1] - SCORE_EDGES[0]
    model = np.sum([density_of_highest(middle, part.n_correlations) * part.n_places * width for part in parts], axis=0)
    used = np.flatnonzero(counts)
    shown = slice(max(0, int(used[0]) - 2), int(used[-1]) + 3)
    # gaps where a logarithm would fall far below one
    counts, model = (np.where(values > 0.3, values, np.nan)[shown] for values in (counts, model))
    lines = [
        Line(label="found", x=middle[shown], y=counts, style="steps"),
        Line(label="highest of independent noise", x=middle[shown], y=model, style="dashed"),
    ]
    return Curve(
        title="Scaled MIP of all places",
        lines=lines,
        x=Axis(label="scaled MIP"),
        y=Axis(label="places", scale="log"),
        marks=[Mark(value=parts[0].cutoff, label="cutoff")],
    )


def _pictures(parts: Sequence[MicrographPeaks], circle_pixel: float) -> list[Block]:
    blocks: list[Block] = []
    for part in parts:
        if not part.pictures:
            continue
        name = part.name.rsplit("/", 1)[-1]
        corner = part.centre_pixel - (part.shape[0] - part.map_shape[0] + 1) // 2
        for picture, sides, places, what in (
            (part.pictures[0], part.map_shape, corner, "scaled MIP"),
            (part.pictures[1], part.shape, part.centre_pixel, "micrograph"),
        ):
            blocks.append(
                Overlay(
                    picture=picture,
                    shape_pixel=sides,
                    positions_pixel=places,
                    radius_pixel=circle_pixel,
                    values=part.height,
                    value_label="scaled MIP",
                    title=f"{name}: {what}",
                )
            )
    return blocks


def _peaks(parts: Sequence[MicrographPeaks]) -> Table:
    height = np.concatenate([part.height for part in parts])
    owner = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
    row = np.concatenate([np.arange(len(part)) for part in parts])
    best = np.argsort(-height, kind="stable")[:ROWS_SHOWN]
    cells: list[list[str | float]] = []
    for i in best.tolist():
        part, at = parts[int(owner[i])], int(row[i])
        x, y = part.centre_pixel[at]
        cells.append(
            [
                part.name.rsplit("/", 1)[-1],
                round(float(height[i]), 2),
                round(float(x), 1),
                round(float(y), 1),
                *(round(float(part.columns[name][at]), 2) for name in ("phi", "theta", "psi", "relative_defocus")),
                float(f"{part.expected[at]:.2g}"),
            ]
        )
    caption = "Noise: how many peaks as high noise alone gives in the micrograph."
    if len(height) > ROWS_SHOWN:
        caption += f" The {ROWS_SHOWN} highest of {len(height)}; particles.csv has all."
    return Table(
        columns=("micrograph", "scaled MIP", "x (px)", "y (px)", "phi (°)", "theta (°)", "psi (°)", "Δ defocus (Å)",
                 "noise"),
        rows=cells,
        caption=caption,
    )  # fmt: skip
