"""The initial model as a job: what it takes, says and leaves, and how it goes on."""

import numpy as np
import pytest

import halfmap
from halfmap.errors import HalfmapError, InputError
from halfmap.io import mrc, relion
from halfmap.jobs import initial_model_run
from halfmap.jobs.initial_model import JOB
from halfmap.project.job import JobContext
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job

SIDE, PIXEL_ANGSTROM, N = 24, 8.0, 30
SMALL = {"particles": "made/particles.star", "mask_diameter_angstrom": 170.0, "workers": 1, "threads": 1}
MODEL = {**SMALL, "minibatches": 10, "resolution_angstrom": 25.0, "first_resolution_angstrom": 50.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial_model")
    (folder / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        halfmap.simulate_particles(
            specimen=("betagal-like-d2-180",),
            number=N,
            box_pixel=SIDE,
            pixel_size_angstrom=PIXEL_ANGSTROM,
            snr=1.0,
            out="made",
            workers=1,
        )
    return folder


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def pages(monkeypatch):
    """Return the pages that jobs make, and leave out drawing them."""
    found = []
    monkeypatch.setattr(JobContext, "report", lambda _, page: found.append(page))
    return found


def test_a_model_leaves_map_particles_and_a_page(project):
    job = halfmap.initial_model(**MODEL, symmetry="C2")
    volume = mrc.read_volume(job.main_output)
    assert job.main_output.name == "initial_model.mrc"
    assert volume.grid.side == SIDE
    assert volume.grid.pixel_size_angstrom == pytest.approx(PIXEL_ANGSTROM)
    particles = relion.read_particles(job.folder / "particles.star")
    assert len(particles) == N
    assert np.isfinite(particles["rotation"]).all()
    assert "Initial model" in (job.folder / "report.html").read_text()
    log = (job.folder / "run.log").read_text()
    assert "Axes of C2 found: correlation" in log
    assert "should be made from 200 particles or more" in log
    assert len(list((job.folder / "state").glob("initial_model_*"))) == 1


def test_a_stopped_model_goes_on_to_the_same_map(project, pages, monkeypatch):
    whole = halfmap.initial_model(**MODEL, out="whole")
    advance = initial_model_run._Course.advance

    def stopped(course, state):
        if state.iteration == 4:
            raise KeyboardInterrupt
        return advance(course, state)

    monkeypatch.setattr(initial_model_run._Course, "advance", stopped)
    with pytest.raises((KeyboardInterrupt, HalfmapError)):
        halfmap.initial_model(**MODEL, out="stopped")
    monkeypatch.setattr(initial_model_run._Course, "advance", advance)
    continue_job(project / "stopped", JOB, options=RunOptions(workers=1, threads=1, devices="cpu"))
    one, other = (mrc.read_volume(project / name / "initial_model.mrc") for name in ("whole", "stopped"))
    assert whole.main_output.exists()
    assert one.values.numpy().tobytes() == other.values.numpy().tobytes()


def test_several_classes_leave_a_map_each_the_largest_as_the_model(project, pages):
    job = halfmap.initial_model(**MODEL, classes=2)
    first = mrc.read_volume(job.folder / "run_class001.mrc")
    assert (job.folder / "run_class002.mrc").exists()
    assert first.values.numpy().tobytes() == mrc.read_volume(job.main_output).values.numpy().tobytes()
    assert set(relion.read_particles(job.folder / "particles.star")["class_number"]) <= {1, 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symmetry": "Q7"}, "one of C1, C2"),
        ({"mask_diameter_angstrom": 500.0}, "mask"),
        ({"resolution_angstrom": 60.0}, "--resolution must not be coarser"),
    ],
)
def test_what_cannot_be_is_refused(project, given, said):
    with pytest.raises(InputError, match=said):
        halfmap.initial_model(**{**MODEL, **given})
