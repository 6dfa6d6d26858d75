"""Counts over a plane: every point in its cell, drawn without a point of its own."""

import re

import numpy as np
import pytest

from halfmap.errors import ShapeError
from halfmap.report.blocks import Axis, Mark
from halfmap.report.density import Density
from halfmap.report.figure import svg

X, Y = Axis(label="x", unit="Å"), Axis(label="y", unit="Å")


def test_points_fall_into_cells_of_rows_along_y():
    density = Density.of([[3, -3], [3, -3], [-3, 0], [99, 0]], title="d", x=X, y=Y, reach=4.5, bins=3)
    assert density.counts.tolist() == [[0, 0, 2], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.random.default_rng(1).normal(size=(5000, 2))])
def test_figure_is_small_whatever_the_number_of_points(points):
    circles = [Mark(value=2.0, label="search range"), Mark(value=90.0, label="outside")]
    drawn = svg(Density.of(points, title="d", x=X, y=Y, reach=3.0, circles=circles))
    assert len(drawn) < 60_000
    assert "search range" in drawn
    assert "outside" not in drawn
    assert ">0</text>" in drawn
    assert all(address.startswith(("data:image/png", "#")) for address in re.findall(r'href="([^"]+)"', drawn))


def test_an_axis_in_falling_order_turns_the_figure_round():
    density = Density.of([[0, 1]], title="d", x=X, y=Axis(label="y", limits=(3, -3)), reach=3.0, bins=3)
    labels = re.findall(r'text-anchor: end[^>]* y="([\d.]+)"[^>]*>(−?\d)</text>', svg(density))
    heights = {int(label.replace("−", "-")): float(height) for height, label in labels}
    assert heights[-2] < heights[2]


def test_counts_of_other_cells_are_refused():
    with pytest.raises(ShapeError, match=r"\(1, 2\)"):
        Density(title="d", x_edges=[0, 1, 2], y_edges=[0, 1], counts=np.zeros((2, 1)), x=X, y=Y)
