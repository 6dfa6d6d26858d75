"""STAR files: nothing lost, nothing invented, every fault named with its line."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from halfmap.errors import FormatError, InputError
from halfmap.io import star
from support.shared_data import ROOT, shared_data

MALFORMED = {"sample.star"}
REAL_FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("apoferritin", "star", "particles", "tilt", "oracles")
    for path in (ROOT / folder).rglob("*.star")
)

EVERYTHING = """# made by hand

# version 50001
data_general  # the list

_rlnTomoSubTomosAre2DStacks    1
_rlnPath   'a path/with spaces.mrc'
# between two labels
_rlnEmpty  ""   # nothing

# version 50001
data_

# before the loop
loop_ # the loop
_rlnFirst #1
_rlnSecond #2

# before the rows
1.000000 "it's"
# between the rows
2e-05 'say "x" twice'  # beside a row
-inf "# no comment"

data_empty

data_no_rows
loop_
_rlnName
_rlnValue # unnumbered
# the end
"""


def parse(text: str) -> star.StarFile:
    return star.parse(text.encode(), Path("given.star"))


def content(text: str) -> list[list[str]]:
    """Return the words of every line that has some; what white space separates counts, its amount does not."""
    return [line.split() for line in text.splitlines() if line.split()]


def test_writing_what_was_read_keeps_every_word_in_its_place():
    text = EVERYTHING.replace("'a path/with spaces.mrc'", '"a path/with spaces.mrc"').replace('"it\'s"', "it's")
    assert content(star.to_text(parse(text))) == content(text)


@pytest.mark.parametrize("rest", ["", "# before the block\ndata_b\n_y 1\n# the end\n"], ids=["last", "followed"])
def test_comments_around_plain_rows_stay_in_their_place(rest):
    text = f"data_a\nloop_\n_x #1\n# before the rows\n1\n2\n{rest}"
    assert content(star.to_text(parse(text))) == content(text)


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000"], ids=["no-break", "em", "ideographic"])
def test_only_ascii_spaces_part_values(space):
    table = parse(f"data_a\nloop_\n_x\n_y\n1{space}2 'a b'\n{space}3 4\n")["a"]
    assert table["x"].tolist() == [f"1{space}2", f"{space}3"]


@hypothesis.given(
    rows=st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])), st.integers()),
        max_size=5,
    )
)
@hypothesis.settings(max_examples=150, derandomize=True, deadline=None)
def test_any_text_is_read_back_or_refused(rows):
    names, numbers = [name for name, _ in rows], [str(number) for _, number in rows]
    try:
        text = star.to_text([star.StarTable(name="t", columns={"name": names, "number": numbers})])
    except InputError:
        return  # both kinds of quotes beside spaces
    table = parse(text)["t"]
    assert table["name"].tolist() == names
    assert table["number"].tolist() == numbers


def test_values_are_read_without_their_quotes():
    file = parse(EVERYTHING)
    assert file.names == ("general", "", "empty", "no_rows")
    assert file["general"].value("rlnPath") == "a path/with spaces.mrc"
    assert file["general"].value("_rlnEmpty") == ""
    assert file[""]["rlnSecond"].tolist() == ["it's", 'say "x" twice', "# no comment"]
    assert file[""].numbers("rlnFirst").tolist() == [1.0, 2e-05, -np.inf]
    assert len(file["no_rows"]) == 0
    assert file["no_rows"].labels == ("rlnName", "rlnValue")


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        "#1",
        "_label",
        "data_x",
        "loop_",
        "'",
        '"',
        "it's",
        'a"b',
        "a 'b' c",
        'x "y" z',
        ";",
        "é",
        "[1,2]",
    ],
)
@pytest.mark.parametrize("is_loop", [True, False], ids=["loop", "list"])
def test_any_value_of_one_line_survives_a_round_trip(value, is_loop):
    table = star.StarTable(name="t", columns={"a": [value], "b": ["1"]}, is_loop=is_loop)
    again = parse(star.to_text([table]))["t"]
    assert again.text("a").tolist() == [value]
    assert again.is_loop == is_loop


def test_values_that_star_cannot_hold_are_refused():
    for value, reason in (("two\nlines", "without line breaks"), ("a\" 'b' c", "both kinds of quotes")):
        with pytest.raises(InputError, match=reason):
            star.to_text([star.StarTable(name="t", columns={"a": [value]})])


def test_path_that_begins_like_a_block_is_a_value_in_a_row_of_several():
    file = parse("data_a\nloop_\n_x\n_y\ndata_2020/m.mrc 1\nloop_ 2\ndata_b\n_z 1\n")
    assert file["a"]["x"].tolist() == ["data_2020/m.mrc", "loop_"]
    assert file.names == ("a", "b")


def test_several_loops_in_one_block_stay_in_it():
    text = "data_a\n_x 1\nloop_\n_y\n1\n2\nloop_\n_z\n3\ndata_b\n_x 1\n"
    file = parse(text)
    assert [table.opens_block for table in file] == [True, False, False, True]
    assert content(star.to_text(file)) == content(text)


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("last", [True, False], ids=["with last break", "without"])
def test_line_endings_do_not_matter(ending, last):
    text = "data_a\n\nloop_\n_x #1\n_y #2\n1 2\n\n3 4" + "\n" * last
    table = parse(text.replace("\n", ending))["a"]
    assert table["y"].tolist() == ["2", "4"]
    assert table.lines.tolist() == [6, 8]


def test_labels_are_found_with_and_without_underscore():
    table = parse("data_a\nloop_\n_rlnX\n5\n")["a"]
    assert "rlnX" in table
    assert "_rlnX" in table
    assert table.integers("_rlnX").tolist() == [5]


FAULTS = {
    "short row": ("data_a\nloop_\n_x\n_y\n1 2\n3\n", 6, "expected 2 values", "found 1 .short row"),
    "long row": ("data_a\nloop_\n_x\n_y\n1 2\n\n3 4 extra\n", 7, "expected 2 values", "found 3 .long row.*'extra'"),
    "short row that a long row makes up for": ("data_a\nloop_\n_x\n_y\n1 2 3\n4\n", 5, "expected 2", "found 3"),
    "duplicate label": ("data_a\nloop_\n_x #1\n_x #2\n1 2\n", 4, "each label once", "first on line 3"),
    "duplicate label in a list": ("data_a\n_x 1\n_x 2\n", 3, "each label once", "first on line 2"),
    "duplicate block": ("data_a\n_x 1\ndata_a\n_y 2\n", 3, "each block name once", "first on line 1"),
    "values before a block": ("1 2 3\n", 1, "a block that begins with data_", "'1 2 3'"),
    "loop before a block": ("\nloop_\n_x\n1\n", 2, "a block that begins with data_", "loop_"),
    "values before labels": ("data_a\n\n1 2\n", 3, "a label, loop_ or data_", "'1 2'"),
    "loop without labels": ("data_a\nloop_\n1 2\n", 2, "labels after loop_", "none"),
    "label without a value": ("data_a\n_x 1\n_y\n", 3, "a label and its value", "'_y'"),
    "list with a loose value": ("data_a\n_x a b\n", 2, "a label and its value", "_x a b"),
    "open quote": ("data_a\nloop_\n_x\n_y\n1 'a b\n", 5, "a closing quote", "'a"),
    "text of several lines": ("data_a\nloop_\n_x\n;\nlong\n;\n", 4, "a value on one line", "several lines"),
    "null byte": ("data_a\nloop_\n_x\n1\0\n", 4, "text", "null byte"),
    "empty": ("", 0, "a block that begins with data_", "none"),
}


@pytest.mark.parametrize(("text", "line", "expected", "found"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named_with_line_expectation_and_finding(text, line, expected, found):
    with pytest.raises(
        FormatError, match=f"expected {expected}.*{found}" if "expected" not in expected else f"{expected}.*{found}"
    ) as caught:
        parse(text)
    assert caught.value.line == line
    assert caught.value.path == Path("given.star")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(FormatError, match="line 4: expected text in UTF-8"):
        star.parse(b"data_a\nloop_\n_x\n\xff\xfe\n")


def test_a_fault_deep_in_a_long_table_is_named_with_its_line():
    rows = [f"{number} a b" for number in range(60_000)]
    rows[54_321] = "54321 a"
    with pytest.raises(FormatError, match="expected 3 values") as caught:
        parse("data_a\nloop_\n_x\n_y\n_z\n" + "\n".join(rows) + "\n")
    assert caught.value.line == 54_321 + 6


def test_quotes_and_comments_anywhere_in_a_long_table_change_nothing():
    plain = [f"{number} file_{number}.mrc {number * 0.5}" for number in range(30_000)]
    dressed = plain.copy()
    for row in (0, 7, 20_000, 29_999):
        dressed[row] = dressed[row].replace(f"file_{row}.mrc", f"'file_{row}.mrc'") + " # a note"
    head = "data_a\nloop_\n_x\n_y\n_z\n"
    first, second = (parse(head + "\n".join(rows) + "\n")["a"] for rows in (plain, dressed))
    for label in first.labels:
        assert (first[label] == second[label]).all()
    assert (first.lines == second.lines).all()
    assert [comment.index for comment in second.comments] == [0, 7, 20_000, 29_999]


def test_numbers_that_are_none_are_named_with_label_and_line():
    table = parse("data_a\nloop_\n_x\n_y\n1 1\n2 nearly\n3 1.5\n")["a"]
    with pytest.raises(FormatError, match=r"line 6: expected a number in column _y; found 'nearly'"):
        table.numbers("y")
    whole = parse("data_a\nloop_\n_x\n1.000000\n2\n1.5\n")["a"]
    with pytest.raises(FormatError, match=r"line 6: expected a whole number in column _x; found '1.5'"):
        whole.integers("x")


def test_large_whole_numbers_keep_every_digit():
    number = 2**63 - 1
    assert parse(f"data_a\nloop_\n_x\n{number}\n")["a"].integers("x").tolist() == [number]


def test_missing_columns_and_blocks_are_named():
    file = parse("data_a\nloop_\n_x\n1\n")
    with pytest.raises(FormatError, match=r"given.star: expected the column _y in table data_a; found _x"):
        file["a"].text("y")
    with pytest.raises(FormatError, match=r"expected a block data_b; found data_a"):
        file["b"]


def test_a_file_that_is_not_there_is_an_error_about_its_path(tmp_path):
    with pytest.raises(FormatError, match=r"none.star: expected a readable STAR file; found 'No such file"):
        star.read(tmp_path / "none.star")


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(FormatError, match="expected a STAR file; found a folder"):
        star.read(tmp_path)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="one length"):
        star.StarTable(name="t", columns={"a": ["1"], "b": ["1", "2"]})


def test_a_written_file_is_read_back(tmp_path):
    star.write(tmp_path / "a.star", parse(EVERYTHING))
    assert star.to_text(star.read(tmp_path / "a.star")) == (tmp_path / "a.star").read_text()


@pytest.mark.parametrize("name", [name for name in REAL_FILES if Path(name).name not in MALFORMED])
def test_real_files_keep_every_word_in_its_place(name):
    path = shared_data(name)
    assert content(star.to_text(star.read(path))) == content(path.read_text())


def test_the_malformed_sample_is_refused_at_its_long_row():
    path = shared_data("star/aspire/sample.star")
    with pytest.raises(FormatError, match=r"expected 4 values.*found 5") as caught:
        star.read(path)
    assert caught.value.line == 1 + path.read_text().splitlines().index("Mars      6794    0.38    2   extra")


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name",
    [
        "particles/cryodrgn_tests/relion31.6opticsgroups.star",
        "particles/cryodrgn_tests/relion5.star",
        "star/aspire/sample_data_model.star",
        "star/scipion_esrf_input_particles.star",
        "tilt/cryocat_relion5_warp2/warp2_particles_matching.star",
    ],
)
def test_values_agree_with_the_starfile_package(name):
    starfile = pytest.importorskip("starfile")
    path = shared_data(name)
    file, peer = star.read(path), starfile.read(path, always_dict=True)
    assert set(peer) == set(file.names)
    for table in file:
        other = peer[table.name]
        for label in table.labels:
            values = [other[label]] if isinstance(other, dict) else other[label].tolist()
            if all(isinstance(value, int | float) for value in values):
                np.testing.assert_array_equal(table.numbers(label), values)
            else:
                assert table.text(label).tolist() == [str(value) for value in values]
