"""The page: one file with everything in it, that works without a network."""

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import resources
from itertools import chain, count

import jinja2
import numpy as np

from halfmap.report import figure
from halfmap.report.blocks import Block, Cell, Curve, Gallery, Histogram, Overlay, Report, Scatter, Section, Table
from halfmap.report.density import Density
from halfmap.report.pictures import Picture
from halfmap.report.ranked_gallery import Entry, Quantity, RankedGallery
from halfmap.report.small_curve import small_curve

MAX_PAGE_BYTES = 20_000_000
FOLDER_BESIDE = "report_files"

_CONTENTS_FROM = 4
_REDUCTIONS = ((1.0, 80), (1.0, 65), (0.75, 65), (0.5, 60), (0.35, 55))


def render(report: Report, *, beside: dict[str, bytes] | None = None, max_bytes: int = MAX_PAGE_BYTES) -> str:
    """Return a report as one self-contained HTML page.

    Parameters
    ----------
    report : what to show.
    beside : takes the files, by path relative to the page, of pictures that do not fit into it at full size;
        without it they are made smaller, at last left out, and the page says so.
    max_bytes : most bytes of the page.

    Returns
    -------
    The page: script, style and pictures inlined.
    """
    sources, remark = _sources(report, beside, max_bytes)
    anchors = _anchors(report)
    template = _environment().get_template("page.html.jinja")
    return template.render(
        report=report,
        remark=remark,
        sections=[(f"section-{number}", section) for number, section in enumerate(report.sections, start=1)],
        has_contents=len(report.sections) >= _CONTENTS_FROM,
        style=_packaged("page.css"),
        script=_packaged("page.js"),
        gradient=json.dumps(figure.circle_colours()),
        source=lambda picture: sources.get(id(picture)),
        chunks=_chunks,
        kind=lambda block: type(block).__name__.lower(),
        svg=figure.svg,
        points=_points,
        number=format_number,
        column_formats=_column_formats,
        numeric_columns=_numeric_columns,
        is_number=_is_number,
        sort_key=_sort_key,
        anchor=lambda entry: anchors[id(entry)],
        values=_values,
        spell_value=_spell_value,
        small_curve=small_curve,
    )


