"""Small curves as SVG: hundreds of them on a page, each of a few kilobytes and drawn in no time."""

from collections.abc import Sequence
from html import escape

import numpy as np

from halfmap.report.blocks import Axis, Line, Mark
from halfmap.report.figure import N_SERIES, resolution_ticks

_WIDTH, _HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 6, 8, 26


def small_curve(lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[Mark] = ()) -> str:
    """Draw a few lines in little room.

    Parameters
    ----------
    lines : what is drawn; a gap where a value is not finite.
    x, y : the axes; scales are linear but for ``resolution`` along x.
    marks : thresholds; their labels are left out.

    Returns
    -------
    An ``<svg>`` element for a page that defines the colours that `halfmap.report.figure.svg` wants.
    """
    across = [np.asarray(line.x, dtype=np.float64) for line in lines]
    up = [np.asarray(line.y, dtype=np.float64) for line in lines]
    x_low, x_high = _limits(x, across)
    y_low, y_high = _limits(y, up)
    scale_x = (_WIDTH - _LEFT - _RIGHT) / (x_high - x_low)
    scale_y = (_HEIGHT - _TOP - _BOTTOM) / (y_high - y_low)

    def place(values: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _LEFT + (values - x_low) * scale_x, _HEIGHT - _BOTTOM - (
            np.clip(heights, y_low, y_high) - y_low
        ) * scale_y

    floor = _HEIGHT - _BOTTOM
    parts = [f'<svg class="small-curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    parts.append(f"<title>{escape(y.label)} over {escape(x.label)}</title>")
    for value in np.unique(np.round((y_low, (y_low + y_high) / 2, y_high), 10)):
        _, height = place(np.zeros(1), np.array([value]))
        parts.append(f'<path class="rule" d="M{_LEFT} {height[0]:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{height[0] + 3:.1f}" text-anchor="end">{value:g}</text>')
    is_resolution = x.scale == "resolution"
    ticks = resolution_ticks(x_low, x_high, apart=0.13) if is_resolution else np.linspace(x_low, x_high, 3).tolist()
    for tick in ticks:
        left = _LEFT + (tick - x_low) * scale_x
        label = f"{1 / tick:.3g}" if is_resolution else f"{tick:.3g}"
        parts.append(f'<path class="rule" d="M{left:.1f} {floor}v3"/>')
        parts.append(f'<text x="{left:.1f}" y="{floor + 13}" text-anchor="middle">{label}</text>')
    if x.unit:
        parts.append(f'<text x="{_LEFT + 2}" y="{floor + 13}" text-anchor="start">{escape(x.unit)}</text>')
    for mark in marks:
        left, height = place(np.array([mark.value]), np.array([mark.value]))
        if mark.axis == "x" and x_low < mark.value < x_high:
            parts.append(f'<path class="limit" d="M{left[0]:.1f} {_TOP}V{floor}"/>')
        elif mark.axis == "y" and y_low < mark.value < y_high:
            parts.append(f'<path class="limit" d="M{_LEFT} {height[0]:.1f}H{_WIDTH - _RIGHT}"/>')
    for number, (values, heights) in enumerate(zip(across, up, strict=True)):
        shown = (values >= x_low) & (values <= x_high)
        course = _course(*place(values[shown], heights[shown]))
        if course:
            parts.append(f'<path class="course" style="stroke:var(--series-{number % N_SERIES + 1})" d="{course}"/>')
    return "".join(parts) + "</svg>"


def _limits(axis: Axis, values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the axis's limits, or the values' own where it has none; never one and the same."""
    finite = np.concatenate([part[np.isfinite(part)] for part in values]) if values else np.zeros(0)
    low, high = axis.limits
    low = low if low is not None else float(finite.min(initial=0.0))
    high = high if high is not None else float(finite.max(initial=low))
    return (low, high) if high > low else (low, low + 1.0)


def _course(x: np.ndarray, y: np.ndarray) -> str:
    """Return path commands through the points, with gaps where one is not finite."""
    commands, pen = [], "M"
    for left, height in zip(x.tolist(), y.tolist(), strict=True):
        if not np.isfinite(height):
            pen = "M"
            continue
        commands.append(f"{pen}{left:.1f} {height:.1f}")
        pen = "L"
    return "".join(commands)
