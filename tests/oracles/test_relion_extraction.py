"""Debian's RELION (3.1.3) against ours: the same windows, and our files in its programs."""

import shutil
import subprocess

import numpy as np
import pytest

import halfmap
from halfmap.io import relion, star
from halfmap.io.mrc import StackSource
from support.projects import SHAPE, a_small_project

pytestmark = pytest.mark.oracle


@pytest.fixture
def project(tmp_path, monkeypatch):
    if shutil.which("relion_preprocess") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    made = a_small_project(tmp_path / "project", n_micrographs=2, n_particles=8)
    for path in made.coordinates.glob("*.star"):
        table = next(iter(star.read(path)))
        whole = {label: np.rint(table.numbers(label)).astype(int) for label in ("rlnCoordinateX", "rlnCoordinateY")}
        table = star.StarTable(name="", columns={k: [str(v) for v in w] for k, w in whole.items()})
        star.write(path, [table])
        star.write(made.root / "ForRelion/Micrographs" / path.name, [table])  # where RELION 3.1 looks for them
    monkeypatch.chdir(made.root)
    return made


def run(*words):
    result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def below_nyquist(image):
    """Leave out the Nyquist frequency: of its two signs RELION keeps one when it rescales, we add both."""
    transform = np.fft.rfft2(image)
    transform[len(image) // 2] = 0
    transform[:, -1] = 0
    return np.fft.irfft2(transform, image.shape)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--bg_radius", "24"], {}),
        (["--bg_radius", "12", "--scale", "32"], {"rescale_pixel": 32}),
        (["--bg_radius", "24", "--premultiply_ctf"], {"premultiply_ctf": True}),
        (["--bg_radius", "24", "--phase_flip"], {"phase_flip": True}),
        (["--bg_radius", "20", "--no_ramp"], {"ramp": False, "background_diameter": "40px"}),
    ],
    ids=["plain", "rescaled", "premultiplied", "phase-flipped", "no-ramp"],
)
def test_windows_equal_those_of_relion_preprocess(project, theirs, ours):
    run(
        *("relion_preprocess", "--i", "micrographs_ctf.star", "--coord_suffix", "_pick.star"),
        *("--coord_dir", "ForRelion/", "--part_dir", "Theirs/", "--part_star", "Theirs/particles.star"),
        *("--extract", "--extract_size", "64", "--norm", "--invert_contrast", *theirs),
    )
    expected = relion.read_particles(project.root / "Theirs/particles.star")
    result = halfmap.extract(
        micrographs=project.micrographs, picks=project.coordinates, box_pixel=64, float16=False, **ours
    )
    particles = relion.read_particles(result.main_output)
    np.testing.assert_array_equal(particles["position_pixel"], expected["position_pixel"])
    a = StackSource(particles["image_name"], project.root).read(np.arange(len(particles)))
    b = StackSource(expected["image_name"], project.root).read(np.arange(len(expected)))
    position = particles["position_pixel"]
    inside = ((position > 34) & (position < np.array(SHAPE[::-1]) - 34)).all(axis=1)
    assert inside.any()
    for one, other in zip(a[inside], b[inside], strict=True):
        assert np.corrcoef(below_nyquist(one).ravel(), below_nyquist(other).ravel())[0, 1] >= 0.9999


def test_relion_accepts_the_particle_file_and_the_stack(project):
    result = halfmap.extract(
        micrographs=project.micrographs, picks=project.coordinates, box_pixel=48, float16=False, out="Extract/job001"
    )
    particles = str(result.main_output.relative_to(project.root))
    run("relion_stack_create", "--i", particles, "--o", "all_particles")
    assert (project.root / "all_particles.mrcs").exists()
    run("relion_reconstruct", "--i", particles, "--o", "map.mrc", "--ctf")
    assert (project.root / "map.mrc").exists()
