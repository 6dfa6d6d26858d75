"""What `halfmap extract` says of input that cannot be right, and that it says it before the work begins."""

import shutil

import numpy as np
import pytest

from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from support.commands import halfmap, refusal
from support.projects import PIXEL_SIZE, SHAPE, SmallProject, a_small_project

EXTRACT = ("extract", "--micrographs", "micrographs_ctf.star", "--picks", "Coordinates", "--workers", "1")
BOX = ("--box", "32")


@pytest.fixture
def project(tmp_path):
    return a_small_project(tmp_path / "project", n_particles=2)


def swap(project: SmallProject, name: str, before: str, after: str) -> None:
    path = project.root / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def cut_last_word(project: SmallProject, name: str) -> None:
    path = project.root / name
    path.write_text(path.read_text().rstrip().rsplit(None, 1)[0] + "\n")


def pick(project: SmallProject, number: int, x: float, y: float) -> None:
    path = project.coordinates / f"mic{number}_pick.star"
    path.write_text(path.read_text().rstrip() + f"\n{x} {y} 0 0 0 77\n")


def truncate(project: SmallProject, number: int) -> None:
    path = project.root / f"Micrographs/mic{number}.mrc"
    path.write_bytes(path.read_bytes()[:-1000])


def put_nan(project: SmallProject, number: int) -> None:
    path = project.root / f"Micrographs/mic{number}.mrc"
    data = bytearray(path.read_bytes())
    offset = 1024 + 4 * (5 * SHAPE[1] + 7)
    data[offset : offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(data)


def shrink(project: SmallProject, number: int) -> None:
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=PIXEL_SIZE)
    mrc.write_image(project.root / f"Micrographs/mic{number}.mrc", np.ones((64, 64), np.float32), grid)


TABLE, PICKS = "micrographs_ctf.star", "Coordinates/mic2_pick.star"


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        pytest.param(
            lambda project: swap(project, TABLE, "data_optics", "data_other"),
            (),
            [TABLE, "expected a block data_optics", "found data_other", "add the optics table"],
            id="no optics table",
        ),
        pytest.param(
            lambda project: swap(project, TABLE, "mic2.mrc 1 ", "mic2.mrc 9 "),
            (),
            [f"{TABLE}, line 26", "an optics group of data_optics (1)", "found 9", "add the group"],
            id="missing optics group",
        ),
        pytest.param(
            lambda project: swap(project, TABLE, "_rlnMicrographName", "_rlnOther"),
            (),
            [TABLE, "expected the column _rlnMicrographName in table data_micrographs", "add the column"],
            id="table without a column",
        ),
        pytest.param(
            lambda project: swap(project, PICKS, "_rlnCoordinateY", "_rlnOther"),
            (),
            [PICKS, "expected the column _rlnCoordinateY", "add the column"],
            id="picks without a column",
        ),
        pytest.param(
            lambda project: swap(project, TABLE, "_rlnDefocusU", "_rlnOther"),
            ("--premultiply-ctf",),
            [f"{TABLE} must have the column _rlnDefocusU", "add the column"],
            id="no defocus for the CTF",
        ),
        pytest.param(
            lambda project: swap(project, TABLE, "_rlnVoltage", "_rlnOther"),
            ("--phase-flip",),
            [f"{TABLE} must have the column _rlnVoltage", "add the column"],
            id="no voltage for the CTF",
        ),
        pytest.param(
            lambda project: cut_last_word(project, TABLE),
            (),
            [f"{TABLE}, line 27", "expected 5 values", "found 4 (short row", "restore the row"],
            id="short row in the table",
        ),
        pytest.param(
            lambda project: cut_last_word(project, PICKS),
            (),
            [f"{PICKS}, line 13", "expected 6 values", "found 5 (short row", "restore the row"],
            id="short row in picks",
        ),
        pytest.param(
            lambda project: swap(project, TABLE, "15500", "deep"),
            (),
            [f"{TABLE}, line 26", "a number in column _rlnDefocusU", "found 'deep", "mend the value"],
            id="text for a number",
        ),
        pytest.param(
            lambda project: [truncate(project, number) for number in (1, 2, 3)],
            (),
            ["At most a tenth", "mic1.mrc: expected 193024 bytes", "found 192024", "truncated: copy or write it again"],
            id="all micrographs truncated",
        ),
        pytest.param(
            lambda project: shutil.rmtree(project.root / "Micrographs"),
            (),
            [TABLE, "paths of files that exist, such as Micrographs/mic1.mrc", "run in the project folder"],
            id="no micrographs",
        ),
    ],
)
def test_a_wrong_table_is_named_by_file_and_line_before_work_begins(project, spoil, options, said):
    spoil(project)
    answer = halfmap(project.root, *EXTRACT, *BOX, *options)
    paragraph = refusal(answer)
    for part in said:
        assert part in paragraph
    assert answer.stderr.splitlines() == [paragraph]  # nothing was begun
    folder = project.root / "Extract/job001"
    assert {path.name for path in folder.iterdir()} == {"FAILED", "job.json", "run.log"}
    assert (folder / "FAILED").read_text().strip() in paragraph.removeprefix("halfmap: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--box", "33"), "--box must be even; got 33; use 34"),
        (("--box", "32", "--rescale", "15"), "--rescale must be even; got 15; use 16"),
        (("--box", "small"), "`--box` must be an integer"),
        (("--box", "32", "--picks", "Nowhere"), "`--picks` must be an existing file; got Nowhere; looked for"),
    ],
)
def test_a_wrong_parameter_makes_no_folder(project, options, said):
    assert said in refusal(halfmap(project.root, *EXTRACT, *options))
    assert not (project.root / "Extract").exists()


