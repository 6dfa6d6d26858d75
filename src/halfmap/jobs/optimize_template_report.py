"""The page of ``halfmap optimize-template``: how the scores change with the template."""

import math
from collections.abc import Sequence

from halfmap.data.volumes import Volume
from halfmap.jobs.volume_report import central_slices
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Histogram, Line, Mark, Note, Report, Section
from halfmap.template_matching.optimize import Walk

LABEL_SHARE = 0.08
"""Share of an axis that a label takes."""


def page(walks: Sequence[Walk], usual: float, template: Volume, n_rejected: int, warnings: Sequence[str]) -> Report:
    """Return the page.

    Parameters
    ----------
    walks : what was tried; pixel sizes first, B-factors last.
    usual : pixel size given.
    template : the best one.
    n_rejected : particles set aside.
    warnings : sentences to be read first.
    """
    sizes, factors = [walk for walk in walks if walk.varied == "pixel size"], walks[-1]
    size = sizes[-1].best
    facts = [
        Fact(label="pixel size", value=round(size.value, 4), unit="Å", note=_note(size.uncertainty, "Å")),
        Fact(label="from the one given", value=round(100 * (size.value / usual - 1), 2), unit="%"),
        Fact(label="B-factor", value=round(factors.best.value), unit="Å²", note=_note(factors.best.uncertainty, "Å²")),
        Fact(label="particles that count", value=len(factors.scores)),
        Fact(label="mean z", value=round(float(factors.scores.z.mean(0).max()), 3), note="at the best"),
    ]
    if n_rejected:
        facts.append(Fact(label="set aside", value=n_rejected, level="warning"))
    curves: list[Block] = [
        Curve(
            title="Pixel size",
            lines=[_line(walk) for walk in sizes],
            x=Axis(label="pixel size", unit="Å"),
            y=Axis(label="mean z"),
            marks=_marks(size.value, usual, sizes),
        ),
        Curve(
            title="B-factor",
            lines=[_line(factors)],
            x=Axis(label="B-factor added", unit="Å²"),
            y=Axis(label="mean z"),
            marks=[Mark(value=factors.best.value, label="best")],
        ),
        Histogram.of(factors.scores.z.amax(1).numpy(), title="Scores with the best template", x=Axis(label="z")),
    ]
    sections = [
        Section(title="What to know", blocks=[Note(text=text, level="warning") for text in warnings]),
        Section(
            title="Scores",
            blocks=curves,
            intro="Means over the same particles at every value, in poses and at defoci as they were given, each "
            "at the position that suits it best.",
        ),
        Section(title="Template", blocks=[central_slices(template, "Central slices and projections")]),
    ]
    return Report(
        title="Best template",
        facts=Facts(facts=facts),
        sections=[section for section in sections if section.blocks],
        summary=f"Best at {size.value:.5g} Å, where {usual:.5g} Å was given, with {factors.best.value:+.0f} Å² added "
        "to the template's B-factor.",
    )


def _marks(best: float, given: float, walks: Sequence[Walk]) -> list[Mark]:
    """Return the marks of the best pixel size and of the one given, with one label where two would overlap."""
    tried = [value for walk in walks for value in walk.values]
    if abs(best - given) > LABEL_SHARE * (max(tried) - min(tried)):
        return [Mark(value=best, label="best"), Mark(value=given, label="given")]
    return [Mark(value=min(best, given)), Mark(value=max(best, given), label="best and given")]


def _line(walk: Walk) -> Line:
    return Line(label=walk.name, x=walk.values, y=walk.scores.z.mean(0).numpy(), style="line")


def _note(uncertainty: float, unit: str) -> str:
    return f"± {uncertainty:.2g} {unit} by the noise" if math.isfinite(uncertainty) else ""
