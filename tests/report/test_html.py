"""One page: everything in it, nothing from outside, never too large."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest

from halfmap.report.blocks import (
    Axis,
    Curve,
    Facts,
    Gallery,
    Histogram,
    Line,
    Mark,
    Note,
    Overlay,
    Report,
    Scatter,
    Section,
    Table,
)
from halfmap.report.figure import colour_scale, svg
from halfmap.report.html import format_number, render
from halfmap.report.pictures import Picture

VOID = {"meta", "img", "input", "link", "br"}


def noise(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def a_report(n_sections=1, blocks=(), **values):
    sections = [Section(title=f"Part {number}", blocks=blocks) for number in range(n_sections)]
    return Report(title="A job", sections=sections, **values)


def every_block():
    curve = Curve(
        title="FSC",
        lines=[Line(label="half maps", x=[0, 0.05, 0.1], y=[1, 0.6, 0.1]), Line(label="b", x=[0, 1], y=[0, np.nan])],
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0, 0.1)),
        y=Axis(label="FSC"),
        marks=[Mark(value=0.143, axis="y", label="0.143"), Mark(value=0.05, label="20 Å")],
    )
    return [
        Facts(facts=[("Particles", 1234567), ("Mean", 0.123456)]),
        curve,
        Histogram.of({"kept": noise(300), "rejected": noise(200, 2)}, title="Scores", x=Axis(label="score")),
        Histogram.of(noise(300), title="Log", x=Axis(label="score")),
        Scatter(title="Few", points=noise((40, 2)), x=Axis(label="a"), y=Axis(label="b"), colours=noise(40)),
        Scatter(title="Many", points=noise((4000, 2)), x=Axis(label="a"), y=Axis(label="b"), equal=True),
        Table(columns=["name", "score"], rows=[["<b>x</b>", 1.5], ["y", None], ["z", 20.25]], title="Rows"),
        Gallery.of(noise((3, 16, 16)), ["a", "b", "c"], title="Classes"),
        Gallery.montage(noise((30, 16, 16)), title="Particles"),
        Overlay.of(noise((80, 60)), noise((7, 2)) * 9 + 30, radius_pixel=5, values=noise(7), title="m.mrc"),
        Overlay.of(noise((80, 60)), [], radius_pixel=5),
        Note(text="One.\n\nTwo.", level="warning"),
    ]


class Outline(html.parser.HTMLParser):
    """Checks that elements close in order, and keeps ids and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values and "svg" not in self.open else []
        self.addresses += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(page):
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    assert len(set(parser.ids)) == len(parser.ids)
    return parser


def test_page_of_every_block_is_well_formed_and_needs_nothing_from_outside():
    page = a_report(2, every_block(), command="halfmap pick log a.star", status="done", summary="All well.").to_html()
    parts = outline(page)
    assert all(address.startswith(("data:image/", "#")) for address in parts.addresses)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert parts.tags.count("canvas") == 4


def test_same_report_gives_the_same_page():
    assert a_report(1, every_block()).to_html() == a_report(1, every_block()).to_html()


def test_text_is_shown_as_written_and_never_run():
    evil = "</script><script>alert(1)</script>"
    table = Table(columns=[evil], rows=[[evil]], title=evil, caption=evil)
    blocks = [table, Note(text=evil), Facts(facts=[(evil, evil)]), Gallery.of(noise((1, 8, 8)), [evil], title=evil)]
    curve = Curve(title=evil, lines=[Line(label=evil, x=[0, 1], y=[0, 1])], x=Axis(label=evil), y=Axis(label=evil))
    page = a_report(1, [*blocks, curve], command=evil, summary=evil).to_html()
    assert evil not in page
    assert page.count("<script") == 1


def test_rows_of_a_table_lead_where_they_say():
    table = Table(columns=["step", "n"], rows=[["Pick", 1], ["Extract", 2]], addresses=["A/report.html", ""])
    parts = outline(a_report(1, [table]).to_html())
    assert parts.addresses.count("A/report.html") == 1
    assert parts.tags.count("a") == 1


