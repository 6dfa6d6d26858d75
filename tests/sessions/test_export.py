"""What a session leaves for other programs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halfmap.errors import InputError
from halfmap.io import cistem, relion, star
from halfmap.io.mrc import StackSource, map_data, read_header
from halfmap.sessions.session import Session
from support.live_folders import GRID, PER_MICROGRAPH, LiveFolder
from support.live_sessions import a_session

Finished = Callable[[], tuple[Session, LiveFolder]]


def rows_of(names: np.ndarray) -> np.ndarray:
    """Return the particles of the folder that images named so show."""
    return np.array([int(name.split("mic")[1][:3]) * PER_MICROGRAPH + int(name[:7]) - 1 for name in names.tolist()])


def test_selected_classes_become_a_table_that_relion_reads_from_anywhere(tmp_path: Path, finished: Finished) -> None:
    session, folder = finished()
    session.select(4, [1, 3], True)
    path = session.export("relion", tmp_path / "out")
    rows = list(csv.DictReader(session.export("csv", tmp_path / "out").read_text().splitlines()))
    session.close()
    particles = relion.read_particles(path)
    assert [int(row["uid"]) for row in rows] == particles.uid.tolist()
    assert [float(row["position_pixel_x"]) for row in rows] == particles["position_pixel"][:, 0].tolist()
    assert {"image_name", "defocus_u_angstrom", "class_number"} <= set(rows[0])
    assert set(particles["class_number"].tolist()) == {1, 3}
    assert len(particles) == sum(one["particles"] for one in session.cycle(4)["classes"] if one["selected"])
    images = StackSource(particles["image_name"], grid=GRID).read(np.arange(len(particles)))
    np.testing.assert_array_equal(images, folder.images[rows_of(particles["image_name"])])
    assert "optics" in star.read(path)
    assert read_header(tmp_path / "out/class_averages.mrcs").shape == (2, GRID.side, GRID.side)
    assert {one.name for one in (tmp_path / "out/class_averages").iterdir()} == {"1.png", "3.png"}


def test_without_a_selection_all_classes_count(tmp_path: Path, finished: Finished) -> None:
    session, _ = finished()
    path = session.export("cistem", tmp_path / "out")
    session.close()
    assert len(cistem.read_particles(path)) == 4 * PER_MICROGRAPH


def test_the_combined_stack_holds_the_images_of_its_table_in_order(tmp_path: Path, finished: Finished) -> None:
    session, folder = finished()
    session.select(4, [2], True)
    path = session.export("cistem", tmp_path / "out")
    names = relion.read_particles(session.export("relion", tmp_path / "relion"))["image_name"]
    session.close()
    stack = np.array(map_data(tmp_path / "out/combined_stack.mrcs"))
    np.testing.assert_array_equal(stack, folder.images[rows_of(names)])
    table = cistem.read_particles(path, stack_name="combined_stack.mrcs")
    rows = rows_of(names)
    np.testing.assert_allclose(table["defocus_u_angstrom"], folder.particles["defocus_u_angstrom"][rows], atol=0.06)
    assert set(table["class_number"].tolist()) == {2}


def test_a_phase_plate_reaches_cistem_in_radians(tmp_path: Path, finished: Finished) -> None:
    """Live2D wrote 0 for every phase shift."""
    session, folder = finished()
    session.close()
    folder.phase_plate = True
    for number in range(4):
        folder.process(number)
    folder.write_table()
    again = a_session(tmp_path / "s", folder.path)
    for _ in range(3):
        again.tick()
    again.start_now({"classification_type": "refine"})
    while len(again.cycles()) < 5 or again.snapshot()["state"] == "running":
        again.tick()
    path = again.export("cistem", tmp_path / "out")
    again.close()
    np.testing.assert_allclose(star.read(path).tables[0].numbers("cisTEMPhaseShift"), np.pi / 6, atol=1e-4)


def test_the_folder_of_live2d_has_what_warp_to_cistem_reads(tmp_path: Path, finished: Finished) -> None:
    session, _ = finished()
    path = session.export("live2d", tmp_path / "out")
    session.close()
    content = json.loads(path.read_text())
    assert path.name == "latest_run.json"
    assert [one["name"] for one in content["cycles"]] == ["cycle_2", "cycle_3", "cycle_4"]
    assert [one["block_type"] for one in content["cycles"]] == ["startup", "startup", "refinement"]
    assert [one["cycle_number_in_block"] for one in content["cycles"]] == [0, 1, 0]
    last = content["cycles"][-1]
    assert (last["settings"]["class_number"], last["settings"]["mask_radius"], last["number"]) == (3, 60.0, 4)
    assert sum(last["particle_count_per_class"]) == last["particle_count"] == 4 * PER_MICROGRAPH
    assert read_header(tmp_path / "out/cycle_4.mrc").shape == (3, GRID.side, GRID.side)
    assert read_header(tmp_path / "out/combined_stack.mrcs").shape[0] == 4 * PER_MICROGRAPH
    assert len(cistem.read_particles(tmp_path / "out/cycle_4.star")) == 4 * PER_MICROGRAPH
    with Image.open(tmp_path / "out/class_images/cycle_4/3.png") as picture:
        assert np.asarray(picture).std() > 10


def test_an_unknown_kind_is_refused(tmp_path: Path, finished: Finished) -> None:
    session, _ = finished()
    with pytest.raises(InputError, match="relion, cistem, live2d, averages"):
        session.export("eman", tmp_path / "out")
    session.close()


def test_there_is_nothing_to_export_before_the_first_cycle(tmp_path: Path, folder: LiveFolder) -> None:
    session = a_session(tmp_path / "s", folder.path)
    with pytest.raises(InputError, match="must be a cycle"):
        session.export("relion", tmp_path / "out")
    session.close()
