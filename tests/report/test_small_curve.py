"""Small curves: where they run, what they leave out."""

import re

import numpy as np

from halfmap.report.blocks import Axis, Line, Mark
from halfmap.report.small_curve import small_curve

Y = Axis(label="FRC", limits=(0, 1))


def courses(drawn):
    return [
        [tuple(map(float, point.split())) for point in re.findall(r"[ML]([\d.]+ [\d.]+)", path)]
        for path in re.findall(r'class="course"[^>]* d="([^"]+)"', drawn)
    ]


def test_high_values_stand_high_and_values_outside_stay_at_the_edge():
    (course,) = courses(small_curve([Line(label="a", x=[0, 1, 2, 3], y=[0, 1, 2, -5])], Axis(label="x"), Y))
    heights = [height for _, height in course]
    assert heights[0] > heights[1]
    assert heights[2] == heights[1]
    assert heights[3] == heights[0]
    assert np.all(np.diff([left for left, _ in course]) > 0)


def test_a_value_that_is_not_finite_leaves_a_gap():
    drawn = small_curve([Line(label="a", x=[0, 1, 2, 3, 4], y=[1, 1, np.nan, 1, 1])], Axis(label="x"), Y)
    path = re.search(r'class="course"[^>]* d="([^"]+)"', drawn)[1]
    assert path.count("M") == 2
    assert len(courses(drawn)[0]) == 4


def test_resolution_is_labelled_in_angstrom_and_thresholds_are_drawn():
    x = Axis(label="resolution", unit="Å", scale="resolution", limits=(0, 0.1))
    marks = [Mark(value=0.143, axis="y"), Mark(value=1 / 40), Mark(value=1 / 4)]
    drawn = small_curve([Line(label="a", x=[0, 0.1], y=[1, 0])], x, Y, marks)
    assert {"10", "20"} <= set(re.findall(r">([\d.]+)</text>", drawn))
    assert drawn.count('class="limit"') == 2


def test_nothing_finite_draws_axes_alone():
    drawn = small_curve([Line(label="a<b", x=[0, 1], y=[np.nan, np.nan])], Axis(label="a<b"), Axis(label="y"))
    assert courses(drawn) == []
    assert "a&lt;b" in drawn
