"""3D classification as a job: what it takes, what it says, what it leaves."""

import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.io import mrc, relion

SMALL = {
    "particles": "made/ground_truth.star",
    "reference": ("made/reference_class001.mrc",),
    "classes": 2,
    "mask_diameter_angstrom": 170.0,
    "initial_low_pass_angstrom": 50.0,
    "skip_alignment": True,
    "iterations": 2,
    "workers": 1,
    "threads": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class3d")
    (folder / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        halfmap.simulate_particles(
            specimen=("betagal-like-d2-180",),
            number=60,
            box_pixel=24,
            pixel_size_angstrom=8.0,
            snr=1.0,
            out="made",
            workers=1,
        )
    return folder


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_a_classification_leaves_maps_tables_and_a_page(project):
    job = halfmap.class3d(**SMALL)
    assert job.main_output.name == "run_it002_data.star"
    for name in ("class001.mrc", "class002.mrc", "model.star", "sampling.star", "optimiser.star"):
        assert (job.folder / f"run_it002_{name}").exists()
    assert mrc.read_volume(job.folder / "run_it002_class002.mrc").grid.side == 24
    assert set(relion.read_particles(job.main_output)["class_number"]) <= {1, 2}
    assert "3D classification" in (job.folder / "report.html").read_text()
    assert "Iteration 2: classes" in (job.folder / "run.log").read_text()


def test_what_cannot_be_is_refused(project):
    with pytest.raises(InputError, match="once, or once for each of 3 classes; got 2"):
        halfmap.class3d(**{**SMALL, "classes": 3, "reference": SMALL["reference"] * 2})
    with pytest.raises(InputError, match="must have angles"):
        halfmap.class3d(**{**SMALL, "particles": "made/particles.star"})