def test_no_pick_inside_any_micrograph_is_said_of_the_first(project):
    for number in (1, 2, 3):
        path = project.coordinates / f"mic{number}_pick.star"
        header = [line for line in path.read_text().splitlines() if not line[:1].isdigit()]
        path.write_text("\n".join(header).rstrip() + "\n")
        pick(project, number, 5000, 4000)
    said = refusal(halfmap(project.root, *EXTRACT, *BOX))
    assert "got 3 that do not, the first at x=5000, y=4000 px of Micrographs/mic1.mrc" in said
    assert "wholly outside the micrograph; check coordinates and pixel sizes" in said


def test_many_bad_pixels_are_said_of_the_first_micrographs(project):
    put_nan(project, 1)
    put_nan(project, 2)
    said = refusal(halfmap(project.root, *EXTRACT, *BOX))
    assert "At most a tenth of the micrographs may be bad; got 2 bad ones among 3" in said
    assert "mic1.mrc: expected finite pixels; found 1 that are not, the first at x=7, y=5; write the micrograph" in said


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(truncate, "the file is truncated: copy or write it again", id="truncated"),
        pytest.param(put_nan, "the first at x=7, y=5; write the micrograph again or remove it", id="nan"),
        pytest.param(shrink, "240×200 px; got 64×64 px; give it an optics group of its own or remove it", id="size"),
    ],
)
def test_one_bad_micrograph_is_set_aside_by_name_and_reason(project, spoil, reason):
    spoil(project, 2)
    answer = halfmap(project.root, *EXTRACT, *BOX)
    assert answer.returncode == 0
    assert "set aside 0 particles and 1 micrographs, listed with their reasons in Extract/job001/rejected.star" in (
        answer.stderr
    )
    folder = project.root / "Extract/job001"
    (table,) = star.read(folder / "rejected.star")
    assert table.text("rlnMicrographName").tolist() == ["Micrographs/mic2.mrc"]
    assert reason in table.text("halfmapReason")[0]
    assert set(relion.read_particles(folder / "particles.star")["micrograph_name"]) == {
        "Micrographs/mic1.mrc",
        "Micrographs/mic3.mrc",
    }
    assert reason in (folder / "run.log").read_text()


def test_a_pick_outside_is_set_aside_with_its_micrograph_place_and_uid(project):
    pick(project, 2, 5000, 4000)
    answer = halfmap(project.root, *EXTRACT, *BOX)
    assert answer.returncode == 0
    assert "set aside 1 particles and 0 micrographs, listed with their reasons in" in answer.stderr
    (table,) = star.read(project.root / "Extract/job001/rejected.star")
    assert table.text("rlnMicrographName").tolist() == ["Micrographs/mic2.mrc"]
    assert [float(table.text(label)[0]) for label in ("rlnCoordinateX", "rlnCoordinateY")] == [5000, 4000]
    assert table.text("halfmapUid").tolist() == ["77"]
    assert "wholly outside" in table.text("halfmapReason")[0]
