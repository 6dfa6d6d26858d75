"""3D refinement as a job: what it takes, what it says, what it leaves."""

import shutil

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import HalfmapError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.io.relion_refinement import read_refinement_run
from halfmap.jobs import refine3d_run
from halfmap.jobs.refine3d import JOB
from halfmap.project.job import JobContext
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job

PIXEL_ANGSTROM, SIDE, N = 6.0, 32, 80
SMALL = {
    "particles": "made/particles.star",
    "reference": "made/reference_class001.mrc",
    "symmetry": "D2",
    "mask_diameter_angstrom": 170.0,
    "initial_low_pass_angstrom": 40.0,
    "max_iterations": 3,
    "offset_range": "2px",
    "local_resolution": False,
    "workers": 1,
    "threads": 1,
    "devices": "cpu",
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refine3d")
    (folder / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        halfmap.simulate_particles(
            specimen=("betagal-like-d2-180",),
            number=N,
            box_pixel=SIDE,
            pixel_size_angstrom=PIXEL_ANGSTROM,
            snr=1.0,
            shift_sigma_angstrom=6.0,
            out="made",
            workers=1,
        )
    (reference,) = (folder / "made").glob("reference*.mrc")
    if reference.name != "reference_class001.mrc":
        shutil.copy(reference, folder / "made" / "reference_class001.mrc")
    return folder


@pytest.fixture
def project(simulated, tmp_path, monkeypatch):
    shutil.copytree(simulated / "made", tmp_path / "made")
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pages(monkeypatch):
    """Return the pages that jobs make, and leave out drawing them."""
    made = []
    monkeypatch.setattr(JobContext, "report", lambda _, page: made.append(page))
    return made


def refined(**given):
    return halfmap.refine3d(**{**SMALL, **given})


def test_a_refinement_leaves_maps_tables_and_a_page(project):
    job = refined()
    folder = job.folder
    assert folder.parent.name == "Refine3D"
    assert job.main_output.name == "postprocess.mrc"
    for name in (
        "run_class001.mrc",
        "run_half1_class001_unfil.mrc",
        "run_half2_class001_unfil.mrc",
        "run_it001_half1_class001.mrc",
        "run_data.star",
        "run_model.star",
        "postprocess.star",
        "postprocess_masked.mrc",
        "mask.mrc",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    log = (folder / "run.log").read_text()
    assert log.count("Auto: iteration ") == 3
    assert "Needs at most" in log
    run = read_refinement_run(folder)
    assert run.is_final
    assert 0 < abs(run.perturbation) <= run.perturbation_factor == 0.5
    assert sorted(np.unique(run.particles["random_subset"])) == [1, 2]
    truth = relion.read_particles("made/ground_truth.star")
    assert set(run.particles.uid) == set(truth.uid)
    volume = mrc.read_volume(folder / "run_class001.mrc")
    assert volume.grid == ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)


def test_a_refinement_that_was_interrupted_goes_on_to_the_same_maps(project, pages, monkeypatch):
    whole = refined(out="whole")
    advance = refine3d_run.refine3d.advance

    def interrupted(problem, params, state, executor, progress):
        if state.iteration == 1:
            raise KeyboardInterrupt
        return advance(problem, params, state, executor, progress)

    with monkeypatch.context() as patch:
        patch.setattr(refine3d_run.refine3d, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refined(out="parted")
    continue_job("parted", JOB, options=RunOptions(workers=1, threads=1, devices="cpu"))
    for name in ("run_class001.mrc", "run_half1_class001_unfil.mrc", "postprocess.mrc"):
        one, two = (mrc.read_volume(folder / name).values for folder in (whole.folder, project / "parted"))
        assert torch.equal(one, two), name


def test_halves_of_the_input_are_kept(project, pages):
    particles = relion.read_particles("made/particles.star")
    given = np.where(np.arange(N) < N // 2, 1, 2)
    relion.write_particles("made/halved.star", particles.with_columns(random_subset=given))
    run = read_refinement_run(refined(particles="made/halved.star", max_iterations=1).folder)
    rows = particles.rows_of_uids(run.particles.uid)
    np.testing.assert_array_equal(run.particles["random_subset"], given[rows])


def other_mask(values, pixel=PIXEL_ANGSTROM):
    tensor = torch.as_tensor(values, dtype=torch.float32)
    mrc.write_volume("mask.mrc", Volume(values=tensor, grid=ImageGrid.cubic(tensor.shape[0], pixel)))
    return "mask.mrc"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symmetry": "D2h"}, "symmetry must be one of"),
        ({"reference": "made/particles.star"}, "MRC file"),
        ({"mask_diameter_angstrom": 400.0}, "--mask-diameter must not exceed the box"),
        ({"solvent_flattened_fsc": True}, "--mask"),
        ({"max_resolution_angstrom": 50.0}, "finer than"),
        ({"offset_step": "0px"}, "--offset-step"),
        ({"healpix_order": 5}, "known angles"),
    ],
)
def test_what_cannot_be_refined_is_said_before_work_begins(project, pages, given, said):
    if given == {"healpix_order": 5}:
        particles = relion.read_particles("made/particles.star").without_columns("rotation")
        relion.write_particles("made/particles.star", particles)
    with pytest.raises(HalfmapError, match=said):
        refined(**given)


def test_a_mask_of_another_box_names_the_remedy(project, pages):
    with pytest.raises(InputError, match="volume resample"):
        refined(mask=other_mask(np.ones((24, 24, 24))))


def test_a_mask_that_is_none_is_refused(project, pages):
    with pytest.raises(HalfmapError, match="0 to 1"):
        refined(mask=other_mask(3 * np.ones((SIDE, SIDE, SIDE))))


def test_too_few_particles_for_two_halves_are_refused(project, pages):
    particles = relion.read_particles("made/particles.star").take(np.arange(12))
    relion.write_particles("made/few.star", particles)
    with pytest.raises(InputError, match="at least 10 particles"):
        refined(particles="made/few.star")
