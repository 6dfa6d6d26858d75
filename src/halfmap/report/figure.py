"""Figures as SVG that takes the colours and the font of the page it stands in."""

import io
import re
import threading
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatter, MaxNLocator, NullLocator

from halfmap.report.blocks import Axis, Curve, Histogram, Mark, Scatter
from halfmap.report.density import Density

N_SERIES = 6
"""Series colours that the page defines, ``--series-1`` and on."""

_COLOUR_MAP, _COLOUR_FROM = "plasma", 0.22  # what is darker does not show on a dark page or a micrograph

_RASTERISED_FROM = 1500
_WIDTH_INCH, _HEIGHT_INCH = 6.0, 3.5
_MOST_PLAIN = 1e6  # on a logarithmic axis; larger numbers are written with a power of ten
_LOCK = threading.Lock()

# Stand-ins that no figure uses, replaced by the page's own colours.
_INK, _MUTED, _RULE, _CARD = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_SERIES = tuple(f"#0a0c{number:02x}" for number in range(1, N_SERIES + 1))
_VARIABLE_OF = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _CARD: "var(--card)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halfmap",
    "font.size": 10.0,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "legend.facecolor": _CARD,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.75,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_LINE_STYLES = {"line": "-", "dashed": (0, (5, 3)), "dotted": (0, (1, 2)), "points": "none", "steps": "-", "thin": "-"}
_NICE_RESOLUTIONS_ANGSTROM = (
    200, 100, 50, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5, 4.5, 4, 3.5, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8, 1.6, 1.5, 1.4,
    1.3, 1.2, 1.1, 1, 0.9, 0.8, 0.7, 0.6, 0.5,
)  # fmt: skip


def colour_scale(n_colours: int = 64) -> list[str]:
    """Return the colours of coded values, from low to high, as ``#rrggbb``."""
    shares = np.linspace(_COLOUR_FROM, 1, n_colours)
    return [to_hex(colour) for colour in matplotlib.colormaps[_COLOUR_MAP](shares)]


def circle_colours(n_colours: int = 64) -> list[str]:
    """Return the colours of positions on a micrograph, from the lowest value, red, to the highest, blue."""
    return [to_hex(colour) for colour in matplotlib.colormaps["RdYlBu"](np.linspace(0.08, 0.9, n_colours))]