def format_number(value: Cell) -> str:
    """Return a value as it is read: five digits at most, thousands apart, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}".replace(",", "\u2009")
    size = abs(value)
    if size != 0 and (size >= 1e6 or size < 1e-3):
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.4g}"


def _sources(report: Report, beside: dict[str, bytes] | None, max_bytes: int) -> tuple[dict[int, str], str]:
    """Return where each picture is read from, by its id, and what the page must say about it."""
    pictures = list(_pictures(report))
    n_points = sum(
        len(np.asarray(b.positions_pixel)) for s in report.sections for b in s.blocks if isinstance(b, Overlay)
    )
    n_rows = sum(len(getattr(block, "rows", ())) for section in report.sections for block in section.blocks)
    n_entries = sum(len(b.entries) for s in report.sections for b in s.blocks if isinstance(b, RankedGallery))
    room = max(0, max_bytes - 1_000_000 - 24 * n_points - 300 * n_rows - 6000 * n_entries)
    if _inlined_bytes(pictures) <= room:
        return {id(picture): picture.source for picture in pictures}, ""
    shares: list[Picture] = []
    for factor, quality in _REDUCTIONS:
        shares = [picture if len(picture.data) < 4000 else picture.reduced(factor, quality) for picture in pictures]
        if _inlined_bytes(shares) <= room:
            break
    sources: dict[int, str] = {}
    n_outside = 0
    used = 0
    for number, (picture, share) in enumerate(zip(pictures, shares, strict=True), start=1):
        used += _inlined_bytes([share])
        if used <= room:
            sources[id(picture)] = share.source
        elif beside is not None:
            name = f"{FOLDER_BESIDE}/picture_{number:04d}{picture.suffix}"
            beside[name] = picture.data
            sources[id(picture)] = name
            n_outside += 1
        else:
            n_outside += 1
    remark = "Pictures are shown smaller than they are, to keep the page small."
    if n_outside and beside is not None:
        remark += f" {n_outside} of them lie in the folder {FOLDER_BESIDE}: keep it beside the page."
    elif n_outside:
        remark += f" {n_outside} of them are left out."
    return sources, remark


def _pictures(report: Report) -> Iterator[Picture]:
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Gallery):
                yield from block.pictures
            elif isinstance(block, RankedGallery):
                yield from block.pictures()
            elif isinstance(block, Overlay):
                yield block.picture


def _inlined_bytes(pictures: list[Picture]) -> int:
    return sum(len(picture.data) * 4 // 3 + 100 for picture in pictures)


def _chunks(section: Section) -> list[tuple[bool, list[Block]]]:
    """Group neighbouring figures, which stand side by side."""
    groups: list[tuple[bool, list[Block]]] = []
    for block in section.blocks:
        is_figure = isinstance(block, Curve | Histogram | Scatter | Density)
        if is_figure and groups and groups[-1][0]:
            groups[-1][1].append(block)
        else:
            groups.append((is_figure, [block]))
    return groups


def _points(overlay: Overlay) -> str:
    """Return an overlay's positions and values as compact JSON for the page's script."""
    positions = np.asarray(overlay.positions_pixel)
    values = None if overlay.values is None else [_rounded(value, 4) for value in np.asarray(overlay.values)]
    return json.dumps(
        {
            "x": np.round(positions[:, 0], 1).tolist(),
            "y": np.round(positions[:, 1], 1).tolist(),
            "v": values,
            "k": np.asarray(overlay.kinds, dtype=int).tolist(),
            "r": overlay.radius_pixel,
            "h": overlay.shape_pixel[0],
            "w": overlay.shape_pixel[1],
        },
        separators=(",", ":"),
    )


def _rounded(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _column_formats(table: Table) -> list[Callable[[Cell], str]]:
    """Return for each column what spells its cells: fractions with the same decimals all the way down."""
    spellings: list[Callable[[Cell], str]] = []
    for number in range(len(table.columns)):
        cells = [row[number] for row in table.rows]
        largest = max((abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell)), default=0.0)
        is_even = 1e-3 <= largest < 1e6
        decimals = min(5, max(0, 3 - math.floor(math.log10(largest)))) if is_even else 0
        spellings.append(partial(_spell, decimals=decimals) if is_even else format_number)
    return spellings


def _numeric_columns(table: Table) -> list[bool]:
    """Return for each column whether it holds numbers alone; cells without a value stand under them."""
    columns = [[row[number] for row in table.rows if row[number] is not None] for number in range(len(table.columns))]
    return [bool(cells) and all(map(_is_number, cells)) for cells in columns]


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _spell(value: Cell, decimals: int) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.{decimals}f}".replace(",", "\u2009")
    return format_number(value)


def _sort_key(cell: Cell) -> str:
    if isinstance(cell, int | float) and math.isfinite(cell):
        return repr(float(cell))
    return "" if cell is None else str(cell)


def _anchors(report: Report) -> dict[int, str]:
    """Return for each entry of a ranked gallery, by its id, what links to it: ``class-12``, the same every time."""
    anchors: dict[int, str] = {}
    taken = {f"section-{number}" for number in range(len(report.sections) + 1)} | {"theme", "large", "one"}
    galleries = (b for section in report.sections for b in section.blocks if isinstance(b, RankedGallery))
    for gallery in galleries:
        for entry in gallery.entries:
            plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{gallery.noun or 'entry'}-{entry.name}").strip("-")
            name = next(text for text in chain([plain], (f"{plain}-{n}" for n in count(2))) if text not in taken)
            taken.add(name)
            anchors[id(entry)] = name
    return anchors


def _values(entry: Entry) -> str:
    """Return an entry's values as JSON for the page's script; null where there is none."""
    known = [None if value is None else _rounded(float(value), 6) for value in entry.values]
    return json.dumps(known, separators=(",", ":"))


def _spell_value(value: float | None, quantity: Quantity) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    decimals = quantity.decimals or 0
    space = "" if quantity.unit in ("", "°") else "\u202f"
    return f"{value:,.{decimals}f}".replace(",", "\u2009") + space + quantity.unit


def _packaged(name: str) -> str:
    return resources.files("halfmap.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_packaged),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
