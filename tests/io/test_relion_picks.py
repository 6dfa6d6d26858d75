"""Coordinate files of every kind, and RELION's list of them."""

import numpy as np
import pytest

from halfmap.data.picks import Picks
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import relion, star
from halfmap.io.relion_picks import coordinate_path
from support.particle_sets import a_particle_set, micrograph_names, some_picks
from support.shared_data import shared_data


def test_picks_written_as_a_job_are_read_back(tmp_path):
    picks = some_picks(11, searched=["MotionCorr/job002/Movies/empty.mrc"])
    main = relion.write_autopick(tmp_path / "AutoPick/job005", picks, project_root=tmp_path)
    again = relion.read_autopick(main, tmp_path)
    assert again.micrographs == picks.micrographs
    order = again.rows_of_uids(picks.uid)
    assert again.micrograph_name[order].tolist() == picks.micrograph_name.tolist()
    np.testing.assert_allclose(again.position_pixel[order], picks.position_pixel, atol=1e-6)
    np.testing.assert_allclose(again.figure_of_merit[order], picks.figure_of_merit, atol=1e-6)
    assert again["class_number"][order].tolist() == picks["class_number"].tolist()


def test_a_job_holds_the_files_that_relion_writes(tmp_path):
    folder = tmp_path / "AutoPick/job005"
    main = relion.write_autopick(folder, some_picks(3, n_micrographs=2, searched=["mics/c.tif"]), project_root=tmp_path)
    assert main == folder / "autopick.star"
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.star")}
    assert written == {
        "Movies/mic_1_autopick.star",
        "Movies/mic_2_autopick.star",
        "mics/c_autopick.star",
        "autopick.star",
        "summary.star",
    }
    table = star.read(main)["coordinate_files"]
    assert table.labels == ("rlnMicrographName", "rlnMicrographCoordinates")
    assert table["rlnMicrographCoordinates"][-1] == "AutoPick/job005/Movies/mic_2_autopick.star"
    summary = star.read(folder / "summary.star").tables[0]
    assert dict(zip(summary["rlnMicrographName"], summary.integers("rlnGroupNrParticles"), strict=True)) == {
        "mics/c.tif": 0,
        "MotionCorr/job002/Movies/mic_1.mrc": 2,
        "MotionCorr/job002/Movies/mic_2.mrc": 1,
    }
    columns = star.read(folder / "Movies/mic_1_autopick.star").tables[0].labels
    assert columns[:5] == (
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnAutopickFigureOfMerit",
        "rlnClassNumber",
        "rlnAnglePsi",
    )


@pytest.mark.parametrize(
    ("micrograph", "expected"),
    [
        ("MotionCorr/job002/Movies/a.mrc", "Movies/a_autopick.star"),
        ("Import/job001/a.b.mrc", "a.b_autopick.star"),
        ("micrographs/a.mrc", "micrographs/a_autopick.star"),
        ("/data/x/a.tif", "data/x/a_autopick.star"),
        ("../raw/a.mrc", "raw/a_autopick.star"),
    ],
)
def test_coordinate_files_repeat_the_path_after_the_job_folder(micrograph, expected):
    assert str(coordinate_path(micrograph)) == expected


def test_micrographs_that_would_share_a_coordinate_file_are_refused(tmp_path):
    picks = some_picks(2, n_micrographs=1, searched=["MotionCorr/job003/Movies/mic_1.mrc"])
    with pytest.raises(InconsistentDataError, match="must differ in their path after JobType/jobNNN"):
        relion.write_autopick(tmp_path, picks, project_root=tmp_path)


def test_curated_coordinates_are_read():
    path = shared_data("apoferritin/coords/May08_03.05.02.star")
    picks = relion.read_coordinates(path, "micrographs/May08_03.05.02.mrc")
    assert picks.position_pixel[:2].tolist() == [[34.0, 450.0], [1137.0, 241.0]]
    assert set(picks.micrograph_name) == {"micrographs/May08_03.05.02.mrc"}
    assert len(picks) == 141


def test_a_folder_of_coordinates_is_matched_to_micrographs_by_name():
    micrographs = relion.read_micrographs(shared_data("apoferritin/micrographs_ctf.star"))
    names = micrographs["micrograph_name"].tolist()
    folder = shared_data("apoferritin/coords")
    picks = relion.read_picks(folder, names, project_root=folder.parent)
    assert len(picks) == 2117
    assert set(names) - set(picks.micrographs) == {"micrographs/May08_06.09.02.mrc"}


def test_coordinates_without_a_micrograph_keep_their_own_name(tmp_path):
    for name in ("mic_1_autopick.star", "mic_10.star", "stranger.box"):
        text = "1 2 8 8\n" if name.endswith(".box") else "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n"
        (tmp_path / name).write_text(text)
    picks = relion.read_picks(tmp_path, ["m/mic_1.mrc", "m/mic_2.mrc"], project_root=tmp_path)
    assert set(picks.micrographs) == {"m/mic_1.mrc", "mic_10", "stranger"}


def test_a_coordinate_file_that_fits_two_micrographs_is_refused(tmp_path):
    (tmp_path / "a.box").write_text("1 2 8 8\n")
    with pytest.raises(InconsistentDataError, match=r"must fit one micrograph; got x/a.mrc and y/a.mrc"):
        relion.read_picks(tmp_path, ["x/a.mrc", "y/a.mrc"], project_root=tmp_path)


