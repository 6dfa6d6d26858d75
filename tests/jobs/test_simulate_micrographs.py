import numpy as np
import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.io import mrc, relion
from halfmap.jobs import simulate_one_micrograph
from halfmap.jobs.simulate_micrographs import JOB
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job

SETTINGS = {
    "number": 3,
    "size_pixel": (300, 260),
    "pixel_size_angstrom": 3.0,
    "specimen": ("ferritin-like-o-130",),
    "workers": 1,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return project and result of one run with default dirt."""
    root = tmp_path_factory.mktemp("simulated")
    (root / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return root, halfmap.simulate_micrographs(**SETTINGS)


def test_job_leaves_micrographs_tables_picks_and_page(simulated):
    project, result = simulated
    names = {path.name for path in result.folder.iterdir()}
    assert {"micrographs_ctf.star", "ground_truth.star", "autopick.star", "report.html", "SUCCESS"} <= names
    assert "state" not in names
    micrographs = relion.read_micrographs(result.main_output)
    assert len(micrographs) == 3
    assert {"ctf_max_resolution_angstrom", "ctf_figure_of_merit"} <= set(micrographs.columns)
    for name in micrographs["micrograph_name"]:
        image = mrc.read_image(project / name)
        assert image.shape == (260, 300)
        assert mrc.read_header(project / name).pixel_size_angstrom == pytest.approx(3.0)


def test_picks_are_the_particles_of_the_truth(simulated):
    project, result = simulated
    truth = relion.read_particles(result.folder / "ground_truth.star")
    picks = relion.read_autopick(result.folder / "autopick.star", project)
    particles = truth.take(truth["halfmapIsJunk"] == "0")
    assert len(picks) == len(particles) > 5
    np.testing.assert_allclose(
        np.sort(picks.position_pixel[:, 0]), np.sort(particles["position_pixel"][:, 0]), atol=1e-3
    )
    assert set(picks.uid) == set(particles.uid)
    assert (truth["position_pixel"] > -0.5).all()
    assert (truth["position_pixel"] < [299.5, 259.5]).all()


def test_extraction_takes_the_true_picks(project):
    clean = halfmap.simulate_micrographs(**SETTINGS, dose_e_per_angstrom2=400.0, dirt=False)
    extracted = halfmap.extract(
        micrographs=clean.main_output, picks=clean.folder / "autopick.star", box_pixel=64, workers=1
    )
    particles = relion.read_particles(extracted.main_output)
    images = mrc.StackSource(particles["image_name"], project).read(np.arange(len(particles)))
    y, x = np.mgrid[:64, :64] - 32
    ring = (np.hypot(x, y) < 24) & (np.hypot(x, y) > 12)
    # particles are white: the shell stands out from the background, whose deviation is 1
    assert images.mean(axis=0)[ring].mean() > 0.1


def test_micrographs_do_not_depend_on_the_workers(simulated, project):
    other = halfmap.simulate_micrographs(**{**SETTINGS, "workers": 2})
    for number in range(1, 4):
        images = [mrc.read_image(r.folder / "Micrographs" / f"mic{number:05d}.mrc") for r in (simulated[1], other)]
        np.testing.assert_array_equal(*images)


def test_an_interrupted_job_goes_on_with_the_micrographs_that_lack(project, monkeypatch):
    record, made = simulate_one_micrograph.micrograph, []

    def fails_at_the_third(layout, references, params):
        made.append(layout.number)
        if len(made) == 3:
            raise KeyboardInterrupt
        return record(layout, references, params)

    monkeypatch.setattr(simulate_one_micrograph, "micrograph", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        halfmap.simulate_micrographs(**SETTINGS)
    result = continue_job("1", JOB, options=RunOptions(workers=1))
    assert made == [0, 1, 2, 2]
    assert len(relion.read_micrographs(result.main_output)) == 3


def test_unknown_specimen_ends_the_job_with_what_is_known(project):
    with pytest.raises(InputError, match="ferritin-like-o-130"):
        halfmap.simulate_micrographs(**{**SETTINGS, "specimen": ("virus",)})
