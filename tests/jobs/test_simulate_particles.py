import shutil
import subprocess

import numpy as np
import pytest
import torch

import halfmap
from halfmap.errors import InputError
from halfmap.extraction.normalisation import background_mask, background_statistics
from halfmap.fourier.shells import fsc
from halfmap.fourier.slices import prepare
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import predict_images
from halfmap.io import mrc, relion
from support.simulations import a_reference

SETTINGS = {
    "number": 60,
    "box_pixel": 64,
    "pixel_size_angstrom": 3.0,
    "specimen": ("compact-d2-120",),
    "float16": False,
    "workers": 1,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return project and result of one run."""
    root = tmp_path_factory.mktemp("simulated")
    (root / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return root, halfmap.simulate_particles(**SETTINGS)


def images_of(table, root):
    source = mrc.StackSource(table["image_name"], root)
    return source.read(np.arange(len(table)))


def test_job_leaves_stack_table_truth_reference_and_page(simulated):
    project, result = simulated
    names = {path.name for path in result.folder.iterdir()}
    expected = {"particles.star", "particles.mrcs", "ground_truth.star", "reference_class001.mrc", "report.html"}
    assert {*expected, "SUCCESS"} <= names
    particles = relion.read_particles(result.main_output)
    assert len(particles) == 60
    assert "rotation" not in particles
    assert images_of(particles, project).shape == (60, 64, 64)


def test_truth_and_table_hold_the_same_particles(simulated):
    _, result = simulated
    particles = relion.read_particles(result.main_output)
    truth = relion.read_particles(result.folder / "ground_truth.star")
    np.testing.assert_array_equal(particles.uid, truth.uid)
    assert "rotation" in truth
    assert set(truth["halfmapIsJunk"]) == {"0"}


def test_two_jobs_share_no_particle(project):
    first, second = (
        relion.read_particles(halfmap.simulate_particles(**SETTINGS, out=f"Simulate/job00{n}").main_output)
        for n in (1, 2)
    )
    assert not set(first.uid) & set(second.uid)


def test_background_is_in_units_of_its_deviation(simulated):
    project, result = simulated
    images = torch.from_numpy(images_of(relion.read_particles(result.main_output), project))
    statistics = background_statistics(images, background_mask(64, 24.0))
    np.testing.assert_allclose(statistics.mean, 0, atol=1e-4)
    np.testing.assert_allclose(statistics.deviation, 1, atol=1e-4)


def test_images_match_the_true_map_at_the_true_poses(project):
    result = halfmap.simulate_particles(**SETTINGS, snr=50.0)
    truth = relion.read_particles(result.folder / "ground_truth.star")
    volume = mrc.read_volume(result.folder / "reference_class001.mrc")
    grid = ImageGrid.square(64, 3.0)
    predicted = predict_images(truth, prepare(volume.values, volume.grid), grid)
    found = torch.from_numpy(images_of(truth, project))
    middle = grid.radii() < 70
    for one, other in zip(found[:, middle], predicted[:, middle], strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.97


def test_images_do_not_depend_on_the_workers(simulated, project):
    root, result = simulated
    found = images_of(relion.read_particles(result.main_output), root)
    again = halfmap.simulate_particles(**{**SETTINGS, "workers": 2})
    np.testing.assert_array_equal(found, images_of(relion.read_particles(again.main_output), project))


def test_optics_groups_get_stacks_of_their_own_pixel_size(project):
    result = halfmap.simulate_particles(
        **SETTINGS, optics_groups=2, group_pixel_sizes_angstrom=(3.0, 4.0), particles_per_micrograph=10
    )
    sizes = [mrc.read_header(result.folder / f"particles_group{g}.mrcs").pixel_size_angstrom for g in (1, 2)]
    assert sizes == pytest.approx([3.0, 4.0])
    particles = relion.read_particles(result.main_output)
    assert particles.optics["pixel_size_angstrom"].tolist() == [3.0, 4.0]


def test_maps_and_models_are_classes_too(project):
    mrc.write_volume(project / "some.mrc", a_reference().potential)
    (project / "one.pdb").write_text(
        "".join(
            f"ATOM  {i + 1:5d}  C   ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"
            for i, (x, y, z) in enumerate(np.random.default_rng(1).uniform(-30, 30, (300, 3)))
        )
    )
    result = halfmap.simulate_particles(
        number=20, box_pixel=64, pixel_size_angstrom=3.0, model=("one.pdb",), map=("some.mrc",), workers=1
    )
    truth = relion.read_particles(result.folder / "ground_truth.star")
    assert set(truth["class_number"]) == {1, 2}
    assert (result.folder / "reference_class002.mrc").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"specimen": ("nothing",)}, "A specimen must be one of"),
        ({"box_pixel": 32}, "--box must hold the particles"),
        ({"class_fractions": (0.5, 0.5)}, "one number for each of 1 specimens"),
    ],
)
def test_impossible_settings_are_refused(project, settings, message):
    with pytest.raises(InputError, match=message):
        halfmap.simulate_particles(**{**SETTINGS, **settings})


@pytest.mark.oracle
def test_relion_reconstructs_the_true_map_from_the_truth(project):
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("Debian's package relion is not installed: relion_reconstruct is missing")
    result = halfmap.simulate_particles(**{**SETTINGS, "number": 400, "snr": 1.0, "b_factor_angstrom2": 100.0})
    truth = result.folder / "ground_truth.star"
    for command in (
        ["relion_stack_create", "--i", str(result.main_output), "--o", "copied"],
        ["relion_reconstruct", "--i", str(truth), "--o", "found.mrc", "--ctf", "--sym", "C1"],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    reference = mrc.read_volume(result.folder / "reference_class001.mrc")
    found = mrc.read_volume(project / "found.mrc", 3.0)
    grid = reference.grid
    curve = fsc(grid.rfft(found.values), grid.rfft(reference.values), grid)
    # 400 particles of SNR 1: sign, pose, offset and CTF conventions agree to 8 Å, and so does the scale
    assert curve[:24].min() > 0.7
    inside = grid.radii() < 60
    scale = (found.values * reference.values)[inside].sum() / reference.values[inside].square().sum()
    assert float(scale) == pytest.approx(0.9, abs=0.15)
