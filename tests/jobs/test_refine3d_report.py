"""The page of a 3D refinement, under way and at its end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.geometry.rotations import matrix_from_euler
from halfmap.jobs import refine3d_figures as figures
from halfmap.jobs.refine3d_report import refine3d_report
from halfmap.postprocessing.postprocess import postprocess
from halfmap.report.blocks import Fact, Note, Section
from halfmap.report.blocks import Table as TableBlock
from halfmap.report.density import Density
from support.half_maps import sphere_mask
from support.refinement_runs import a_history, a_refinement_run


def titles(report):
    return [section.title for section in report.sections]


def blocks(report, title):
    return next(section.blocks for section in report.sections if section.title == title)


@pytest.fixture(scope="module")
def finished():
    """A finished run and its post-processing."""
    run = a_refinement_run(n_particles=400, symmetry="D2", is_final=True)
    mask = sphere_mask(run.grid, radius_angstrom=32, edge_angstrom=12)
    return run, postprocess(run.halves[0].unregularised, run.halves[1].unregularised, mask)


def test_a_run_under_way_shows_what_there_is():
    page = refine3d_report(a_refinement_run())
    assert page.status == "iteration 12"
    assert titles(page) == [
        *("Resolution", "Maps", "Viewing directions", "Course of the refinement", "Poses", "For the methods section"),
    ]
    assert [block.title for block in blocks(page, "Maps")][:2] == [
        "Mean of both halves, regularised",
        "Half 1, regularised",
    ]
    assert len(blocks(page, "Maps")[0].pictures) == 6
    assert "<svg" in page.to_html()


def test_the_first_iteration_has_neither_curve_nor_course():
    run = a_refinement_run(iteration=0)
    nothing = np.full(run.n_shells, np.nan)
    run = replace(
        run,
        fsc=nothing,
        used_fsc=nothing,
        history=a_history(0),
        resolution_angstrom=np.inf,
        rotation_accuracy_degrees=np.nan,
    )
    page = refine3d_report(run)
    assert "Resolution" not in titles(page)
    assert "Course of the refinement" not in titles(page)
    fact = next(fact for fact in page.facts.facts if fact.label == "Resolution so far")
    assert fact.value == "none"
    assert page.to_json()


def test_the_end_shows_everything_and_one_table_for_the_methods(finished):
    run, result = finished
    more = Section(title="Local resolution", blocks=[Note(text="here")])
    page = refine3d_report(
        run,
        postprocessed=result,
        stop_reason="nothing gains any more",
        resolution_by_number=[(100, 20.0), (200, 15.0), (400, 12.0)],
        sections=[more],
        facts=[Fact(label="Local", value=1)],
        methods_rows=[("low-pass of the reference", 50.0, "Å")],
        n_set_aside=3,
    )
    assert titles(page) == [
        *("Resolution and sharpening", "Maps", "Directions", "Viewing directions", "Course of the refinement"),
        *("Poses", "Local resolution", "For the methods section"),
    ]
    resolution = blocks(page, "Resolution and sharpening")
    fsc = next(block for block in resolution if getattr(block, "title", "") == "Fourier shell correlation")
    assert {line.label for line in fsc.lines} >= {"corrected", "unmasked", "masked"}
    assert resolution[-1].title == "Resolution against number of particles"
    assert blocks(page, "Maps")[-1].title == "Map of all particles, as refined"
    note, table = blocks(page, "For the methods section")
    assert isinstance(table, TableBlock)
    values = {row[0]: row[1] for row in table.rows}
    assert values["particles"] == "400"
    assert values["symmetry"] == "D2"
    assert values["step of angles"] == "3.75"
    assert values["low-pass of the reference"] == "50"
    assert values["pixel size"] == "4"
    assert values["resolution, FSC = 0.143, corrected"] == f"{result.resolution_angstrom:.3g}"
    assert values["acceleration voltage"] == "300"
    assert "400 particles were refined with D2 symmetry in two independent halves" in note.text
    assert page.status == ""
    assert page.facts.facts[0].label == "Resolution"
    assert page.facts.facts[-1].label == "Local"


def test_warnings_come_first():
    page = refine3d_report(a_refinement_run(), warnings=["The mask cuts the particle."])
    assert titles(page)[0] == "Worth a look"
    assert page.sections[0].blocks[0].text == "The mask cuts the particle."
    assert page.level == "warning"


def test_views_are_counted_on_half_spheres_of_equal_area():
    run = a_refinement_run(n_particles=300)
    upper, lower, coverage = figures.view_section(run).blocks
    assert isinstance(upper, Density)
    assert (upper.title, lower.title) == ("Views from z > 0", "Views from z < 0")
    # 300 views in pixels of HEALPix: each is as often in the picture as its area is large
    cells = np.asarray(upper.counts).shape[0] ** 2 * np.pi / 4 / (12 * 4 / 2)  # cells of a pixel of order 1
    total = (np.asarray(upper.counts).sum() + np.asarray(lower.counts).sum()) / cells
    assert total == pytest.approx(300, rel=0.03)
    assert coverage.title == "Coverage of the transform"


def test_one_half_sphere_is_enough_where_symmetry_makes_both_alike():
    run = a_refinement_run(symmetry="D2")
    assert [block.title for block in figures.view_section(run).blocks] == [
        "Views from z > 0",
        "Coverage of the transform",
    ]


def test_views_lie_where_the_particle_was_seen_from():
    run = a_refinement_run(n_particles=20)
    along_x = matrix_from_euler(torch.zeros(20), torch.full((20,), 80.0), torch.zeros(20)).numpy()
    upper = figures.view_section(run.with_particles(run.particles.with_columns(rotation=along_x))).blocks[0]
    y, x = np.nonzero(np.asarray(upper.counts))
    assert x.mean() > 0.8 * upper.counts.shape[1]
    assert y.mean() == pytest.approx(upper.counts.shape[0] / 2, abs=0.15 * upper.counts.shape[0])


def test_preferred_orientations_are_warned_of_and_even_ones_are_not():
    run = a_refinement_run(n_particles=900)
    random = np.random.default_rng(2)
    even = np.degrees(np.arccos(random.uniform(-1, 1, 900)))
    for tilt, is_warned in ((random.normal(0, 8, 900), True), (even, False), (random.normal(90, 5, 900), False)):
        rot, psi = (torch.from_numpy(random.uniform(-180, 180, 900)) for _ in range(2))
        rotation = matrix_from_euler(rot, torch.from_numpy(tilt), psi).numpy()
        found = figures.orientation_warning(run.with_particles(run.particles.with_columns(rotation=rotation)))
        assert (found is not None) == is_warned
    assert (
        "tilted micrographs"
        in refine3d_report(run.with_particles(run.particles.with_columns(rotation=np.eye(3)[None].repeat(900, 0))))
        .sections[0]
        .blocks[0]
        .text
    )


def test_line_through_resolutions_has_the_b_factor_they_were_made_with():
    b_factor = 200.0
    numbers = np.array([100, 1000, 10000])
    resolution = 1 / np.sqrt(2 / b_factor * np.log(numbers / 10))
    curve = figures.number_curve(list(zip(numbers.tolist(), resolution.tolist(), strict=True)))
    assert "B-factor of 200 Å²" in curve.caption
    assert figures.number_curve([(100, 10.0), (200, np.inf)]) is None
    assert "no finer resolution" in figures.number_curve([(100, 10.0), (200, 11.0)]).caption


def test_steps_accuracies_and_changes_stand_in_one_row_for_each_iteration():
    section = figures.course_section(a_refinement_run(iteration=9))
    table = section.blocks[-1]
    assert table.columns[:4] == ("iteration", "resolution (Å)", "step (°)", "accuracy (°)")
    assert len(table.rows) == 9
    assert table.rows[0][3] is None
    assert {row[-1] for row in table.rows} == {"global"}
    angles = next(block for block in section.blocks if block.title == "Angles")
    assert [line.label for line in angles.lines] == ["accuracy", "step", "change"]
