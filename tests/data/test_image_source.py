"""Sources of images in memory and of several images a particle."""

import pickle

import numpy as np
import pytest

from halfmap.data.image_source import ArraySource, FrameSource, GroupedSource, ImageSource
from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid

GRID = ImageGrid(shape=(4, 5), pixel_size_angstrom=2.0)


def a_source(n=6):
    images = np.random.default_rng(1).normal(size=(n, *GRID.shape)).astype(np.float32)
    return ArraySource(images=images, grid=GRID)


def test_array_source_hands_out_copies_in_the_order_asked_for():
    source = a_source()
    assert isinstance(source, ImageSource)
    taken = source.read([4, 0, 4])
    assert np.array_equal(taken, source.images[[4, 0, 4]])
    taken[:] = 0
    assert source.images[4].any()
    assert source.read(np.zeros(0, dtype=int)).shape == (0, 4, 5)


def test_grouped_source_puts_each_frame_in_its_place_and_zeros_where_one_lacks():
    source = a_source()
    frames = GroupedSource(images=source, members=np.array([[0, 3, 5], [4, -1, 1]]))
    assert isinstance(frames, FrameSource)
    assert (len(frames), frames.n_frames, frames.grid) == (2, 3, GRID)
    read = pickle.loads(pickle.dumps(frames)).read([1, 0, 1])
    assert read.shape == (3, 3, 4, 5)
    assert np.array_equal(read[1], source.images[[0, 3, 5]])
    assert np.array_equal(read[0, [0, 2]], source.images[[4, 1]])
    assert not read[0, 1].any()
    assert np.array_equal(frames.is_present([1]), [[True, False, True]])


def test_wrong_shapes_and_numbers_are_refused():
    with pytest.raises(ShapeError, match="n, 4, 5"):
        ArraySource(images=np.zeros((2, 5, 4), np.float32), grid=GRID)
    with pytest.raises(InputError, match="0 to 5; got 6 to 6"):
        a_source().read([6])
    with pytest.raises(InputError, match="-1 or the numbers of 6"):
        GroupedSource(images=a_source(), members=np.array([[0, 6]]))
    with pytest.raises(ShapeError, match="n_particles, n_frames"):
        GroupedSource(images=a_source(), members=np.arange(3))
