"""Images tell from which row of a micrograph positions count, and whether they were mirrored."""

import numpy as np
import pytest

import halfmap
from halfmap import keyed_random
from halfmap.grid import ImageGrid
from halfmap.io import images, mrc, relion
from halfmap.jobs.cryosparc_rows import told_by_images
from support.projects import PIXEL_SIZE, SHAPE, a_small_project


@pytest.fixture
def extracted(tmp_path, monkeypatch):
    """Particles of half the micrographs' resolution, in which noise is all there is."""
    small = a_small_project(tmp_path)
    for number, name in enumerate(small.positions):
        noise = keyed_random.normal(7, "noise", np.array([number]), size=SHAPE)[0].astype(np.float32)
        mrc.write_image(tmp_path / name, noise, ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
    monkeypatch.chdir(tmp_path)
    made = halfmap.extract(
        micrographs=small.micrographs, picks=small.coordinates, box_pixel=40, rescale_pixel=20, workers=1
    )
    return relion.read_particles(made.main_output)


def mirrored_places(particles):
    position = particles["position_pixel"].copy()
    position[:, 1] = SHAPE[0] - position[:, 1]
    return particles.with_columns(position_pixel=position)


def test_reduced_particles_find_their_place(extracted, tmp_path):
    told = told_by_images(extracted, tmp_path)
    assert (told.from_last_row, told.is_mirrored) == (True, False)
    assert told.correlation > 0.9
    other = told_by_images(mirrored_places(extracted), tmp_path)
    assert (other.from_last_row, other.is_mirrored) == (False, False)


def test_images_that_were_cut_from_mirrored_micrographs_are_found_out(extracted, tmp_path):
    for name in dict.fromkeys(extracted["micrograph_name"]):
        upside_down = images.read_micrograph(tmp_path / name)[::-1].copy()
        mrc.write_image(tmp_path / name, upside_down, ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
    told = told_by_images(extracted, tmp_path)
    assert (told.from_last_row, told.is_mirrored) == (False, True)


def test_nothing_is_told_without_the_images_or_by_images_of_something_else(extracted, tmp_path):
    assert told_by_images(extracted, tmp_path / "elsewhere") is None
    assert told_by_images(extracted.without_columns("image_name"), tmp_path) is None
    moved = extracted.with_columns(position_pixel=np.tile([100.0, 121.0], (len(extracted), 1)))
    assert told_by_images(moved, tmp_path) is None
    edge = extracted.with_columns(position_pixel=np.zeros((len(extracted), 2)))
    assert told_by_images(edge, tmp_path) is None
