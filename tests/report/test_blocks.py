"""Blocks are data: checked when made, plain as JSON."""

import json

import numpy as np
import pytest

from halfmap.errors import InputError, ShapeError
from halfmap.report.blocks import (
    Axis,
    Bars,
    Curve,
    Fact,
    Facts,
    Gallery,
    Histogram,
    Line,
    Note,
    Overlay,
    Report,
    Scatter,
    Section,
    Table,
)
from halfmap.report.pictures import Picture

X = Axis(label="score")


def a_picture(shape=(8, 6)):
    return Picture.png(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))


def test_report_is_plain_json_and_what_is_not_finite_becomes_null():
    report = Report(
        title="A job",
        facts=Facts(facts=[("Particles", np.int64(3)), ("Resolution", 7.3, "Å"), Fact(label="Kept", value="all")]),
        sections=[
            Section(
                title="All blocks",
                blocks=[
                    Curve(title="c", lines=[Line(label="l", x=[0, 1], y=[0.5, np.nan])], x=X, y=X),
                    Histogram.of([1.0, 2.0, np.inf], title="h", x=X, bins=2),
                    Scatter(title="s", points=[[1, 2]], x=X, y=X, colours=[3]),
                    Table(columns=["a", "b"], rows=[["x", None]]),
                    Gallery(pictures=[a_picture()], captions=["one"]),
                    Overlay(picture=a_picture(), shape_pixel=(80, 60), positions_pixel=[[1, 2]], radius_pixel=3),
                    Note(text="well"),
                ],
            )
        ],
    )
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    blocks = plain["sections"][0]["blocks"]
    assert [b["kind"] for b in blocks] == ["curve", "histogram", "scatter", "table", "gallery", "overlay", "note"]
    assert blocks[0]["lines"][0]["y"] == [0.5, None]
    assert blocks[4]["pictures"][0]["source"].startswith("data:image/png;base64,")
    assert blocks[5]["positions_pixel"] == [[1.0, 2.0]]
    assert plain["facts"]["facts"][1] == {
        "kind": "fact", "label": "Resolution", "value": 7.3, "unit": "Å", "note": "", "level": "plain",
    }  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_histogram_counts_every_finite_value_once(n):
    values = np.concatenate([np.random.default_rng(1).normal(size=n), [np.nan, np.inf]])
    histogram = Histogram.of({"a": values, "b": []}, title="h", x=X)
    assert np.sum(histogram.bars[0].counts) == n
    assert np.sum(histogram.bars[1].counts) == 0
    assert 5 <= len(histogram.edges) - 1 <= 80
    assert np.all(np.diff(histogram.edges) > 0)


def test_histogram_of_equal_values_has_width():
    assert np.sum(Histogram.of([4.0] * 9, title="h", x=X).bars[0].counts) == 9


@pytest.mark.parametrize(
    "make",
    [
        lambda: Line(label="l", x=[1, 2], y=[1]),
        lambda: Line(label="l", x=[[1]], y=[[1]]),
        lambda: Histogram(title="h", edges=[0, 1], bars=[Bars(label="", counts=[1, 2])], x=X),
        lambda: Scatter(title="s", points=[1, 2, 3], x=X, y=X),
        lambda: Table(columns=["a"], rows=[["x", "y"]]),
        lambda: Table(columns=["a"], rows=[["x"], ["y"]], addresses=["b"]),
        lambda: Gallery(pictures=[a_picture()], captions=["one", "two"]),
        lambda: Overlay(
            picture=a_picture(), shape_pixel=(8, 6), positions_pixel=[[1, 2]], radius_pixel=1, values=[1, 2]
        ),
        lambda: Overlay(
            picture=a_picture(), shape_pixel=(8, 6), positions_pixel=[[1, 2]], radius_pixel=1, kind_labels=["right"]
        ),
    ],
)
def test_values_that_do_not_belong_together_are_refused(make):
    with pytest.raises(ShapeError):
        make()


def test_fact_of_another_form_is_refused():
    with pytest.raises(InputError, match="label, value"):
        Facts(facts=[("alone",)])


def test_overlay_without_positions_is_a_micrograph_alone():
    overlay = Overlay.of(np.random.default_rng(1).normal(size=(50, 40)), [], radius_pixel=3)
    assert overlay.positions_pixel.shape == (0, 2)
    assert overlay.shape_pixel == (50, 40)
