"""Images of several sources, brought to one grid."""

import pickle

import numpy as np
import pytest
import torch

from halfmap.data.image_source import ArraySource, ImageSource
from halfmap.data.joined_images import JoinedImages, RescaledImages
from halfmap.errors import InputError, ShapeError
from halfmap.fourier.resample import rescale
from halfmap.grid import ImageGrid

COARSE = ImageGrid.square(24, 4.0)


def noise(n, side, seed=1):
    return np.random.default_rng(seed).normal(size=(n, side, side)).astype(np.float32)


@pytest.mark.parametrize("side", [36, 35])
def test_what_was_made_finer_comes_back_as_it_was(side):
    images = noise(5, 24)
    finer, grid = rescale(torch.from_numpy(images), COARSE, side)
    source = RescaledImages(images=ArraySource(images=finer.numpy(), grid=grid), grid=COARSE, level=np.zeros(5))
    assert isinstance(source, ImageSource)
    assert len(source) == 5
    # the Nyquist coefficient of an even side has no mate on an odd one
    np.testing.assert_allclose(source.read([3, 1])[:, 2:-2, 2:-2], images[[3, 1]][:, 2:-2, 2:-2], atol=1e-4)


def test_a_wider_grid_holds_each_images_own_level_beyond_it():
    narrow = ImageGrid.square(16, 4.0)
    images = np.full((3, 16, 16), [[[2.0]], [[3.0]], [[7.0]]], dtype=np.float32)
    source = RescaledImages(
        images=ArraySource(images=images, grid=narrow), grid=COARSE, level=np.array([2.0, 3.0, 7.0])
    )
    read = source.read([2, 0])
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[0], 7.0, atol=1e-5)
    np.testing.assert_allclose(read[1], 2.0, atol=1e-5)


def test_joined_images_come_from_their_sources_in_the_order_asked_for():
    first, second = noise(4, 24), noise(3, 24, seed=2)
    joined = JoinedImages(
        sources=tuple(ArraySource(images=images, grid=COARSE) for images in (first, second)),
        source_of=np.array([1, 0, 0, 1]),
        index_in_source=np.array([2, 3, 0, 1]),
    )
    assert len(joined) == 4
    assert joined.grid == COARSE
    again = pickle.loads(pickle.dumps(joined))
    np.testing.assert_array_equal(again.read([3, 1, 0]), np.stack([second[1], first[3], second[2]]))
    with pytest.raises(InputError):
        joined.read([4])


def test_sources_on_other_grids_are_refused():
    sources = (
        ArraySource(images=noise(2, 24), grid=COARSE),
        ArraySource(images=noise(2, 20), grid=ImageGrid.square(20, 4.0)),
    )
    where = {"source_of": np.array([0, 1]), "index_in_source": np.array([0, 0])}
    with pytest.raises(ShapeError, match="must have one grid"):
        JoinedImages(sources=sources, **where)
    with pytest.raises(InputError, match="at least one source"):
        JoinedImages(sources=(), **where)
