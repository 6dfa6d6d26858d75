import numpy as np
import pytest

from halfmap.errors import FormatError
from halfmap.io import topaz


@pytest.mark.parametrize("separator", ["\t", ",", " "])
def test_topaz_tables_are_read_with_their_scores(tmp_path, separator):
    path = tmp_path / "extracted.txt"
    rows = [("image_name", "x_coord", "y_coord", "score"), ("m1", "10", "20", "2.5"), ("m2", "30", "40.5", "-1")]
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n\n")
    picks = topaz.read(path)
    assert picks.micrograph_name.tolist() == ["m1", "m2"]
    np.testing.assert_array_equal(picks.position_pixel, [[10, 20], [30, 40.5]])
    assert picks.figure_of_merit.tolist() == [2.5, -1]


def test_a_table_without_scores_or_rows_is_read_too(tmp_path):
    path = tmp_path / "targets.txt"
    path.write_text("image_name\tx_coord\ty_coord\nm 1\t10\t20\n")
    assert topaz.read(path).micrograph_name.tolist() == ["m 1"]
    path.write_text("image_name\tx_coord\ty_coord\n")
    assert len(topaz.read(path)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x y\n1 2\n", "line 1: expected a heading"),
        ("", "line 1: expected a heading"),
        ("image_name\tx_coord\ty_coord\nm\t1\n", "line 2: expected 3 values"),
        ("image_name\tx_coord\ty_coord\nm\t1\tb\n", "line 2: expected 3 values"),
    ],
)
def test_what_is_no_topaz_table_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        topaz.read(path)
