"""Selecting classes as a job: files in, files out, and what the page says."""

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

import halfmap
from halfmap.errors import FormatError, InputError
from halfmap.io import mrc, relion, star
from support.class_runs import a_class_run, blob, written


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


def text_of(folder):
    return (folder / "run.log").read_text()


def selected_of(path):
    return next(iter(star.read(path))).integers("rlnSelected").tolist()


@pytest.mark.parametrize("what", ["Class2D/job007", "Class2D/job007/run_it025_optimiser.star"])
def test_particles_of_the_chosen_classes_are_written_as_they_stood(project, what):
    run = a_class_run()
    written(project, run)
    result = halfmap.select_classes(classification=what, classes=(1, 4))
    assert result.main_output.name == "particles.star"
    before = relion.read_particles(project / "Class2D/job007/run_it025_data.star")
    after = relion.read_particles(result.main_output)
    expected = before.take(np.isin(before["class_number"], (1, 4)))
    assert list(after.columns) == list(expected.columns)
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    removed = relion.read_particles(result.folder / "particles_removed.star")
    assert sorted([*after.uid, *removed.uid]) == sorted(before.uid)
    assert "24 of 60 particles from 2 of 5 classes." in text_of(result.folder)


def test_averages_of_the_chosen_classes_are_written_with_their_labels(project):
    run = a_class_run()
    written(project, run)
    folder = halfmap.select_classes(classification="Class2D/job007", classes=(4, 1)).folder
    table = next(iter(star.read(folder / "class_averages.star")))
    assert {
        *("rlnReferenceImage", "rlnClassDistribution", "rlnAccuracyRotations", "rlnAccuracyTranslationsAngst"),
        *("rlnEstimatedResolution", "rlnOverallFourierCompleteness", "rlnPredictedClassScore"),
    } <= set(table.labels)
    assert table.integers("rlnClassNumber").tolist() == [1, 4]
    assert table.text("rlnReferenceImage")[1] == f"000002@{folder.relative_to(project)}/class_averages.mrcs"
    np.testing.assert_array_equal(mrc.map_data(folder / "class_averages.mrcs"), run.averages["average"][[0, 3]])


def test_a_selection_can_be_reloaded_and_narrowed(project):
    written(project, a_class_run())
    first = halfmap.select_classes(classification="Class2D/job007", classes=(1, 3, 4))
    backup = first.folder / "backup_selection.star"
    assert selected_of(backup) == [1, 0, 1, 1, 0]
    again = halfmap.select_classes(classification="Class2D/job007", selection=backup)
    assert again.main_output.read_text() == first.main_output.read_text()
    narrower = halfmap.select_classes(classification="Class2D/job007", selection=backup, exclude=(3,))
    assert selected_of(narrower.folder / "backup_selection.star") == [1, 0, 0, 1, 0]


def test_scores_of_the_run_decide_without_being_computed_again(project):
    written(project, a_class_run())  # scores 0.9, 0.63, 0.37, 0.1 and none
    result = halfmap.select_classes(classification="Class2D/job007", auto=True)
    assert selected_of(result.folder / "backup_selection.star") == [1, 1, 0, 0, 0]
    more = halfmap.select_classes(classification="Class2D/job007", auto=True, min_particles=30)
    assert selected_of(more.folder / "backup_selection.star") == [1, 1, 1, 0, 0]
    assert "scores already" in text_of(result.folder)


def test_classes_without_scores_are_given_to_the_ranker(project, monkeypatch):
    run = a_class_run(score=np.full(5, np.nan))
    written(project, run)
    asked = []

    def score(averages, *, mask_diameter_angstrom):
        asked.append((len(averages), mask_diameter_angstrom))
        return np.array([0.1, 0.2, 0.95, 0.5, 0.49])

    monkeypatch.setattr("halfmap.classification.ranking.scores.score", score)
    result = halfmap.select_classes(classification="Class2D/job007", min_score=0.5, exclude=(1,))
    assert asked == [(5, run.mask_diameter_angstrom)]
    assert selected_of(result.folder / "backup_selection.star") == [0, 0, 1, 1, 0]
    table = next(iter(star.read(result.folder / "class_averages.star")))
    assert table.numbers("rlnPredictedClassScore").tolist() == [0.95, 0.5]
    assert "score 0.95" in unescape((result.folder / "report.html").read_text())