def test_folders_tell_micrographs_of_one_name_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.box").write_text("1 2 8 8\n")
    picks = relion.read_picks(tmp_path, ["m/x/a.mrc", "m/y/a.mrc", "m/xy/a.mrc"], project_root=tmp_path)
    assert picks.micrographs == ("m/x/a.mrc", "m/y/a.mrc")


def test_a_folder_without_coordinates_is_refused(tmp_path):
    with pytest.raises(FormatError, match="expected coordinate files"):
        relion.read_picks(tmp_path, ["a.mrc"], project_root=tmp_path)


def test_one_table_with_micrograph_names_gives_the_picks_of_all():
    path = shared_data("betagal_lowpassed/particles.star")
    picks = relion.read_picks(path, [], project_root=path.parent)
    assert len(picks.micrographs) == 3
    assert len(picks) == 1985
    assert picks.position_pixel[0].tolist() == [3121.0, 1117.0]


def test_particle_tables_serve_as_picks_and_keep_their_uid(tmp_path):
    particles = a_particle_set(6)
    relion.write_particles(tmp_path / "p.star", particles)
    picks = relion.read_picks(tmp_path / "p.star", [], project_root=tmp_path)
    assert picks.uid.tolist() == particles.uid.tolist()
    np.testing.assert_allclose(picks.position_pixel, particles["position_pixel"], atol=1e-6)


def test_box_files_give_the_centre_of_the_box(tmp_path):
    (tmp_path / "a.box").write_text("10 20 64 64 -3\n-5 0 64\t64\n")
    picks = relion.read_coordinates(tmp_path / "a.box", "a.mrc")
    assert picks.position_pixel.tolist() == [[42.0, 52.0], [27.0, 32.0]]


@pytest.mark.parametrize("heading", ["", "# x y\n", "x y\n"])
def test_plain_text_gives_x_and_y(tmp_path, heading):
    (tmp_path / "a.txt").write_text(heading + "1.5 2.5\n\n3, 4\n")
    assert relion.read_coordinates(tmp_path / "a.txt", "a.mrc").position_pixel.tolist() == [[1.5, 2.5], [3.0, 4.0]]


def test_plain_text_keeps_z(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3\n4 5 6\n")
    assert relion.read_coordinates(tmp_path / "a.txt", "a.mrc")["rlnCoordinateZ"].tolist() == ["3.000000", "6.000000"]


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("a.box", "1 2 3 4\n1 2 3\n", 2, "at least 4 numbers; found '1 2 3'"),
        ("a.txt", "1 2\n3 y\n", 2, "at least 2 numbers; found '3 y'"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX\n1\n", None, "the column _rlnCoordinateY"),
        ("a.star", "data_\nloop_\n_rlnX\n1\n", None, "the column _rlnCoordinateX"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1\n", 5, "2 values"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 b\n", 5, "a number in column _rlnCoordinateY"),
    ],
)
def test_faulty_coordinates_are_named_with_their_line(tmp_path, name, text, line, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        relion.read_coordinates(tmp_path / name, "a.mrc")
    assert caught.value.line == line


@pytest.mark.parametrize("name", ["a.box", "a.star"])
def test_coordinates_of_no_known_micrograph_are_refused(tmp_path, name):
    text = "1 2 8 8\n" if name == "a.box" else "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"The micrograph of .* must be known"):
        relion.read_coordinates(tmp_path / name)


def test_a_list_with_a_missing_coordinate_file_names_its_line(tmp_path):
    main = relion.write_autopick(tmp_path / "AutoPick/job001", some_picks(4, n_micrographs=2), project_root=tmp_path)
    (tmp_path / "AutoPick/job001/Movies/mic_2_autopick.star").unlink()
    with pytest.raises(FormatError, match=r"a coordinate file that exists; found .*mic_2_autopick.star") as caught:
        relion.read_autopick(main, tmp_path)
    assert caught.value.line is not None


def test_empty_coordinate_files_are_no_fault(tmp_path):
    picks = Picks.of_micrograph("a.mrc", np.zeros((0, 2)), source="log")
    relion.write_coordinates(tmp_path / "a.star", picks)
    again = relion.read_coordinates(tmp_path / "a.star", "a.mrc")
    assert len(again) == 0
    assert again.micrographs == ("a.mrc",)


def test_further_columns_of_picks_are_written_and_kept(tmp_path):
    picks = some_picks(4, n_micrographs=1).with_columns(diameter_angstrom=np.array([1.0, 2.0, 3.0, 4.0]))
    relion.write_coordinates(tmp_path / "a.star", picks)
    again = relion.read_coordinates(tmp_path / "a.star", micrograph_names(1)[0])
    assert again["diameter_angstrom"].tolist() == ["1.000000", "2.000000", "3.000000", "4.000000"]


def test_two_coordinate_files_of_one_micrograph_are_refused(tmp_path):
    for name in ("mic1_autopick.star", "deep/mic1_manualpick.star"):
        relion.write_coordinates(tmp_path / name, some_picks())
    with pytest.raises(InconsistentDataError, match=r"mic1_manualpick\.star and .*mic1_autopick\.star for mic1\.mrc"):
        relion.read_picks(tmp_path, ["mic1.mrc"], project_root=tmp_path)
