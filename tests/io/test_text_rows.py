import pytest

from halfmap.errors import FormatError
from halfmap.io.text_rows import read_rows


def test_blanks_and_commas_part_numbers_and_a_heading_is_passed_over(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("x y score\n1, 2.5\n# a remark\n\n3 4 0.5  # good\n")
    assert read_rows(path, at_least=2) == [[1, 2.5], [3, 4, 0.5]]


def test_a_line_with_too_few_numbers_is_named(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("1 2\nthree 4\n")
    with pytest.raises(FormatError, match=r"line 2: expected at least 2 numbers; found 'three 4'"):
        read_rows(path, at_least=2)
    with pytest.raises(FormatError, match="No such file"):
        read_rows(tmp_path / "none.txt", at_least=2)
