import json

import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs import pick_train_report
from halfmap.jobs.pick_train import JOB
from halfmap.picking.agreement import agreement
from halfmap.picking.network import card
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from support.blob_micrographs import PIXEL_SIZE
from support.picked_projects import PickedProject

SETTINGS = {
    "diameter_angstrom": 130.0,
    "expected_per_micrograph": 35.0,
    "epochs": 2,
    "crops_per_epoch": 64,
    "learning_rate": 4e-3,
    "workers": 1,
    "threads": 1,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = PickedProject(tmp_path_factory.mktemp("picked") / "project", n=4)
    made.particles = made.root / "particles.star"
    made.particles.write_text(particle_table(made))
    return made


def particle_table(project):
    """Write particles whose images were cut out off centre, so that offsets of 20 and -10 Å centre them."""
    rows = "\n".join(
        f"{x + 20 / PIXEL_SIZE:.3f} {y - 10 / PIXEL_SIZE:.3f} {name} 20 -10 1"
        for name, positions in project.positions.items()
        for x, y in positions
    )
    return (
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnImagePixelSize\n_rlnImageSize\n_rlnImageDimensionality\n"
        "1 one 300 2.7 0.1 5 32 2\n\n"
        "data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n_rlnOriginXAngst\n"
        f"_rlnOriginYAngst\n_rlnOpticsGroup\n{rows}\n"
    )


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    monkeypatch.chdir(project.root)


def train(project, **changes):
    given = {"micrographs": project.micrographs, "particles": project.particles, **SETTINGS, **changes}
    return halfmap.pick_train(**given)


@pytest.fixture(scope="module")
def trained(project):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        return train(project)


def test_the_job_leaves_a_model_its_card_and_a_page(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert {"model.safetensors", "model.json", "report.html", "SUCCESS"} <= names
    assert trained.main_output.name == "model.safetensors"
    told = json.loads((trained.folder / "model.json").read_text())
    detector = card.from_bytes(trained.main_output.read_bytes(), "model")
    assert told["n_labels"] + told["n_held_out_labels"] > 100
    assert told["diameter_angstrom"] == detector.card.diameter_angstrom == 130
    assert told["average_precision"] > 0.9
    page = (trained.folder / "report.html").read_text()
    for title in ("Loss", "Average precision", "Precision and recall", "Reliability", "Held-out micrographs"):
        assert title in page


def test_the_model_finds_the_particles_of_another_micrograph(project, trained):
    other = PickedProject(project.root / "other", n=5)
    last = other.list("last.star", other.names[4:])
    picked = halfmap.pick_network(micrographs=last, model=trained.main_output, diameter_angstrom=130.0, workers=1)
    picks = read_autopick(picked.main_output, project.root)
    sure = picks.position_pixel[picks.figure_of_merit >= 0]
    true = other.positions[other.names[4]]
    assert agreement(sure, true, distance=6.5).f1 > 0.9
    # offsets that were not taken into account would put picks 4 pixels to the right; what a training of seconds leaves
    # is a pixel or so
    distance = sure[:, None] - true
    nearest = np.linalg.norm(distance, axis=2).argmin(axis=1)
    assert abs(distance[np.arange(len(sure)), nearest, 0].mean()) < 2.0


def test_the_same_seed_gives_the_same_model_and_a_killed_job_goes_on_to_it(project, trained, monkeypatch):
    def give_out(params, state):
        raise OSError("the machine gave out")

    page = pick_train_report.running_page
    monkeypatch.setattr(pick_train_report, "running_page", give_out)
    with pytest.raises(OSError, match="gave out"):
        train(project, out=project.root / "part")
    monkeypatch.setattr(pick_train_report, "running_page", page)
    assert len(list((project.root / "part/state").glob("pick_train_*.safetensors"))) == 1
    continued = continue_job(project.root / "part", JOB, options=RunOptions(workers=1, threads=1))
    assert continued.main_output.read_bytes() == trained.main_output.read_bytes()


def test_both_or_neither_of_particles_and_picks_are_refused(project):
    with pytest.raises(InputError, match="--particles or --picks"):
        train(project, particles=None)
    with pytest.raises(InputError, match="--particles or --picks"):
        train(project, picks=project.coordinates)
    with pytest.raises(InputError, match="--min-fom must be given with --picks"):
        train(project, min_fom=0.0)


def test_coordinates_of_another_pixel_size_are_refused(project):
    folder = project.root / "finer"
    folder.mkdir()
    for name, positions in project.positions.items():
        rows = "\n".join(f"{3 * x:.2f} {3 * y:.2f}" for x, y in positions)
        stem = name.removeprefix("Micrographs/").removesuffix(".mrc")
        (folder / f"{stem}.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}\n")
    with pytest.raises(InconsistentDataError, match="of them outside"):
        train(project, particles=None, picks=folder)


def test_picks_none_of_which_is_good_enough_are_refused(project):
    picked = halfmap.pick_log(
        micrographs=project.micrographs, min_diameter_angstrom=120.0, max_diameter_angstrom=140.0, workers=1
    )
    with pytest.raises(InconsistentDataError, match=r"a figure of merit of 1e\+06 or more; got none .*lower --min-fom"):
        train(project, particles=None, picks=picked.main_output, min_fom=1e6)