def test_recentred_classes_move_averages_and_origins(project):
    images = np.stack([blob(32, 3, -2, 1.0)] * 5)
    run = replace(a_class_run(averages=images, side=32), mask_diameter_angstrom=100)
    written(project, run)
    result = halfmap.select_classes(classification="Class2D/job007", classes=(2,), recenter=True)
    image = mrc.map_data(result.folder / "class_averages.mrcs")[0]
    rows, columns = np.mgrid[:32, :32] - 16
    assert abs((image * columns).sum() / image.sum()) < 0.05
    assert abs((image * rows).sum() / image.sum()) < 0.05
    before = run.particles.take(run.particles["class_number"] == 2)
    moved = relion.read_particles(result.main_output)["origin_angstrom"] - before["origin_angstrom"]
    # Every particle moves by the length of (3, −2) px; in which direction, its angle says (tests/selection).
    np.testing.assert_allclose(np.hypot(*moved.T), 4.0 * np.hypot(3, 2), atol=0.1)
    assert "up to 14.4 Å" in text_of(result.folder)


def test_regrouped_particles_have_names_and_no_numbers(project):
    written(project, a_class_run(n_particles=200, n_micrographs=10))
    result = halfmap.select_classes(classification="Class2D/job007", classes=(1, 2, 3, 4), regroup=3)
    table = star.read(result.main_output)["particles"]
    assert "rlnGroupNumber" not in table
    names, counts = np.unique(table.text("rlnGroupName"), return_counts=True)
    assert names.tolist() == ["group_01", "group_02", "group_03"] or len(names) == 2
    assert counts.min() >= 160 / 3 / 2
    with pytest.raises(InputError, match="at least 10 particles on average"):
        halfmap.select_classes(classification="Class2D/job007", classes=(1,), regroup=10)


def test_groups_get_no_names_where_the_file_has_none(project):
    optimiser = written(project, a_class_run())
    data = optimiser.with_name("run_it025_data.star")
    text = data.read_text()
    labels = re.findall(r"^_(\S+)", text[text.index("data_particles") :], re.MULTILINE)
    table = star.read(data)
    particles = star.StarTable(
        name="particles", columns={k: v for k, v in table["particles"].columns.items() if k != "rlnGroupName"}
    )
    star.write(data, [table["optics"], particles])
    result = halfmap.select_classes(classification=optimiser, classes=(1,))
    written_labels = star.read(result.main_output)["particles"].labels
    assert "rlnGroupName" in labels
    assert "rlnGroupName" not in written_labels
    assert "rlnGroupNumber" in written_labels


def test_counts_on_the_page_are_those_of_the_files(project):
    written(project, a_class_run(class_number=np.repeat([1, 2, 3, 4, 0], [20, 10, 15, 14, 1])))
    result = halfmap.select_classes(classification="Class2D/job007", classes=(1, 3))
    page = unescape((result.folder / "report.html").read_text())
    assert "Selected: 35 particles of 2 classes" in page
    assert "Rejected: 24 particles of 2 classes" in page
    assert "1: 20 (33.3 %)" in page
    assert "1 class without particles" in page
    assert "1 particle without a class" in page
    assert "MotionCorr/job002/Movies/mic_2.mrc" in page
    assert len(relion.read_particles(result.main_output)) == 35


def test_a_run_of_another_project_is_selected_from_with_paths_that_hold_here(tmp_path, monkeypatch):
    other, here = tmp_path / "other", tmp_path / "here"
    for folder in (other, here):
        (folder / ".halfmap").mkdir(parents=True)
    (other / "stack.mrcs").write_bytes(b"")
    written(other, a_class_run())
    monkeypatch.chdir(here)
    result = halfmap.select_classes(classification=other / "Class2D/job007", classes=(1,))
    name = relion.read_particles(result.main_output)["image_name"][0]
    assert (here / name.rpartition("@")[2]).exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.star", "data_particles\nloop_\n_rlnImageName\n1@a.mrcs\n", "found a table of particles"),
        ("b.star", "data_micrographs\nloop_\n_rlnMicrographName\na\n", "found a table of micrographs"),
    ],
)
def test_a_file_of_another_kind_is_named(project, name, text, message):
    (project / name).write_text(text)
    with pytest.raises(FormatError, match=message):
        halfmap.select_classes(classification=name, classes=(1,))


def test_a_selection_of_another_kind_is_named(project):
    optimiser = written(project, a_class_run())
    with pytest.raises(FormatError, match="expected the column _rlnSelected"):
        halfmap.select_classes(classification=optimiser, selection=optimiser)


def test_nothing_is_left_to_be_selected_and_that_is_said(project):
    written(project, a_class_run())
    with pytest.raises(InputError, match="At least one of the 5 classes must be selected"):
        halfmap.select_classes(classification="Class2D/job007", min_resolution_angstrom=0.5)


def test_the_record_names_classification_and_criteria(project):
    written(project, a_class_run())
    result = halfmap.select_classes(classification="Class2D/job007", classes="1,4")
    record = json.loads((result.folder / "job.json").read_text())
    assert record["parameters"]["classification"] == "Class2D/job007"
    assert record["parameters"]["classes"] == [1, 4]
