"""The page of `halfmap population refine`: what became of species, series and particles, with error bars."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.jobs.population_report import species_sections, views_section
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Histogram, Line, Note, Report, Section, Table

if TYPE_CHECKING:
    from halfmap.jobs.population_refine_items import ItemOutcome, ItemTask
    from halfmap.jobs.population_refine_run import NewMaps
    from halfmap.jobs.population_refine_series import Fitted
    from halfmap.jobs.population_refine_work import Work

_SHOWN_SERIES = 4
_MOST_LINES = 12
_MOST_DISAGREEMENT = 2.0
_AXES_OF_IMAGE_GRIDS = 3
_FIELDS = {
    **{f"image warp {axis}": f"movement_{axis}_angstrom" for axis in "xy"},
    **{f"stage angle {axis}": f"stage_angle_{axis}_degrees" for axis in "xyz"},
    "defocus": "defocus_angstrom",
    "phase shift": "phase_shift_degrees",
}
_UNITS = {"rad": ("°", 180 / math.pi)}


def series_sections(work: "Work", fitted: "Fitted") -> list[Section]:
    """Return what became of the series and of the poses of their particles."""
    set_aside = _set_aside(work, fitted)
    if not fitted.outcomes and not fitted.optics:
        return [Section(title="Series", blocks=set_aside)] if set_aside else []
    blocks = [_series_table(work, fitted), *_remarks(work, fitted), *set_aside, *_gauges(fitted)]
    sections = [Section(title="Series", blocks=blocks)]
    if fitted.optics:
        sections.append(Section(title="Microscope", blocks=_optics(fitted)))
    gained = sorted(fitted.outcomes, key=lambda number: -work.tasks[number].n_particles)
    for number in [one for one in gained if fitted.outcomes[one].is_changed][:_SHOWN_SERIES]:
        blocks = _curves(work.tasks[number], fitted.outcomes[number])
        if blocks:
            sections.append(Section(title=work.tasks[number].item.name, blocks=blocks))
    poses = _pose_histograms(work, fitted)
    if poses:
        intro = "Changes of this run, and standard deviations that the images leave now, of particles that have a say."
        sections.append(Section(title="Particles", blocks=poses, intro=intro))
    return sections


def page(work: "Work", of_series: Sequence[Section], maps: Sequence["NewMaps"], versions: Mapping[str, str]) -> Report:
    """Return the page.

    Parameters
    ----------
    of_series : of `series_sections`.
    versions : of sources and species, by name.
    """
    facts, rows = [], []
    for new, before in zip(maps, work.resolution_angstrom, strict=True):
        after = new.maps.resolution_angstrom
        note = "first maps" if before is None else f"{before:.2f} Å before"
        worse = before is not None and after > before * 1.02
        facts.append(
            Fact(
                label=new.species.name, value=f"{after:.2f}", unit="Å", note=note, level="warning" if worse else "good"
            )
        )
        b_factor = new.maps.b_factor_angstrom2
        rows.append((new.species.name, len(new.particles), new.n_seen, before, after, b_factor))
    facts.append(Fact(label="Series", value=len(work.tasks), note="with particles"))
    columns = ("species", "particles", "seen", "resolution before (Å)", "after (Å)", "B-factor (Å²)")
    rounded = [tuple(round(v, 2) if isinstance(v, float) else v for v in row) for row in rows]
    kept = Table(columns=("species or source", "version"), rows=list(versions.items()), title="Versions")
    sections = [Section(title="Species", blocks=[Table(columns=columns, rows=rounded), kept])]
    sections += of_series
    for new in maps:
        for section in (*species_sections(new.maps), views_section(new.particles, new.species.symmetry)):
            sections.append(
                Section(title=f"{new.species.name}: {section.title}", blocks=section.blocks, intro=section.intro)
            )
    concerns = [concern for new in maps for concern in new.maps.result.concerns]
    levels = {concern.level for concern in concerns}
    return Report(
        title=f"Population {work.opened.population.name}",
        summary="; ".join(f"{new.species.name} {new.maps.resolution_angstrom:.2f} Å" for new in maps) + ".",
        facts=Facts(facts=facts),
        sections=sections,
        level="bad" if "bad" in levels else "warning" if "warning" in levels else "good",
    )


def _series_table(work: "Work", fitted: "Fitted") -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for number, task in enumerate(work.tasks):
        name, source, outcome = task.item.name, task.source.source.name, fitted.outcomes.get(number)
        if outcome is None:
            rows.append((name, source, task.n_particles, None, None))
            continue
        gain = outcome.objective_before - outcome.objective_after
        rows.append((name, source, task.n_particles, round(gain, 1), round(outcome.n_effective, 1)))
    gained, caption = "log-likelihood gained", "A gain of half the number of parameters is what noise alone would give."
    if work.tasks[0].schedule.objective == "m_ncc":
        gained, caption = "M's score gained", "Scores compare within a series and at one resolution only."
    columns = ("series", "source", "particles", gained, "parameters determined")
    return Table(columns=columns, rows=rows, caption=caption)


def _remarks(work: "Work", fitted: "Fitted") -> list[Block]:
    """Return what is to be said of single series: a table of its own, as sentences are too long for a narrow column."""
    rows = []
    for number, task in enumerate(work.tasks):
        outcome = fitted.outcomes.get(number)
        if outcome is None:
            remarks = ["not refined"]
        else:
            n_aligned = sum(one.gain > 0 for one in outcome.movies)
            movies = [f"frames of {n_aligned} tilts aligned"] if outcome.movies else []
            remarks = [*([] if outcome.is_changed else [outcome.reason]), *movies, *outcome.concerns]
        rows += [(task.item.name, remark) for remark in remarks]
    return [Table(columns=("series", "remark"), rows=rows, title="Remarks")] if rows else []


def _gauges(fitted: "Fitted") -> list[Block]:
    """Return which parameters images cannot tell apart, and in how many series."""
    counts = Counter(one for outcome in fitted.outcomes.values() for one in set(outcome.gauges))
    if not counts:
        return []
    caption = "What particles see is the same for many values of these together; priors have decided."
    rows = [(name, n) for name, n in counts.most_common()]
    return [Table(columns=("parameters", "series"), rows=rows, title="What only priors part", caption=caption)]


def _set_aside(work: "Work", fitted: "Fitted") -> list[Block]:
    rows = [(one.name, one.reason) for one in (*work.set_aside, *fitted.rejected.values())]
    if not rows:
        return []
    text = f"{len(rows)} series could not be used and are as they were; mend them, or see `population items exclude`."
    note = Note(text=text, level="warning")
    return [note, Table(columns=("series", "reason"), rows=rows, title="Set aside")]


def _optics(fitted: "Fitted") -> list[Block]:
    """Return what the series of each source share of the microscope, and whether they agree on it."""
    rows: list[tuple[str | int | float | None, ...]] = []
    blocks: list[Block] = []
    for source, one in fitted.optics.items():
        numbers = zip(one.names, one.change, one.deviation, one.deviation_of_one, one.units, strict=True)
        rows += [(source, name, *(f"{v:.3g}" for v in values), unit) for name, *values, unit in numbers]
        if one.disagreement > _MOST_DISAGREEMENT:
            text = (
                f"Optics of the {one.n_series} series of {source} differ {one.disagreement:.1f} times as much as their "
                "error bars say: they may not be of one microscope and session; fit them without --share-optics."
            )
            blocks.append(Note(text=text, level="warning"))
    columns = ("source", "parameter", "change", "standard deviation", "of one series", "unit")
    caption = "One value for all series of a source, and what a single one would have told of it."
    return [*blocks, Table(columns=columns, rows=rows, caption=caption)]


def _curves(task: "ItemTask", outcome: "ItemOutcome") -> list[Block]:
    """Return what was fitted over the images of a series, before and after, with error bars."""
    before, series = task.start, task.series
    x, axis = np.arange(1, len(series) + 1, dtype=np.float64), Axis(label="frame")
    if isinstance(series, TiltSeries):
        x, axis = series.tilt_angle_degrees, Axis(label="tilt", unit="°")
    blocks: list[Block] = []
    for kind, unit, rows in _kinds(outcome):
        change, deviation = (values[rows] for values in (outcome.change, outcome.deviation))
        nodes = [outcome.names[row].partition("[")[2].split(",") for row in rows]
        if len(nodes[0]) != _AXES_OF_IMAGE_GRIDS or len({node[0] for node in nodes}) != len(series):
            continue  # a volume warp, or what is not over images
        per_image = (change.reshape(len(series), -1), deviation.reshape(len(series), -1))
        old, new = _over_images(before, kind), _over_images(series, kind)
        if old is None or new is None:
            kind, old, new = f"{kind}, change", np.zeros(len(series)), per_image[0]
        blocks.append(_curve(kind, unit, x, axis, old, new, per_image[1]))
    return blocks


def _over_images(series: TiltSeries | FrameSeries, kind: str) -> NDArray[np.float64] | None:
    """Return the nodes of a kind of parameter in each image, (T, n); None where they are no grid over images."""
    grid = getattr(series, _FIELDS.get(kind, ""), None)
    if grid is None or grid.shape[0] not in (1, len(series)):
        return None
    nodes = grid.values.numpy().reshape(grid.shape[0], -1)
    return np.broadcast_to(nodes, (len(series), nodes.shape[1]))


def _kinds(outcome: "ItemOutcome") -> list[tuple[str, str, NDArray[np.int64]]]:
    """Return kinds of parameters in order, their units, and the numbers of their parameters."""
    kinds: dict[str, list[int]] = {}
    for number, name in enumerate(outcome.names):
        kinds.setdefault(name.partition("[")[0], []).append(number)
    return [(kind, outcome.units[rows[0]], np.array(rows)) for kind, rows in kinds.items()]


def _curve(
    kind: str,
    unit: str,
    x: NDArray[np.float64],
    axis: Axis,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> Curve:
    """Return a kind of parameter over the images before and after: its nodes thin, their mean with error bars."""
    mean = after.mean(1)
    spread = np.sqrt(np.square(deviation).mean(1))
    lines = [Line(label="after", x=x, y=mean), Line(label="before", x=x, y=before.reshape(len(x), -1).mean(1))]
    bounds = np.concatenate([mean + spread, [np.nan], mean - spread])  # one line with a gap, named once
    at = np.concatenate([x, x[-1:], x])
    lines.append(Line(label="± standard deviation of a node", x=at, y=bounds, style="dotted"))
    n = after.shape[1]
    if 1 < n <= _MOST_LINES:
        labels = ["each node, after", *("" for _ in range(n - 1))]
        lines += [Line(label=one, x=x, y=after[:, node], style="thin") for node, one in enumerate(labels)]
    nodes = f"Mean of {n} nodes." if n > 1 else ""
    return Curve(
        title=f"{kind[0].upper()}{kind[1:]}", lines=lines, x=axis, y=Axis(label=kind, unit=unit), caption=nodes
    )


def _pose_histograms(work: "Work", fitted: "Fitted") -> list[Block]:
    """Return by how much particles have moved and turned, and how well that is known."""
    blocks: list[Block] = []
    for number, species in enumerate(work.opened.species):
        found = [one for outcome in fitted.outcomes.values() if (one := outcome.species[number]) is not None]
        if not found or not found[0].names:
            continue
        for beginning, label, of in (
            ("position", "shift", " along each axis"), ("turn", "turn", " about each axis"), ("defocus", "defocus", ""),
        ):  # fmt: skip
            rows = [row for row, name in enumerate(found[0].names) if name.startswith(beginning)]
            if not rows or not any(one.n_images.any() for one in found):
                continue
            unit, factor = _UNITS.get(found[0].units[rows[0]], (found[0].units[rows[0]], 1.0))
            change, deviation = (
                factor * np.concatenate([getattr(one, what)[one.n_images > 0][:, rows] for one in found]).ravel()
                for what in ("change", "deviation")
            )
            limit = max(float(np.nanquantile(np.abs(values), 0.99)) for values in (change, deviation)) or 1.0
            blocks.append(
                Histogram.of(
                    {"change": change, "standard deviation": deviation},
                    title=f"{species.species.name}: {label}{of}",
                    x=Axis(label=label, unit=unit, limits=(-limit, limit)),
                    bins=40,
                )
            )
    return blocks
