"""Where the micrographs of a session are, what was picked in them, and what becomes of edited picks."""

import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.io import relion
from halfmap.sessions import micrograph_files
from halfmap.sessions.manual_picks import PickEdits
from halfmap.sessions.observation import Observation
from support.live_folders import LiveFolder
from support.live_sessions import a_session
from support.picked_projects import PickedProject


@pytest.fixture
def places(tmp_path):
    """A project, and beside it an acquisition folder of two micrographs."""
    (tmp_path / "project" / ".halfmap").mkdir(parents=True)
    acquisition = PickedProject(tmp_path / "acquisition", n=2, n_particles=5)
    acquisition.micrographs.rename(acquisition.root / "micrographs_ctf.star")
    return tmp_path / "project", acquisition


def edits(**values):
    return PickEdits(**{"added": {}, "removed": {}, "accepted": {}, "thresholds": {}, **values})


def test_micrographs_are_found_by_their_table_and_in_the_folders_of_warp(places, tmp_path):
    _, acquisition = places
    found = micrograph_files.micrograph_path(acquisition.root, "mic2")
    assert found == acquisition.root / "Micrographs/mic2.mrc"
    assert micrograph_files.sides(found) == (300, 340)
    (tmp_path / "warp/average").mkdir(parents=True)
    (tmp_path / "warp/average/m1.mrc").touch()
    assert micrograph_files.micrograph_path(tmp_path / "warp", "m1") == tmp_path / "warp/average/m1.mrc"
    with pytest.raises(InputError, match="must be below"):
        micrograph_files.micrograph_path(tmp_path / "warp", "m2")


def test_the_particles_of_a_session_are_its_picks(tmp_path):
    folder = LiveFolder(tmp_path / "warp", n_micrographs=2)
    folder.arrive(range(2))
    session = a_session(tmp_path / "s", folder.path)
    shown = micrograph_files.picks_of(session.course.observation, "mic001")
    session.close()
    assert shown.position_pixel[:2].tolist() == [[100, 200], [107, 203]]
    assert len(shown.position_pixel) == 20


def test_edited_picks_become_a_job_whose_micrographs_the_project_finds(places):
    project, acquisition = places
    path = micrograph_files.save_edited(
        project,
        acquisition.root,
        Observation(),
        edits(added={"mic1": [(50.0, 60.0)]}, accepted={"mic2": False}),
        picks_path=acquisition.coordinates,
    )
    table = relion.read_micrographs(path.parent / "micrographs_selected.star")
    (name,) = table["micrograph_name"].tolist()
    assert (project / name).is_file()
    picks = relion.read_picks(path, [name], project_root=project)
    assert set(picks["micrograph_name"].tolist()) == {name}
    expected = np.vstack([acquisition.positions["Micrographs/mic1.mrc"], [[50, 60]]])
    np.testing.assert_allclose(picks.position_pixel, expected, atol=1e-3)  # as the file's digits


def test_a_session_without_a_table_of_micrographs_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"micrographs_ctf\.star"):
        micrograph_files.save_edited(tmp_path, tmp_path, Observation(), edits())
