"""Identity of particles: stable for ever, positive, one for each."""

import numpy as np

from halfmap.data.uids import uids_of_image_names, uids_of_keys, uids_of_positions


def test_known_answers_never_change():
    found = uids_of_image_names(np.array(["000001@stack.mrcs", "1@stack.mrcs"], dtype=object))
    # BLAKE2b-64 of b"1@stack.mrcs\\x000" and b"…\\x001", little-endian without the sign bit, by hashlib
    assert found.tolist() == [6317486914641973190, 2856789009177764885]  # files out there hold them


def test_uids_are_positive_and_different():
    uids = uids_of_keys(str(number) for number in range(50_000))
    assert uids.dtype == np.int64
    assert uids.min() > 0
    assert len(np.unique(uids)) == 50_000


def test_repeated_keys_are_told_apart_by_their_count():
    first, second, third, again = uids_of_keys(["a", "a", "b", "a"])
    assert len({first, second, third, again}) == 4
    assert uids_of_keys(["b", "a", "a"]).tolist() == [third, first, second]


def test_positions_count_to_a_hundredth_of_a_pixel():
    names = np.array(["m.mrc"] * 3, dtype=object)
    uids = uids_of_positions(names, np.array([[10.0, 20.0], [10.004, 20.0], [10.006, 20.0]]))
    same = uids_of_positions(names[:1], np.array([[10.004, 20.0]]))
    assert same[0] == uids[0]
    assert uids[2] == uids_of_positions(names[:1], np.array([[10.01, 20.0]]))[0]


def test_negative_and_positive_positions_differ():
    name = np.array(["m.mrc"], dtype=object)
    assert uids_of_positions(name, np.array([[-1.0, 2.0]])) != uids_of_positions(name, np.array([[1.0, 2.0]]))


def test_micrograph_belongs_to_the_identity():
    position = np.array([[1.0, 2.0]])
    first, second = (uids_of_positions(np.array([name], dtype=object), position) for name in ("a.mrc", "b.mrc"))
    assert first != second
