import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.errors import InputError


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words = keyed_random.philox(np.array(counter, dtype=np.uint32), key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("draw_values", [keyed_random.normal, keyed_random.uniform])
def test_values_do_not_depend_on_order_or_chunking_of_the_uids(draw_values):
    uids = np.array([5, 2**62 + 3, 17, 0, 99991])
    together = draw_values(7, "noise", uids, size=(3, 5))
    reversed_order = draw_values(7, "noise", uids[::-1], size=(3, 5))[::-1]
    alone = np.stack([draw_values(7, "noise", int(uid), size=(3, 5)) for uid in uids])
    np.testing.assert_array_equal(together, reversed_order)
    np.testing.assert_array_equal(together, alone)


def test_a_smaller_size_gives_the_leading_values_of_a_larger_one():
    small = keyed_random.normal(1, "noise", 12, size=7)
    large = keyed_random.normal(1, "noise", 12, size=300_001)
    np.testing.assert_array_equal(small, large[:7])


def test_every_part_of_the_key_changes_the_values():
    base = {"seed": 1, "purpose": "a", "uid": 3, "iteration": 0, "draw": 0}
    changes = [{}, {"seed": 2}, {"purpose": "b"}, {"uid": 4}, {"uid": 3 + 2**32}, {"iteration": 1}, {"draw": 1}]
    values = [tuple(keyed_random.uniform(**{**base, **change}, size=2)) for change in changes]
    assert len(set(values)) == len(changes)


def test_a_draw_for_each_uid_equals_separate_calls():
    together = keyed_random.normal(1, "tilts", 5, draw=np.arange(3), size=4)
    for index in range(3):
        np.testing.assert_array_equal(together[index], keyed_random.normal(1, "tilts", 5, draw=index, size=4))


def test_normal_values_have_the_moments_of_a_normal_distribution():
    values = keyed_random.normal(3, "moments", np.arange(1000), size=1001)
    # One million values: standard error of the mean 1e-3, of the variance 1.4e-3, of the fourth moment 1e-2.
    assert abs(values.mean()) < 4e-3
    assert abs(values.var() - 1) < 6e-3
    assert abs((values**4).mean() - 3) < 4e-2
    correlation = (values[:, :-1] * values[:, 1:]).mean()
    assert abs(correlation) < 4e-3


def test_uniform_values_fill_the_unit_interval_evenly():
    values = keyed_random.uniform(3, "moments", np.arange(1000), size=100)
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert values.min() >= 0
    assert values.max() < 1
    # 10,000 expected in each bin, standard deviation 95.
    assert np.abs(counts - 10_000).max() < 450


def test_integers_reach_every_value_of_the_range_equally():
    values = keyed_random.integers(-2, 4, 1, "dice", np.arange(60_000))
    numbers, counts = np.unique(values, return_counts=True)
    assert numbers.tolist() == [-2, -1, 0, 1, 2, 3]
    assert np.abs(counts - 10_000).max() < 450


def test_a_permutation_holds_each_number_once_and_depends_on_the_seed():
    first = keyed_random.permutation(1, "order", 1000)
    assert sorted(first.tolist()) == list(range(1000))
    assert first.tolist() != keyed_random.permutation(2, "order", 1000).tolist()
    assert first.tolist() != keyed_random.permutation(1, "order", 1000, iteration=1).tolist()


def test_values_outside_the_counter_are_refused():
    with pytest.raises(InputError, match="uid must not be negative; got -1"):
        keyed_random.normal(0, "a", -1)
    with pytest.raises(InputError, match="iteration must be 0 to 65535"):
        keyed_random.normal(0, "a", 1, iteration=65536)
    with pytest.raises(InputError, match="draw must be below 65536"):
        keyed_random.normal(0, "a", 1, draw=65536)
    with pytest.raises(InputError, match="uid must be an integer"):
        keyed_random.normal(0, "a", 1.5)
    with pytest.raises(InputError, match="upper bound must exceed"):
        keyed_random.integers(3, 3, 0, "a", 1)


def test_an_empty_set_of_uids_gives_an_empty_array():
    assert keyed_random.normal(0, "a", np.zeros(0, dtype=np.int64), size=3).shape == (0, 3)


def test_an_order_and_equal_parts_depend_on_uids_alone():
    uids = np.array([7, 3, 11, 2, 5, 13, 17])
    order = keyed_random.order(1, "order", uids, iteration=4)
    assert sorted(order.tolist()) == list(range(7))
    moved = np.array([4, 0, 6, 2, 5, 1, 3])
    assert uids[moved][keyed_random.order(1, "order", uids[moved], iteration=4)].tolist() == uids[order].tolist()
    parts = keyed_random.parts(1, "order", uids, 3)
    assert np.bincount(parts).tolist() == [3, 2, 2]
    assert keyed_random.parts(1, "order", uids[moved], 3).tolist() == parts[moved].tolist()
