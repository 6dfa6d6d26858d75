import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.data.image_source import ArraySource
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.selection.subsets import ImageStatistics, image_statistics, ordinary, split, within


def test_size_alone_gives_blocks_and_a_smaller_last_one():
    result = split(24, size=10, number=None, shuffle=False, seed=1)
    assert [len(s) for s in result.subsets] == [10, 10, 4]
    np.testing.assert_array_equal(np.concatenate(result.subsets), np.arange(24))
    assert len(result.rest) == 0


def test_number_alone_shares_all_rows():
    result = split(25, size=None, number=4, shuffle=False, seed=1)
    assert [len(s) for s in result.subsets] == [7, 7, 7, 4]


def test_size_and_number_are_both_honoured_and_the_rest_is_kept():
    result = split(24, size=10, number=1, shuffle=False, seed=1)
    assert [len(s) for s in result.subsets] == [10]
    np.testing.assert_array_equal(result.rest, np.arange(10, 24))


def test_shuffling_is_a_permutation_that_the_seed_decides():
    first = split(50, size=20, number=None, shuffle=True, seed=1)
    again = split(50, size=20, number=None, shuffle=True, seed=1)
    other = split(50, size=20, number=None, shuffle=True, seed=2)
    order = np.concatenate(first.subsets)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(order, np.concatenate(again.subsets))
    assert not np.array_equal(order, np.concatenate(other.subsets))
    assert not np.array_equal(order, np.arange(50))


@pytest.mark.parametrize(("size", "number"), [(None, None), (None, 9)])
def test_impossible_splits_are_refused(size, number):
    with pytest.raises(InputError):
        split(5, size=size, number=number, shuffle=False, seed=1)


def test_limits_are_included_and_missing_values_are_not():
    values = np.array([1.0, 2.0, 3.0, np.nan])
    np.testing.assert_array_equal(within(values, minimum=2, maximum=3), [False, True, True, False])
    np.testing.assert_array_equal(within(values, minimum=None, maximum=1), [True, False, False, False])
    with pytest.raises(InputError):
        within(values, minimum=None, maximum=None)


def test_images_with_unusual_mean_or_deviation_are_found():
    images = keyed_random.normal(1, "images", np.arange(200), size=(16, 16)).astype(np.float32)
    images[7] += 3
    images[9] *= 5
    source = ArraySource(images=images, grid=ImageGrid.square(16, 1.0))
    keep = ordinary(image_statistics(source, np.arange(200)), sigma=4)
    np.testing.assert_array_equal(np.flatnonzero(~keep), [7, 9])


def test_images_that_are_not_finite_never_pass():
    statistics = ImageStatistics(mean=np.array([0.0, np.nan, 0.1]), deviation=np.array([1.0, 1.0, 1.1]))
    np.testing.assert_array_equal(ordinary(statistics, sigma=4), [True, False, True])
