from contextlib import chdir

import mrcfile
import numpy as np
import pytest

import halfmap
from halfmap.io import relion
from support.shared_data import shared_data


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    table = shared_data("apoferritin/micrographs_ctf.star")
    picks = shared_data("apoferritin/coords")
    folder = tmp_path_factory.mktemp("apoferritin")
    with chdir(folder):  # a project of its own
        result = halfmap.extract(
            micrographs=table, picks=picks, box_pixel=160, rescale_pixel=80, out=folder / "Extract", workers=1
        )
    particles = relion.read_particles(result.main_output)
    stacks = [mrcfile.read(path).astype(np.float64) for path in sorted((folder / "Extract/micrographs").glob("*.mrcs"))]
    return particles, np.concatenate(stacks)


def test_every_curated_particle_becomes_an_image(extracted):
    particles, images = extracted
    assert len(particles) == len(images) == 2117
    assert particles.optics["pixel_size_angstrom"][0] == pytest.approx(3.0)


def test_backgrounds_in_the_written_file_have_mean_zero_and_deviation_one(extracted):
    _, images = extracted
    y, x = np.mgrid[:80, :80] - 40
    background = images[:, x**2 + y**2 > 30**2]  # 75 % of the box
    np.testing.assert_allclose(background.mean(axis=1), 0, atol=0.02)
    np.testing.assert_allclose(background.std(axis=1), 1, atol=0.02)


def test_mean_of_the_unaligned_particles_is_apoferritins_bright_ring(extracted):
    _, images = extracted
    mean = images.mean(axis=0)
    y, x = np.mgrid[:80, :80] - 40
    radius = np.rint(np.hypot(x, y) * 3.0 / 6.0).astype(int)  # rings 6 Å wide
    profile = np.bincount(radius.ravel(), mean.ravel()) / np.bincount(radius.ravel())
    brightest = 6.0 * profile[:20].argmax()
    assert 36 <= brightest <= 60  # the shell reaches from about 40 to 65 Å from the centre
    assert profile[0] < 0.8 * profile.max()  # hollow
    assert profile[:10].max() > 0.15  # in units of the background's deviation: particles are bright
    assert abs(profile[18:20]).max() < 0.1
