"""Micrographs alone: their particles are found while the session runs."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.data.micrographs import MicrographSet
from halfmap.io import relion
from halfmap.io.atomic import write_json
from halfmap.sessions.preparation import BATCH, MOST_MICROGRAPHS, RAW, batch_plan, next_batch, write_batch
from halfmap.sessions.session import Session
from halfmap.sessions.settings import LiveSettings


def test_diameters_boxes_and_pixels_follow_from_mask_radius_and_resolution() -> None:
    found = batch_plan(LiveSettings(mask_radius_angstrom=84.0, final_resolution_angstrom=9.0), 1.0)
    assert (found.min_diameter_angstrom, found.max_diameter_angstrom) == pytest.approx((112.0, 168.0))
    assert (found.box_pixel, found.rescale_pixel) == (224, 74)
    assert found.max_resolution_angstrom == 20.0
    coarse = batch_plan(LiveSettings(mask_radius_angstrom=18.0, final_resolution_angstrom=8.0), 4.0)
    assert coarse.rescale_pixel == coarse.box_pixel == 24
    assert coarse.max_resolution_angstrom == 16.0


def test_a_batch_takes_each_micrograph_once_and_only_those_that_are_there(tmp_path: Path) -> None:
    names = [f"m{k:02d}.mrc" for k in range(30)]
    for name in names[1:]:
        (tmp_path / name).touch()
    number, found = next_batch(tmp_path / "s", tmp_path, names, {names[2]: "broken"})
    assert number == 1
    assert list(found) == [names[1], *names[3 : 2 + MOST_MICROGRAPHS]]
    done = tmp_path / "s" / RAW / "0001"
    done.mkdir(parents=True)
    write_json(done / BATCH, {"micrographs": list(found), "plan": {}})
    (tmp_path / "s" / RAW / "0002.part").mkdir()
    number, rest = next_batch(tmp_path / "s", tmp_path, names, {names[2]: "broken"})
    assert (number, list(rest)) == (2, names[2 + MOST_MICROGRAPHS :])


def test_a_batch_is_written_with_the_places_of_its_micrographs(tmp_path: Path) -> None:
    columns = {"micrograph_name": np.array(["a.mrc", "b.mrc"], dtype=object), "optics_group": np.ones(2, dtype=int)}
    relion.write_micrographs(tmp_path / "micrographs_ctf.star", MicrographSet(columns=columns))
    plan = batch_plan(LiveSettings(), 1.0)
    write_batch(tmp_path / "s", 1, tmp_path / "micrographs_ctf.star", {"b.mrc": tmp_path / "b.mrc"}, plan)
    part = tmp_path / "s" / RAW / "0001.part"
    table = relion.read_micrographs(part / "micrographs.star")
    assert table["micrograph_name"].tolist() == [str(tmp_path / "b.mrc")]
    assert json.loads((part / BATCH).read_text())["micrographs"] == ["b.mrc"]


@pytest.mark.slow
def test_from_micrographs_to_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    (folder / ".halfmap").mkdir(parents=True)
    monkeypatch.chdir(folder)
    halfmap.simulate_micrographs(
        specimen=("compact-d3-140",), number=4, size_pixel=(620, 600), pixel_size_angstrom=3.0, devices="cpu", workers=1
    )
    truth = relion.read_picks("Simulate/job001", [], project_root=folder)
    (folder / "CtfFind/job002").mkdir(parents=True)
    (folder / "Simulate/job001/micrographs_ctf.star").rename(folder / "CtfFind/job002/micrographs_ctf.star")
    session = Session(tmp_path / "s", folder, devices="cpu", workers=1, poll_seconds=0.2)
    session.start_automatic(
        {
            "mask_radius_angstrom": 84.0,
            "classes": 3,
            "startup_cycles": 3,
            "refinement_cycles": 2,
            "initial_resolution_angstrom": 40.0,
            "final_resolution_angstrom": 15.0,
            "first_threshold": 50,
        }
    )
    deadline = time.monotonic() + 300
    while len(session.cycles()) < 6 and time.monotonic() < deadline:
        session.tick()
        time.sleep(0.1)
    seen = session.snapshot()
    session.close()
    assert len(seen["cycles"]) == 6
    assert seen["kind"] == "micrographs"
    assert seen["source"]["particles"] == pytest.approx(len(truth), rel=0.15)
    assert min(one["particles"] for one in session.cycle(6)["classes"]) > 0
