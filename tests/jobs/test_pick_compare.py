import json
import re

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import star
from support.pick_projects import DIAMETER, SHAPE, PickProject


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = PickProject(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def compare(project, *lists, **options):
    given = {"diameter_angstrom": DIAMETER, "workers": 1, "micrographs": project.micrographs, **options}
    return halfmap.pick_compare(picks=lists, **given)


def totals(result):
    table = star.read(result.main_output)["comparison"]
    return [
        tuple(int(table.text(f"halfmapNr{name}")[i]) for name in ("Picked", "Known", "Matched"))
        for i in range(len(table))
    ]


def worse(project):
    """The truth with every third position lost and three wrong ones of low merit."""
    lists, merits = {}, {}
    for name, true in project.positions.items():
        kept = np.delete(true, np.arange(0, len(true), 3), axis=0) + np.array([1.0, 0.0])
        lists[name] = np.concatenate([kept, [[2.0, 2.0], [2.0, SHAPE[0] - 3], [SHAPE[1] - 3, 2.0]]])
        merits[name] = np.concatenate([np.full(len(kept), 4.0), np.full(3, 1.0)])
    return lists, merits


def test_lists_are_counted_against_the_truth(project):
    lists, merits = worse(project)
    picks, truth = project.write_picks("a", lists, merits), project.write_picks("truth", project.positions)
    n_true = sum(map(len, project.positions.values()))
    n_kept = sum(map(len, lists.values())) - 6
    result = compare(project, picks, truth=truth)
    assert totals(result) == [(n_kept + 6, n_true, n_kept)]
    page = (result.folder / "report.html").read_text()
    assert "Mean (5.0, 0.0) Å" in page  # one pixel of 5 Å along x
    assert "wrong" in page
    assert "missed" in page


def test_without_truth_the_first_list_is_what_others_are_held_against(project):
    lists, merits = worse(project)
    whole, part = project.write_picks("whole", project.positions), project.write_picks("part", lists, merits)
    result = compare(project, whole, part)
    assert totals(result)[0][1] == sum(map(len, project.positions.values()))
    assert "only in the first list" in (result.folder / "report.html").read_text()


def test_positions_near_the_edge_can_be_left_out(project):
    lists, merits = worse(project)
    picks, truth = project.write_picks("a", lists, merits), project.write_picks("truth", project.positions)
    [(n_picked, _, n_matched)] = totals(compare(project, picks, truth=truth, edge_distance_angstrom=25.0))
    assert n_picked == n_matched > 0


def test_every_circle_on_a_picture_has_a_kind_and_missed_ones_no_merit(project):
    lists, merits = worse(project)
    picks, truth = project.write_picks("a", lists, merits), project.write_picks("truth", project.positions)
    page = (compare(project, picks, truth=truth, pictures=1).folder / "report.html").read_text()
    [points] = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    n_missed = points["k"].count(2)
    assert len(points["k"]) == len(points["x"]) == len(points["v"])
    assert (
        n_missed
        == points["v"].count(None)
        == len(project.positions[project.names[0]]) + 3 - len(lists[project.names[0]])
    )
    assert points["k"].count(1) == 3


def test_a_job_s_folder_a_folder_of_coordinates_and_micrographs_known_by_stem_serve_as_lists(project):
    project.write_picks("AutoPick/job001", project.positions)
    folder = project.root / "coordinates"
    folder.mkdir()
    for name, true in project.positions.items():
        np.savetxt(folder / f"{name.split('/')[1][:-4]}.txt", true)
    moved = {name.replace("Micrographs", "MotionCorr/job002"): true for name, true in project.positions.items()}
    elsewhere = project.write_picks("elsewhere", moved)
    n_true = sum(map(len, project.positions.values()))
    result = compare(project, project.root / "AutoPick/job001", folder, elsewhere)
    assert totals(result) == [(n_true, n_true, n_true)] * 2


def test_micrographs_are_those_that_the_first_list_names_where_no_table_is_given(project):
    picks = project.write_picks("a", project.positions)
    n_true = sum(map(len, project.positions.values()))
    result = compare(project, picks, picks, micrographs=None)
    assert totals(result) == [(n_true, n_true, n_true)]


def test_a_micrograph_that_a_list_did_not_search_is_left_out(project):
    name = project.names[1]
    whole = project.write_picks("whole", project.positions)
    one = project.write_picks("one", {name: project.positions[name]})
    n = len(project.positions[name])
    assert totals(compare(project, whole, truth=one)) == [(n, n, n)]


def test_a_list_of_other_micrographs_is_refused(project):
    whole = project.write_picks("whole", project.positions)
    other = project.write_picks("other", {"Elsewhere/x.mrc": np.ones((2, 2))})
    with pytest.raises(InconsistentDataError, match=r"Elsewhere/x\.mrc.*Micrographs/mic1\.mrc"):
        compare(project, whole, other)


def test_one_list_alone_is_refused(project):
    with pytest.raises(InputError, match="two lists of picks"):
        compare(project, project.write_picks("whole", project.positions))