@pytest.mark.parametrize(("n_sections", "expected"), [(0, 0), (3, 0), (4, 1)])
def test_contents_are_listed_from_four_sections(n_sections, expected):
    assert outline(a_report(n_sections).to_html()).tags.count("nav") == expected


def test_figures_take_the_pages_colours_and_font():
    for block in every_block():
        if isinstance(block, Curve | Histogram | Scatter):
            drawn = svg(block)
            assert "#0a0" not in drawn
            assert "var(--muted)" in drawn
            assert "DejaVu" not in drawn
            assert "<metadata" not in drawn


def test_resolution_axis_is_labelled_in_angstrom():
    drawn = svg(every_block()[1])
    labels = re.findall(r">([\d.]+)</text>", drawn)
    assert {"20", "10", "50"} <= set(labels)
    assert "resolution (Å)" in drawn


@pytest.mark.filterwarnings("error")
def test_a_mark_far_outside_a_histogram_does_not_squash_it():
    marks = ([Mark(value=value, label="max")] for value in (2, 20))
    near, far = (svg(Histogram.of([1.0, 2, 3], title="h", x=Axis(label="x"), marks=mark)) for mark in marks)
    assert ">max<" in near
    assert ">max<" not in far


def test_counts_are_labelled_with_whole_numbers():
    drawn = svg(Histogram.of([10.0, 40, 70], title="h", x=Axis(label="x")))
    labels = re.findall(r">([\d.]+)</text>", drawn)
    assert [label for label in labels if "." in label] == []


def test_drawing_leaves_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg(every_block()[1])
    assert dict(matplotlib.rcParams) == before


def test_colours_of_values_rise_in_brightness():
    brightness = [sum(w * int(c[i : i + 2], 16) for w, i in ((3, 1), (6, 3), (1, 5))) for c in colour_scale(9)]
    assert brightness == sorted(brightness)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1\u2009234\u2009567"), (12, "12"), (0.12345, "0.1235"), (15000.4, "15\u2009000"), (2e-5, "2e-05"),
        (3.2e9, "3.2e+09"), (0.0, "0"), (None, "–"), (float("nan"), "–"), ("text", "text"), (np.int64(4), "4"),
    ],
)  # fmt: skip
def test_numbers_are_written_to_be_read(value, text):
    assert format_number(value) == text


# the limit of size


def heavy_report(n=12):
    pictures = [Picture.png(np.random.default_rng(i).integers(0, 255, (400, 400), dtype=np.uint8)) for i in range(n)]
    return a_report(1, [Gallery(pictures=pictures[:-1], tile_pixel=200), overlay_of(pictures[-1])])


def overlay_of(picture):
    return Overlay(picture=picture, shape_pixel=(800, 800), positions_pixel=[[1, 2]], radius_pixel=9)


def test_pictures_become_smaller_when_the_page_would_be_too_large():
    limit = 1_900_000
    page = render(heavy_report(), max_bytes=limit)
    assert len(page) <= limit
    assert "smaller" in page
    assert page.count("data:image/jpeg") == 12


def test_pictures_that_still_do_not_fit_go_beside_the_page_or_are_left_out():
    limit = 1_060_000
    beside = {}
    page = render(heavy_report(), beside=beside, max_bytes=limit)
    assert len(page) <= limit
    assert 0 < len(beside) < 12
    assert all(f'src="{name}"' in page for name in beside)
    assert f"{len(beside)} of them lie in the folder report_files" in page
    alone = render(heavy_report(), max_bytes=limit)
    assert f"{len(beside)} of them are left out" in alone


def test_page_that_fits_keeps_its_pictures_as_they_are():
    assert "smaller" not in a_report(1, every_block()).to_html()


# in a browser


def test_script_draws_every_position_in_a_browser(tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    (tmp_path / "report.html").write_text(a_report(4, every_block()).to_html(), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run(
        [chromium, *options, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'report.html'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert dom.count('<span class="count">7 positions</span>') == 4
    assert 'data-theme="light"' in dom
    assert 'class="here"' in dom