def svg(block: Curve | Histogram | Scatter | Density) -> str:
    """Draw a block.

    Parameters
    ----------
    block : what is drawn; its title and caption are left to the page.

    Returns
    -------
    An ``<svg>`` element for an HTML page that defines ``--ink``, ``--muted``, ``--rule``, ``--card`` and
    ``--series-1`` to ``--series-6``.
    """
    with _LOCK, matplotlib.rc_context(_STYLE):  # matplotlib's settings belong to the whole process
        is_square = isinstance(block, Scatter | Density) and block.equal
        height = _WIDTH_INCH * 0.8 if is_square else _HEIGHT_INCH
        figure = Figure(figsize=(_WIDTH_INCH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if isinstance(block, Curve):
            _draw_curve(axes, block)
        elif isinstance(block, Histogram):
            _draw_histogram(axes, block)
        elif isinstance(block, Density):
            _draw_density(figure, axes, block)
        else:
            _draw_scatter(figure, axes, block)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(stream.getvalue())


def _draw_curve(axes: Axes, block: Curve) -> None:
    n_coloured = 0
    for line in block.lines:
        is_thin = line.style == "thin"
        axes.plot(
            line.x,
            line.y,
            linestyle=_LINE_STYLES[line.style],
            linewidth=0.7 if is_thin else None,
            alpha=0.45 if is_thin else None,
            zorder=1.5 if is_thin else 2,
            marker="o" if line.style == "points" else None,
            markersize=3.5,
            markeredgewidth=0,
            drawstyle="steps-mid" if line.style == "steps" else "default",
            label=line.label or None,
            color=_MUTED if is_thin else _SERIES[n_coloured % N_SERIES],
        )
        n_coloured += not is_thin
    _finish(axes, block.x, block.y, block.marks)
    if block.x.scale == "linear" and all(np.all(np.mod(line.x, 1) == 0) for line in block.lines):  # as iterations are
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    _legend(axes, sum(bool(line.label) for line in block.lines))


def _draw_histogram(axes: Axes, block: Histogram) -> None:
    edges = np.asarray(block.edges)
    for number, bars in enumerate(block.bars):
        colour = _SERIES[number % N_SERIES]
        axes.stairs(bars.counts, edges, fill=True, color=colour, alpha=0.35 if len(block.bars) > 1 else 0.75)
        if len(block.bars) > 1:
            axes.stairs(bars.counts, edges, color=colour, linewidth=1.4, label=bars.label or None)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False, axis="x")
    if block.y.scale == "linear":
        axes.set_ylim(bottom=0)
    _finish(axes, block.x, block.y, block.marks)
    if block.y.scale == "linear" and all(np.all(np.mod(bars.counts, 1) == 0) for bars in block.bars):
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    if block.x.scale == "linear" and np.all(np.mod(edges, 1) == 0.5):  # each bin is a whole number
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    _legend(axes, sum(bool(bars.label) for bars in block.bars) if len(block.bars) > 1 else 0)


def _draw_scatter(figure: Figure, axes: Axes, block: Scatter) -> None:
    points = np.asarray(block.points)
    drawn = axes.scatter(
        points[:, 0],
        points[:, 1],
        s=float(np.clip(20000 / max(len(points), 1), 2, 22)),
        c=block.colours if block.colours is not None else "#4a86e8",
        cmap=ListedColormap(colour_scale()) if block.colours is not None else None,
        linewidths=0,
        alpha=0.8 if len(points) < _RASTERISED_FROM else 0.5,
        rasterized=len(points) >= _RASTERISED_FROM,
    )
    if block.colours is not None:
        bar = figure.colorbar(drawn, ax=axes, label=_label(block.colour) if block.colour else "", pad=0.02)
        bar.outline.set_visible(False)
    if block.equal:
        axes.set_aspect("equal", adjustable="datalim")
    _finish(axes, block.x, block.y, ())


def _draw_density(figure: Figure, axes: Axes, block: Density) -> None:
    x_edges, y_edges, counts = (np.asarray(values) for values in (block.x_edges, block.y_edges, block.counts))
    drawn = axes.imshow(
        np.ma.masked_less_equal(counts, 0),
        extent=(x_edges[0], x_edges[-1], y_edges[0], y_edges[-1]),
        origin="lower",
        aspect="equal" if block.equal else "auto",
        cmap=ListedColormap(colour_scale()),
        interpolation="nearest",
        vmin=0,
        vmax=max(1.0, float(counts.max(initial=0.0))),
        zorder=1,
    )
    bar = figure.colorbar(drawn, ax=axes, label=_label(block.colour), pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    _finish(axes, block.x, block.y, ())
    top = float(np.clip(axes.get_ylim()[1], y_edges[0], y_edges[-1]))
    for circle in block.circles:
        axes.add_patch(Circle((0, 0), circle.value, fill=False, color=_MUTED, linewidth=1.0, linestyle=(0, (3, 3))))
        if circle.label and circle.value <= abs(top):
            place = (0.0, float(np.copysign(circle.value, top)))
            axes.annotate(
                circle.label, place, xytext=(0, 3), textcoords="offset points", ha="center", color=_MUTED, fontsize=9
            )


def _finish(axes: Axes, x: Axis, y: Axis, marks: object) -> None:
    for mark in marks if isinstance(marks, list | tuple) else ():
        _draw_mark(axes, mark)
    axes.margins(x=0.01)
    axes.set_xlabel(_label(x))
    axes.set_ylabel(_label(y))
    for name, axis in (("x", x), ("y", y)):
        if axis.scale == "log":
            getattr(axes, f"set_{name}scale")("log")
        if axis.limits != (None, None):  # else matplotlib would hold the limits of now for the wanted ones
            getattr(axes, f"set_{name}lim")(*axis.limits)
        ticks = axes.xaxis if name == "x" else axes.yaxis
        if axis.scale == "resolution":
            ticks.set_major_locator(FixedLocator(resolution_ticks(*getattr(axes, f"get_{name}lim")())))
            ticks.set_minor_locator(NullLocator())
            ticks.set_major_formatter(FuncFormatter(lambda frequency, _: f"{1 / frequency:.3g}"))
        elif axis.scale == "log":
            ticks.set_major_formatter(_PlainLogFormatter())
            ticks.set_minor_formatter(_PlainLogFormatter())
        elif axis.scale == "linear":
            steps = [1, 1.5, 3, 4.5, 9, 10] if axis.unit == "°" else [1, 2, 2.5, 5, 10]
            ticks.set_major_locator(MaxNLocator(6, steps=steps))


class _PlainLogFormatter(LogFormatter):
    """Labels where a logarithmic axis has them anyway, as 20 instead of 2 × 10¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return (f"{x:g}" if abs(x) < _MOST_PLAIN else f"{x:.0e}") if super().__call__(x, pos) else ""


def _draw_mark(axes: Axes, mark: Mark) -> None:
    draw = axes.axvline if mark.axis == "x" else axes.axhline
    draw(mark.value, color=_MUTED, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
    if mark.label:
        across = axes.get_xaxis_transform() if mark.axis == "x" else axes.get_yaxis_transform()
        place = (mark.value, 0.98) if mark.axis == "x" else (0.99, mark.value)
        axes.annotate(
            mark.label,
            place,
            xycoords=across,
            xytext=(4, 0) if mark.axis == "x" else (0, 3),
            textcoords="offset points",
            ha="left" if mark.axis == "x" else "right",
            va="top" if mark.axis == "x" else "bottom",
            color=_MUTED,
            fontsize=9,
            annotation_clip=True,  # the label of a mark outside the axes would leave them no room
        )


def _legend(axes: Axes, n_labels: int) -> None:
    if n_labels:
        size, spacing = (9.5, 0.5) if n_labels < 5 else (8.5, 0.25)
        axes.legend(loc="best", fontsize=size, labelspacing=spacing, handlelength=1.6)


def _label(axis: Axis) -> str:
    return f"{axis.label} ({axis.unit})" if axis.unit else axis.label


def resolution_ticks(low: float, high: float, *, apart: float = 0.075) -> list[float]:
    """Return spatial frequencies of round resolutions, at least a share of the axis apart."""
    ticks: list[float] = []
    for resolution in _NICE_RESOLUTIONS_ANGSTROM:
        frequency = 1.0 / resolution
        if low < frequency <= high and frequency - (ticks[-1] if ticks else low) > apart * (high - low):
            ticks.append(frequency)
    return ticks


def _for_page(text: str) -> str:
    """Cut the element out, and let colours, font and size follow the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(
        r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend|PathCollection)_\d+"', "", text
    )
    text = re.sub(r"<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", r'<svg viewBox="\1" role="img">', text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    for colour, variable in _VARIABLE_OF.items():
        text = text.replace(colour, variable)
    return text.strip()
