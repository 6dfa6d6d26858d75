import numpy as np
import pytest

from halfmap.errors import FormatError
from halfmap.io import eman


def test_a_box_s_centre_is_its_corner_and_half_its_side(tmp_path):
    path = tmp_path / "mic.box"
    path.write_text("10\t20\t64\t64\n100.5 200 64 64 -3\n")
    picks = eman.read_boxes(path, "mic.mrc")
    np.testing.assert_array_equal(picks.position_pixel, [[42, 52], [132.5, 232]])
    assert picks.micrographs == ("mic.mrc",)


def test_boxes_are_told_from_other_rows_by_their_equal_sides():
    assert eman.is_boxes([[1, 2, 64, 64], [3, 4, 64, 64, -3]])
    assert not eman.is_boxes([[1, 2, 64, 65]])
    assert not eman.is_boxes([[1, 2, 0, 0]])
    assert not eman.is_boxes([[1, 2, 3]])
    assert not eman.is_boxes([])


def test_boxes_without_sides_are_refused(tmp_path):
    path = tmp_path / "mic.box"
    path.write_text("10 20 0 0\n")
    with pytest.raises(FormatError, match="positive sides"):
        eman.read_boxes(path, "mic.mrc")
    path.write_text("10 20 64 64\n10 20\n")
    with pytest.raises(FormatError, match=r"line 2: expected at least 4 numbers"):
        eman.read_boxes(path, "mic.mrc")
