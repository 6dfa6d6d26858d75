import json

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError, JobFailed
from halfmap.io import relion
from halfmap.io.relion_picks import read_autopick
from halfmap.picking.agreement import agreement
from halfmap.picking.network import card
from support.blob_micrographs import noise
from support.detectors import settings, taught
from support.picked_projects import SHAPE, PickedProject


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = PickedProject(tmp_path / "project", n=2)
    monkeypatch.chdir(made.root)
    told = card.DetectorCard.of(taught(), settings(), n_micrographs=3, n_labels=100, source="a test")
    made.model = made.root / "model.safetensors"
    made.model.write_bytes(card.to_bytes(card.Detector(network=taught().network, card=told)))
    return made


def pick(project, **changes):
    given = {"micrographs": project.micrographs, "model": project.model, "diameter_angstrom": 130.0, "workers": 1}
    return halfmap.pick_network(**{**given, **changes})


def test_particles_are_found_and_extraction_takes_them_by_figure_of_merit(project):
    picked = pick(project)
    picks = read_autopick(picked.main_output, project.root)
    for name, true in project.positions.items():
        one = picks.in_micrograph(name)
        sure = one.position_pixel[one.figure_of_merit >= 0]
        assert agreement(sure, true, distance=6.5).f1 > 0.9
    assert picks.figure_of_merit.min() >= -3
    extracted = halfmap.extract(
        micrographs=project.micrographs, picks=picked.main_output, box_pixel=48, min_fom=0.0, workers=1
    )
    assert len(relion.read_particles(extracted.main_output)) == (picks.figure_of_merit > 0).sum()


def test_the_general_detector_is_used_where_no_model_is_given(project):
    picks = read_autopick(pick(project, model=None).main_output, project.root)
    found = agreement(
        picks.in_micrograph(project.names[0]).position_pixel, project.positions[project.names[0]], distance=6.5
    )
    assert found.recall > 0.7  # dark balls are no proteins


def test_a_micrograph_without_particles_gets_its_coordinate_file(project):
    project.write(project.names[1], 100 + 0.5 * noise(SHAPE, seed=77))
    picked = pick(project, threshold=5.0)
    assert (picked.folder / "Micrographs/mic2_autopick.star").exists()
    assert list(read_autopick(picked.main_output, project.root).micrographs) == project.names


def test_blank_micrographs_are_set_aside(project):
    for name in project.names:
        project.write(name, np.ones(SHAPE))
    with pytest.raises(JobFailed, match="must vary"):
        pick(project)


@pytest.mark.slow
def test_the_result_is_the_same_for_any_number_of_workers(project):
    alone, together = pick(project), pick(project, workers=2)
    name = "Micrographs/mic2_autopick.star"
    assert (alone.folder / name).read_text() == (together.folder / name).read_text()


def test_a_diameter_that_the_model_has_not_learned_from_is_said(project):
    picked = pick(project, diameter_angstrom=170.0)
    assert "has learned from particles of 130" in (picked.folder / "run.log").read_text()


def test_foreign_and_missing_models_are_refused(project):
    (project.root / "pickle.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InconsistentDataError, match=r"without the header|bytes"):
        pick(project, model=project.root / "pickle.pt")
    with pytest.raises(InputError, match="no_such"):
        pick(project, model=project.root / "no_such.safetensors")


def test_job_json_holds_the_resolved_parameters(project):
    values = json.loads((pick(project).folder / "job.json").read_text())
    assert values["command"] == "pick network"
    assert values["parameters"]["threshold"] == -3
