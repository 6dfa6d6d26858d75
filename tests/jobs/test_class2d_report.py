"""The page of a 2D classification: what it says of classes, in which order, and what it does without."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from halfmap.data.class_averages import ClassAverages
from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.errors import InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.jobs.class2d_figures import in_plane_degrees, offsets_at_the_edge, quarter_turn_excess
from halfmap.jobs.class2d_report import class2d_report, effective_classes, member_montage, members_shown
from halfmap.report.blocks import Curve, Histogram, Note
from halfmap.report.density import Density
from halfmap.report.html import MAX_PAGE_BYTES
from halfmap.report.ranked_gallery import RankedGallery
from support.class_runs import a_class_run

CLOSING_COLUMNS = (
    "frc", "frc_resolution_angstrom", "score", "rotation_accuracy_degrees", "offset_accuracy_angstrom",
)  # fmt: skip


def a_history(n=25, **columns):
    iterations = np.arange(1, n + 1)
    known = {
        "iteration": iterations,
        "log_likelihood": 60.0 * iterations,
        "n_particles_used": np.full(n, 60),
        "changed_share": 1 / iterations,
        "resolution_angstrom": 40.0 / iterations,
        "mean_max_probability": np.linspace(0.1, 0.9, n),
        "median_n_significant": 100.0 / iterations,
        "occupied_classes": np.full(n, 5),
        "current_size_pixel": np.full(n, 12),
    }
    return Table(columns={**known, **columns})


def a_report(run=None, history=None, **options):
    options = {"stop_reason": "nothing changed any more", **options}
    return class2d_report(run or uneven_run(), history or a_history(), **options)


def uneven_run(**columns):
    """Return a run of classes of 5, 30, 0 and 25 particles."""
    return a_class_run(n_classes=4, class_number=np.repeat([1, 2, 4], [5, 30, 25]), **columns)


def blocks_of(report, kind):
    return [block for section in report.sections for block in section.blocks if isinstance(block, kind)]


def gallery_of(report):
    (gallery,) = blocks_of(report, RankedGallery)
    return gallery


def curve_of(report, title):
    (curve,) = [block for block in blocks_of(report, Curve) if block.title.startswith(title)]
    return curve


def values_of(report, label):
    gallery = gallery_of(report)
    place = [quantity.label for quantity in gallery.quantities].index(label)
    return [entry.values[place] for entry in gallery.entries]


def notes_of(report):
    return "\n".join(block.text for block in blocks_of(report, Note))


def placed(run, **columns):
    return replace(run, particles=run.particles.with_columns(**columns))


# the gallery


def test_classes_stand_from_the_largest_to_the_empty_one():
    report = a_report()
    assert [entry.name for entry in gallery_of(report).entries] == ["2", "4", "1", "3"]
    assert values_of(report, "particles") == [30, 25, 5, 0]
    assert [entry.remark for entry in gallery_of(report).entries] == ["", "", "", "empty"]


def test_every_number_of_a_class_is_in_the_data_by_which_it_can_be_ordered():
    run = uneven_run(fraction=[0.1, 0.5, 0.0, 0.4], frc_resolution_angstrom=[30, 8.5, np.nan, 9])
    block = json.loads(json.dumps(a_report(run).to_json(), allow_nan=False))["sections"][1]["blocks"][0]
    assert block["kind"] == "rankedgallery"
    ranks = {q["label"]: q["best"] for q in block["quantities"] if q["is_rank"]}
    assert ranks == {
        "particles": "high", "FRC resolution": "low", "accuracy of rotations": "low", "score": "high", "number": "low",
    }  # fmt: skip
    assert [entry["values"][2] for entry in block["entries"]] == [8.5, 9.0, 30.0, None]
    np.testing.assert_allclose([entry["values"][1] for entry in block["entries"]], [50, 40, 10, 0])


def test_as_long_as_there_is_no_frc_classes_can_be_ordered_by_their_model_ssnr():
    gallery = gallery_of(a_report(uneven_run(frc_resolution_angstrom=[np.nan] * 4)))
    ranks = [quantity.label for quantity in gallery.quantities if quantity.is_rank]
    assert "model SSNR" in ranks
    assert "FRC resolution" not in ranks


def test_a_model_ssnr_is_never_called_a_resolution():
    report = a_report()
    labels = [quantity.label for quantity in gallery_of(report).quantities]
    assert "model SSNR" in labels
    assert [label for label in labels if "resolution" in label] == ["FRC resolution"]
    # in the builder the last class has none, which it says by an infinite value
    assert np.isnan(values_of(report, "model SSNR")[1])


def test_each_average_has_its_own_contrast_and_the_shared_one_beside_it():
    rows, columns = np.mgrid[:16, :16] - 8
    spot = np.exp(-(rows**2 + columns**2) / 8.0)
    averages = np.stack([spot, 10 * spot, np.zeros((16, 16)), 10 * spot]).astype(np.float32)
    entries = {entry.name: entry for entry in gallery_of(a_report(uneven_run(averages=averages))).entries}
    pictures = {
        name: np.asarray(Image.open(io.BytesIO(entry.picture.data))).astype(float) for name, entry in entries.items()
    }
    assert np.abs(pictures["1"] - pictures["2"]).max() <= 1  # grey levels of 255, by rounding
    assert min(pictures["1"].shape) >= 160
    slopes = {name: entry.shared_contrast[0] for name, entry in entries.items()}
    assert slopes["1"] == pytest.approx(slopes["2"] / 10, rel=1e-3)
    assert slopes["2"] == pytest.approx(1, abs=0.05)  # the shared scale leaves out a twentieth at either end


def test_averages_that_are_not_finite_are_shown_black():
    averages = np.random.default_rng(1).normal(size=(4, 16, 16))
    averages[1] = np.nan
    entry = gallery_of(a_report(uneven_run(averages=averages))).entries[0]
    assert np.asarray(Image.open(io.BytesIO(entry.picture.data))).max() == 0


@pytest.mark.parametrize("side", [15, 16])
def test_boxes_of_odd_and_even_sides_are_shown(side):
    members = {1: np.zeros((2, side, side), dtype=np.float32)}
    entries = gallery_of(a_report(a_class_run(n_classes=3, side=side), members=members)).entries
    assert len({entry.picture.shape for entry in entries}) == 1
    assert entries[0].picture.shape[0] == entries[0].picture.shape[1]


# particles of a class


def test_members_are_those_of_the_highest_probability():
    particles = ParticleSet(
        columns={
            "uid": np.arange(1, 8),
            "optics_group": np.ones(7),
            "class_number": [2, 1, 2, 2, 0, 1, 2],
            "max_probability": [0.1, 0.5, 0.9, np.nan, 1.0, 0.5, 0.4],
        },
        optics=a_class_run().particles.optics,
    )
    shown = members_shown(particles, per_class=3)
    assert {number: rows.tolist() for number, rows in shown.items()} == {1: [1, 5], 2: [2, 6, 0]}
    everyone = members_shown(particles.without_columns("max_probability"))
    assert everyone[2].tolist() == [0, 2, 3, 6]


def test_a_montage_holds_all_its_images_in_rows():
    images = np.random.default_rng(1).normal(size=(7, 20, 20)).astype(np.float32)
    assert member_montage(images).shape == (2 * 20 + 2, 6 * 20 + 5 * 2)
    assert member_montage(np.repeat(images, 4, axis=1).repeat(4, axis=2), max_tile=40).shape == (82, 6 * 42 - 2)


def test_a_click_opens_particles_and_curve_of_the_class():
    members = {
        2: np.random.default_rng(1).normal(size=(24, 16, 16)),
        1: np.zeros((5, 16, 16)),
        4: np.zeros((0, 16, 16)),
    }
    entries = {entry.name: entry for entry in gallery_of(a_report(members=members)).entries}
    assert entries["2"].detail_caption == "24 of 30 particles, the surest first."
    assert entries["1"].detail_caption == "All 5 particles, the surest first."
    assert entries["4"].detail is None
    assert [bool(entries[str(number)].lines) for number in (1, 2, 3, 4)] == [True, True, True, False]


# curves


def test_best_classes_are_named_and_the_others_thin():
    run = a_class_run(n_classes=12, n_particles=120)
    curve = curve_of(a_report(run, joined_up_to_angstrom=30.0), "Fourier ring")
    named = [line.label for line in curve.lines if line.style == "line"]
    thin = [line for line in curve.lines if line.style == "thin"]
    assert named[0] == "class 1, 20 Å"
    assert len(named) == 5
    assert len(thin) == 12 - 5 - 1  # the last class has no curve
    marks = {(mark.axis, round(mark.value, 4)) for mark in curve.marks}
    assert marks == {("y", 0.143), ("y", 0.5), ("x", round(1 / 30, 4))}
    assert "closing stage" in curve.caption
    assert "30 Å" in curve.caption


def test_shells_lie_at_whole_steps_of_the_inverse_box():
    run = a_class_run(side=16)
    line = curve_of(a_report(run), "Fourier ring").lines[0]
    np.testing.assert_allclose(line.x, np.arange(9) / (16 * 4.0))


def test_history_is_drawn_for_each_particle_over_the_iterations():
    report = a_report()
    np.testing.assert_allclose(curve_of(report, "Log-likelihood").lines[0].y, np.arange(1, 26))
    lines = {line.label: line.y for line in curve_of(report, "Model SSNR and band").lines}
    np.testing.assert_allclose(lines["best class"], np.arange(1, 26) / 40.0)
    # 12 of 16 px of 4 Å: shell 6 of a box of 64 Å
    np.testing.assert_allclose(lines["band"], 6 / 64.0)
    assert curve_of(report, "Log-likelihood").x.label == "mini-batch"


# angles and offsets


def with_angles(psi, n=None):
    psi = np.asarray(psi, dtype=float)
    run = a_class_run(n_particles=len(psi))
    return placed(run, rotation=array_from_euler(np.zeros(len(psi)), np.zeros(len(psi)), psi))


def test_in_plane_angles_are_psi():
    psi = np.array([-180.0, -91, 0, 17.5, 90, 179])
    np.testing.assert_allclose(in_plane_degrees(with_angles(psi)), psi, atol=1e-9)


def test_every_angle_is_counted_once_and_grid_points_in_one_bin_each():
    psi = np.repeat(np.arange(-180, 180, 6) + 2.9, 3)
    (histogram,) = [b for b in blocks_of(a_report(with_angles(psi)), Histogram) if b.title == "In-plane angles"]
    assert histogram.bars[0].counts.tolist() == [3] * 60


@pytest.mark.parametrize("offset", [0.0, 2.9, -2.9])
def test_even_angles_are_no_excess_and_aligned_patterns_are(offset):
    even = np.tile(np.arange(-180, 180, 6) + offset, 10)
    assert quarter_turn_excess(with_angles(even)) is None
    patterned = np.concatenate([even, np.tile([-180, -90, 0, 90], 30) + offset])
    # 40 of 600 angles are on multiples of 90° to begin with, 160 of 720 then
    assert quarter_turn_excess(with_angles(patterned)) == pytest.approx((160 / 720) / (6 / 90))
    assert "multiples of 90°" in notes_of(a_report(with_angles(patterned)))
    assert "multiples of 90°" not in notes_of(a_report(with_angles(even)))


def test_angles_that_were_not_searched_are_no_excess():
    assert quarter_turn_excess(with_angles(np.zeros(500))) is None


def test_offsets_at_the_edge_of_the_search_are_told():
    run = a_class_run(n_particles=100)  # range 12 Å, step 4 Å
    lengths = np.repeat([2.0, 9.9, 10.1, 30.0], [60, 34, 4, 2])
    angle = np.linspace(0, 6, 100)
    run = placed(run, origin_angstrom=np.stack([lengths * np.cos(angle), lengths * np.sin(angle)], axis=1))
    assert offsets_at_the_edge(run) == pytest.approx(0.06)
    report = a_report(run)
    assert "6 % of the particles lie at the edge of the offset search" in notes_of(report)
    (histogram,) = [b for b in blocks_of(report, Histogram) if b.title == "Length of offsets"]
    assert np.sum(histogram.bars[0].counts) == 100
    (density,) = blocks_of(report, Density)
    assert np.sum(density.counts) == 100
    assert "offset search" not in notes_of(a_report(placed(run, origin_angstrom=np.zeros((100, 2)))))


# words


def test_tiles_say_how_much_and_why():
    run = uneven_run(fraction=[0.25, 0.25, 0.25, 0.25], frc_resolution_angstrom=[30, 8.5, np.nan, 9])
    report = a_report(run, algorithm_reason="60 particles", n_set_aside=3)
    tiles = {fact.label: fact for fact in report.facts.facts}
    assert tiles["particles"].value == 60
    assert tiles["particles"].note == "3 set aside"
    assert tiles["classes occupied"].value == "3 of 4"
    assert tiles["best FRC resolution"].value == 8.5
    assert tiles["best FRC resolution"].note == "class 2: 30 particles"
    assert (tiles["algorithm"].value, tiles["algorithm"].note) == ("VDAM", "60 particles")
    assert (tiles["mini-batches"].value, tiles["mini-batches"].note) == (25, "nothing changed any more")
    assert tiles["mask diameter"].value == 45.0
    assert (tiles["box"].value, tiles["box"].note) == (16, "of 4 Å each")


def test_effective_number_of_classes():
    assert effective_classes(np.full(8, 0.125)) == pytest.approx(8)
    assert effective_classes(np.array([1.0, 0.0, np.nan])) == pytest.approx(1)
    assert np.isnan(effective_classes(np.array([np.nan])))


def test_warnings_come_first_and_bad_signs_are_told():
    report = a_report(warnings=["The stack is not normalised."])
    assert report.sections[0].title == "Worth a look"
    assert report.sections[0].blocks[0].text == "The stack is not normalised."
    words = notes_of(report)
    assert "1 of 4 classes are empty" in words
    assert "fewer than 25 particles" in words
    large = a_class_run(n_particles=1000, n_classes=5)
    calm = a_report(placed(large, origin_angstrom=np.zeros((1000, 2))))
    assert calm.sections[0].title == "Classes"
    assert "--max-alignment-resolution" in notes_of(calm)


def test_a_class_that_draws_in_most_particles_is_told():
    run = a_class_run(n_classes=3, class_number=np.repeat([1, 2, 3], [200, 60, 60]), n_particles=320)
    assert "One class holds 62 % of the particles" in notes_of(a_report(run))


def test_halves_that_agree_no_farther_than_they_were_joined_are_told():
    run = uneven_run(frc_resolution_angstrom=[40, 31, np.nan, 35])
    assert "beyond 30 Å" in notes_of(a_report(run, joined_up_to_angstrom=30.0))
    assert "beyond 30 Å" not in notes_of(a_report(run, joined_up_to_angstrom=34.0))


# what is not known yet


def test_page_after_any_iteration_does_without_the_closing_stage():
    run = uneven_run()
    kept = {name: values for name, values in run.averages.columns.items() if name not in CLOSING_COLUMNS}
    run = replace(run.with_averages(ClassAverages(columns=kept, grid=run.averages.grid)), iteration=7)
    report = a_report(run, a_history(7), stop_reason="")
    assert report.status == "iteration 7 of 25"
    assert "after iteration 7 of 25" in report.summary
    tiles = {fact.label: fact.value for fact in report.facts.facts}
    assert tiles["best FRC resolution"] == "–"
    labels = [quantity.label for quantity in gallery_of(report).quantities]
    assert labels == ["particles", "expected share", "model SSNR", "number"]
    assert not [block for block in blocks_of(report, Curve) if "Fourier ring" in block.title]


def test_page_of_nothing_but_averages_and_counts():
    run = uneven_run()
    averages = {name: run.averages[name] for name in ("average", "n_particles")}
    run = replace(run.with_averages(ClassAverages(columns=averages, grid=run.averages.grid)), particles=bare(run))
    report = class2d_report(run, Table(columns={}))
    assert [section.title for section in report.sections] == ["Worth a look", "Classes", "Numbers"]
    assert report.to_html().count('class="item') == 4


def bare(run):
    names = ("uid", "optics_group", "class_number")
    return ParticleSet(columns={name: run.particles[name] for name in names}, optics=run.particles.optics)


def test_page_before_any_particle_has_a_class():
    run = uneven_run()
    run = run.with_averages(run.averages.with_columns(n_particles=np.zeros(4, dtype=int), fraction=np.full(4, np.nan)))
    report = class2d_report(placed(run, class_number=np.zeros(60, dtype=int)), a_history(1))
    assert all(entry.remark == "empty" for entry in gallery_of(report).entries)
    assert report.summary.startswith("60 particles in 0 of 4 classes")


def test_a_run_without_classes_is_refused():
    run = a_class_run()
    none = ClassAverages(columns={}, grid=run.averages.grid)
    with pytest.raises(InputError, match="class to show"):
        class2d_report(run.with_averages(none), a_history())


# the page


def test_page_is_self_contained_and_shows_text_as_written():
    evil = "</script><script>alert(1)</script>"
    page = a_report(warnings=[evil], title=evil, stop_reason=evil, algorithm_reason=evil).to_html()
    assert evil not in page
    assert page.count("<script") == 1
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", page)


def test_page_of_200_classes_of_large_boxes_fits_with_pictures_as_they_are():
    random = np.random.default_rng(1)
    images = random.normal(size=(10, 200, 200)).astype(np.float32)
    run = a_class_run(n_classes=200, n_particles=6000, side=200, averages=images[np.arange(200) % 10])
    run = replace(run, mask_diameter_angstrom=600.0)
    members = dict.fromkeys(range(1, 201), np.tile(images, (3, 1, 1))[:24])
    beside = {}
    page = a_report(run, members=members).to_html(beside=beside)
    assert page.count('class="item') == 200
    assert len(page.encode()) < MAX_PAGE_BYTES
    assert beside == {}
