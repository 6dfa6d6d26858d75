"""Cards in an order that the reader chooses: values as data, links without a script, order with one."""

import html as text_of
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from halfmap.errors import InputError, ShapeError
from halfmap.report.blocks import Axis, Line, Mark, Report, Section
from halfmap.report.html import render
from halfmap.report.pictures import Picture
from halfmap.report.ranked_gallery import Entry, Quantity, RankedGallery

X = Axis(label="resolution", unit="Å", scale="resolution", limits=(0, 0.1))
Y = Axis(label="FRC", limits=(0, 1))
QUANTITIES = (
    Quantity(label="particles", place="head"),
    Quantity(label="FRC resolution", short="FRC", unit="Å", decimals=1, best="low"),
    Quantity(label="accuracy", unit="°", decimals=2, best="low", is_rank=False, place="detail"),
)
VALUES = {"7": (1200, 8.25, 1.0), "3": (90, None, 2.0), "12": (40, 6.0, float("nan")), "1": (0, float("nan"), 3.0)}


def noise_picture(side=20, seed=1):
    return Picture.png(np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8))


def entries(side=20, **changes):
    return [
        Entry(
            name=name,
            picture=noise_picture(side, number),
            values=values,
            remark="" if values[0] else "empty",
            level="plain" if values[0] else "warning",
            shared_contrast=(0.5, 0.125),
            detail=noise_picture(2 * side, 10 + number),
            detail_caption=f"members of {name}",
            lines=(Line(label="FRC", x=[0, 0.05, 0.1], y=[1, 0.5, np.nan]),),
            **changes,
        )
        for number, (name, values) in enumerate(VALUES.items())
    ]


def a_gallery(side=20, **changes):
    given = {"quantities": QUANTITIES, "entries": entries(side), "noun": "class", "x": X, "y": Y, **changes}
    return RankedGallery(marks=[Mark(value=0.5, axis="y")], **given)


def page_of(*blocks, **options):
    return render(Report(title="A job", sections=[Section(title="Part", blocks=blocks)]), **options)


def test_values_by_which_entries_are_ordered_are_data():
    plain = json.loads(json.dumps(Report(title="t", sections=[Section(title="s", blocks=[a_gallery()])]).to_json()))
    block = plain["sections"][0]["blocks"][0]
    assert block["kind"] == "rankedgallery"
    assert [(q["label"], q["best"], q["is_rank"]) for q in block["quantities"]] == [
        ("particles", "high", True), ("FRC resolution", "low", True), ("accuracy", "low", False),
    ]  # fmt: skip
    assert [entry["values"] for entry in block["entries"]] == [
        [1200, 8.25, 1.0], [90, None, 2.0], [40, 6.0, None], [0, None, 3.0],
    ]  # fmt: skip
    assert block["entries"][0]["picture"]["source"].startswith("data:image/png")
    assert block["entries"][0]["lines"][0]["y"] == [1.0, 0.5, None]


def test_page_shows_each_card_with_its_values_and_links_to_its_entry():
    page = page_of(a_gallery())
    cards = re.findall(r'<a class="item.*?</a>', page, flags=re.DOTALL)
    assert [re.search(r'href="#([^"]+)"', card)[1] for card in cards] == ["class-7", "class-3", "class-12", "class-1"]
    assert all(page.count(f'id="class-{name}"') == 1 for name in VALUES)
    assert "1\u2009200" in cards[0]
    assert "8.2\u202fÅ" in cards[0] or "8.3\u202fÅ" in cards[0]
    assert "–" in cards[1]
    assert "accuracy" not in cards[0]
    assert ">empty<" in cards[3]
    assert [json.loads(text_of.unescape(values)) for values in re.findall(r'data-values="([^"]+)"', page)] == [
        [1200, 8.25, 1], [90, None, 2], [40, 6, None], [0, None, 3],
    ]  # fmt: skip
    assert page.count('class="small-curve"') == 4
    assert '<feFuncR type="linear" slope="0.5" intercept="0.125"/>' in page


def test_without_a_script_the_controls_are_hidden_and_the_entries_lie_open():
    page = page_of(a_gallery())
    assert '<div class="ranking controls" hidden>' in page
    assert '<details class="entries" open>' in page


def test_two_galleries_of_one_noun_have_links_of_their_own():
    ids = re.findall(r'<article class="entry" id="([^"]+)"', page_of(a_gallery(), a_gallery()))
    assert ids[0] == "class-7"
    assert len(set(ids)) == 8


def test_names_and_captions_are_shown_as_written_and_never_run():
    evil = "</script><script>alert(1)</script>'\""
    one = Entry(
        name=evil, picture=noise_picture(), values=(1,), remark=evil, detail=noise_picture(), detail_caption=evil
    )
    quantity = Quantity(label=evil, unit=evil)
    page = page_of(RankedGallery(quantities=[quantity], entries=[one], noun=evil, title=evil, caption=evil))
    assert evil not in page
    assert page.count("<script") == 1
    assert re.fullmatch(r"[A-Za-z0-9-]+", re.search(r'class="entry" id="([^"]+)"', page)[1])


def test_pictures_of_cards_and_entries_count_towards_the_size_of_the_page():
    limit = 1_060_000
    beside = {}
    page = page_of(a_gallery(300), max_bytes=limit, beside=beside)
    assert len(page) <= limit
    assert beside
    assert all(f'src="{name}"' in page for name in beside)
    assert len(page_of(a_gallery(300))) > limit


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ShapeError, {"quantities": QUANTITIES[:2]}),
        (InputError, {"entries": [*entries(), *entries()]}),
        (InputError, {"x": None}),
    ],
)
def test_what_does_not_belong_together_is_refused(error, changes):
    with pytest.raises(error):
        a_gallery(**changes)


def order_in_browser(tmp_path, script):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page = page_of(a_gallery()).replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    return subprocess.run(
        [chromium, *options, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'report.html'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_buttons_order_cards_either_way_with_those_without_a_value_last(tmp_path):
    dom = order_in_browser(
        tmp_path,
        """
        const names = () => [...document.querySelectorAll('.item')].map((card) => card.hash.slice(7)).join();
        const [size, frc] = document.querySelectorAll('.segments button');
        const seen = [names()];
        for (const button of [size, frc, frc, size]) { button.click(); seen.push(names()); }
        document.querySelector('.item:nth-child(2)').click();
        seen.push(document.querySelector('#one h4').textContent, document.querySelector('#one .turn span').textContent);
        document.querySelector('#one [data-step="1"]').click();
        seen.push(document.querySelector('#one h4').textContent);
        document.title = seen.join('|');
        """,
    )
    seen = re.search(r"<title>(.*?)</title>", dom)[1].split("|")
    assert seen[0] == "7,3,12,1"
    assert seen[1] == "1,12,3,7"
    assert seen[2] == "12,7,3,1"
    assert seen[3] == "7,12,3,1"
    assert seen[4] == "7,3,12,1"
    assert seen[5:] == ["class 3", "2 of 4", "class 12"]
    assert '<div class="ranking controls">' in dom
