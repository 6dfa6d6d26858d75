import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics, TiltSeries
from halfmap.errors import FormatError
from halfmap.io import star, warp_xml
from halfmap.io.warp_series import SeriesSizes, dose_per_frame, read_series, write_series
from halfmap.splines.grids import LinearGrid, SplineGrid
from support.shared_data import shared_data

SIZES = SeriesSizes(volume_size_angstrom=(800.0, 900.0, 400.0), image_size_angstrom=(1000.0, 1100.0))


def tilt_xml(*, depth=3, use="True\nFalse\nTrue", attributes="", extra=""):
    nodes = "".join(f'\t\t<Node X="0" Y="0" Z="{z}" Value="{2.5 + z / 10}" />\n' for z in range(depth))
    return f"""<?xml version="1.0" encoding="utf-8"?>
<TiltSeries DataDirectory="there" AreAnglesInverted="True" LevelAngleX="1.5" LevelAngleY="-2" Bfactor="-3" Weight="0.5"
 MagnificationCorrection="1, 0.02, 0.03, 1.1" UnselectFilter="True" UnselectManual="" {attributes}>
\t<Angles>-30
0
30</Angles>
\t<Dose>6
0
3</Dose>
\t<UseTilt>{use}</UseTilt>
\t<AxisAngle>85
85
85.5</AxisAngle>
\t<AxisOffsetX>1
2
3</AxisOffsetX>
\t<MoviePath>a.mrc
b.mrc
c.mrc</MoviePath>
\t<PS1D>0|1;1|2</PS1D>
\t<CTF>
\t\t<Param Name="PixelSize" Value="1,35" />
\t\t<Param Name="Voltage" Value="200" />
\t\t<Param Name="ZernikeCoeffsOdd" Value="1;2" />
\t\t<Param Name="PhaseShift" Value="0.25" />
\t\t<Param Name="Unknown" Value="kept" />
\t</CTF>
\t<GridCTF Width="1" Height="1" Depth="{depth}" MarginX="0" MarginY="0" MarginZ="0">
{nodes}\t</GridCTF>
{extra}</TiltSeries>
"""


def written(folder: Path, text: str, name="TS_1.xml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def grid(shape, seed):
    return SplineGrid(values=torch.from_numpy(np.random.default_rng(seed).normal(size=shape)))


def test_a_tilt_series_is_read_in_our_units(tmp_path):
    series = read_series(written(tmp_path, tilt_xml()), SIZES)
    assert isinstance(series, TiltSeries)
    assert series.name == "TS_1"
    assert len(series) == 3
    np.testing.assert_allclose(series.defocus_angstrom.values.ravel(), [25000, 26000, 27000])
    np.testing.assert_allclose(series.phase_shift_degrees.values.ravel(), [45])
    assert series.optics.pixel_size_angstrom == 1.35
    assert series.optics.odd_zernike.tolist() == [-1, -2] + [0] * 10  # M's undo what ours do
    np.testing.assert_array_equal(series.optics.magnification, [[1, 0.03], [0.02, 1.1]])
    assert series.is_used.tolist() == [True, False, True]
    assert series.axis_offset_angstrom.tolist() == [[1, 0], [2, 0], [3, 0]]
    assert (series.level_angle_x_degrees, series.level_angle_y_degrees) == (1.5, -2)
    assert series.are_angles_inverted
    assert not series.is_selected
    assert (series.weights.series_scale, series.weights.series_b_factor_angstrom2) == (0.5, -3)
    assert series.movie_names == ("a.mrc", "b.mrc", "c.mrc")
    assert series.further == {"DataDirectory": "there"}


def test_what_is_said_by_hand_counts_before_the_filter(tmp_path):
    text = tilt_xml().replace('UnselectManual=""', 'UnselectManual="False"')
    assert read_series(written(tmp_path, text), SIZES).is_selected


def test_grids_that_do_not_fit_the_tilts_are_named(tmp_path):
    with pytest.raises(FormatError, match=r"1 or 3 nodes over tilts in GridCTF.*Depth=4"):
        read_series(written(tmp_path, tilt_xml(depth=4)), SIZES)
    with pytest.raises(FormatError, match="3 values in <UseTilt>"):
        read_series(written(tmp_path, tilt_xml(use="True\nTrue")), SIZES)


def test_missing_nodes_are_named(tmp_path):
    text = tilt_xml().replace('\t\t<Node X="0" Y="0" Z="1" Value="2.6" />\n', "")
    with pytest.raises(FormatError, match=r"3 nodes in GridCTF \(1×1×3\); found 2"):
        read_series(written(tmp_path, text), SIZES)


def test_a_file_without_sizes_says_what_to_give(tmp_path):
    path = written(tmp_path, tilt_xml())
    with pytest.raises(FormatError, match="--tomo_dimensions"):
        read_series(path, SeriesSizes(image_size_angstrom=(1.0, 1.0)))
    with pytest.raises(FormatError, match="DimensionsX and DimensionsY"):
        read_series(path)
    stated = 'ImageDimensionsAngstrom="10, 20" VolumeDimensionsAngstrom="30, 40, 50"'
    series = read_series(written(tmp_path, tilt_xml(attributes=stated)), SIZES)
    assert series.image_size_angstrom == (10, 20)
    assert series.volume_size_angstrom == (30, 40, 50)


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(FormatError, match="found <Species>"):
        read_series(written(tmp_path, "<Species></Species>"))
    with pytest.raises(FormatError, match="line 1: expected XML"):
        read_series(written(tmp_path, "<TiltSeries>"))
    with pytest.raises(FormatError, match="document type"):
        read_series(written(tmp_path, '<!DOCTYPE x [<!ENTITY a "b">]><TiltSeries/>'))
    with pytest.raises(FormatError, match="readable"):
        read_series(tmp_path / "none.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_unchanged_series_is_written_byte_for_byte(tmp_path, encoding):
    path = tmp_path / "TS_1.xml"
    path.write_bytes(tilt_xml().replace("\n\t", "\r\n\t").replace("there", "dört").encode(encoding))
    before = path.read_bytes()
    write_series(path, read_series(path, SIZES))
    assert path.read_bytes() == before


def test_a_changed_grid_changes_only_its_nodes(tmp_path):
    path = written(tmp_path, tilt_xml())
    series = read_series(path, SIZES)
    values = series.defocus_angstrom.values.clone()
    values[1] = 30000.0
    write_series(path, series.with_values(defocus_angstrom=SplineGrid(values=values)))
    assert path.read_text() == tilt_xml().replace('Value="2.6"', 'Value="3"')


def test_a_changed_list_changes_only_its_lines(tmp_path):
    path = written(tmp_path, tilt_xml().replace(">6\n", ">6.000\n"))
    series = read_series(path, SIZES)
    write_series(
        path, series.with_values(is_used=np.array([True, True, True]), dose_e_per_angstrom2=np.array([6, 0, 4]))
    )
    expected = tilt_xml(use="True\nTrue\nTrue").replace(">6\n0\n3<", ">6.000\n0\n4<")
    assert path.read_text() == expected


def test_everything_else_that_changed_is_written(tmp_path):
    path = written(tmp_path, tilt_xml())
    series = read_series(path, SIZES)
    changed = series.with_values(
        movement_x_angstrom=grid((3, 2, 2), 1),
        defocus_angstrom=grid((1, 1, 1), 5),
        volume_warp_z_angstrom=LinearGrid(values=torch.arange(16.0).reshape(2, 2, 2, 2)),
        is_selected=True,
        optics=SeriesOptics(
            pixel_size_angstrom=1.4, odd_zernike=np.arange(12.0), magnification=np.array([[1, 2], [3, 4]])
        ),
    )
    write_series(path, changed)
    again = read_series(path, SIZES)
    for name in ("movement_x_angstrom", "defocus_angstrom", "volume_warp_z_angstrom"):
        torch.testing.assert_close(getattr(again, name).values, getattr(changed, name).values, rtol=1e-11, atol=0)
    assert again.is_selected
    assert again.optics.pixel_size_angstrom == 1.4
    assert again.optics.odd_zernike.tolist() == list(range(12))
    np.testing.assert_array_equal(again.optics.magnification, [[1, 2], [3, 4]])
    text = path.read_text()
    assert '<Param Name="Unknown" Value="kept" />' in text
    assert "<PS1D>0|1;1|2</PS1D>" in text


def test_a_new_tilt_series_reads_back(tmp_path):
    series = TiltSeries(
        name="TS_2",
        image_size_angstrom=(512.0, 500.5),
        dose_e_per_angstrom2=np.array([3.0, 0.0]),
        is_used=np.array([True, False]),
        optics=SeriesOptics(pixel_size_angstrom=2.0),
        volume_size_angstrom=(400.0, 300.0, 200.0),
        tilt_angle_degrees=np.array([-20.125, 0.0]),
        axis_angle_degrees=np.array([90.0, 91.0]),
        axis_offset_angstrom=np.array([[1e-7, -2.0], [3.0, 4.0]]),
        movie_names=("a & b.mrc", "c.mrc"),
        stage_angle_y_degrees=grid((2, 1, 1), 2),
        volume_warp_x_angstrom=LinearGrid(values=torch.arange(4.0).reshape(2, 1, 1, 2)),
    )
    path = tmp_path / "TS_2.xml"
    write_series(path, series)
    again = read_series(path)
    assert isinstance(again, TiltSeries)
    np.testing.assert_allclose(again.axis_offset_angstrom, series.axis_offset_angstrom, rtol=1e-12)
    np.testing.assert_allclose(again.stage_angle_y_degrees.values, series.stage_angle_y_degrees.values, rtol=1e-11)
    np.testing.assert_allclose(again.volume_warp_x_angstrom.values, series.volume_warp_x_angstrom.values, rtol=1e-11)
    assert again.image_size_angstrom == series.image_size_angstrom
    assert again.volume_size_angstrom == series.volume_size_angstrom
    assert again.movie_names == series.movie_names
    assert again.is_used.tolist() == [True, False]
    before = path.read_bytes()
    write_series(path, again)
    assert path.read_bytes() == before


def test_a_frame_series_keeps_its_pyramid(tmp_path):
    series = FrameSeries(
        name="movie",
        image_size_angstrom=(512.0, 512.0),
        dose_e_per_angstrom2=np.arange(4) * 1.5,
        is_used=np.ones(4, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=1.0),
        pyramid_x_angstrom=(grid((4, 1, 1), 1), grid((2, 2, 2), 2)),
        pyramid_y_angstrom=(grid((4, 1, 1), 3), grid((2, 2, 2), 4)),
        doming_angstrom=grid((4, 3, 3), 5),
        n_frames_of_movie=4,
    )
    path = tmp_path / "movie.xml"
    write_series(path, series)
    again = read_series(path, SeriesSizes(n_frames=4, dose_per_frame_e_per_angstrom2=1.5))
    assert isinstance(again, FrameSeries)
    assert [level.shape for level in again.pyramid_x_angstrom] == [(4, 1, 1), (2, 2, 2)]
    np.testing.assert_allclose(again.pyramid_y_angstrom[1].values, series.pyramid_y_angstrom[1].values, rtol=1e-11)
    np.testing.assert_allclose(again.doming_angstrom.values, series.doming_angstrom.values, rtol=1e-11)
    np.testing.assert_array_equal(again.dose_e_per_angstrom2, series.dose_e_per_angstrom2)
    assert len(read_series(path)) == 4  # told by the grid of doming
    write_series(path, again.with_values(pyramid_x_angstrom=again.pyramid_x_angstrom[:1]))
    shorter = read_series(path)
    assert isinstance(shorter, FrameSeries)
    assert [len(shorter.pyramid_x_angstrom), len(shorter.pyramid_y_angstrom)] == [1, 2]


def test_a_negative_dose_is_that_of_the_whole_movie():
    assert dose_per_frame(2.5, 40) == 2.5
    assert dose_per_frame(-40.0, 40) == 1.0


def test_numbers_are_written_without_exponent():
    assert warp_xml.text_of_number(1e-9) == "0.000000001"
    assert warp_xml.text_of_number(0.1 + 0.2) == "0.3"
    assert warp_xml.text_of_number(-2.0) == "-2"


@pytest.mark.parametrize("name", ["cryocat_TS_017/017.xml", "warptools_gs04_ts_003.xml"])
def test_real_files_of_old_and_new_versions_round_trip(tmp_path, name):
    source = shared_data("tilt") / name
    path = tmp_path / Path(name).name
    shutil.copyfile(source, path)
    series = read_series(path, SIZES)
    assert isinstance(series, TiltSeries)
    assert len(series) == {"017.xml": 60, "warptools_gs04_ts_003.xml": 47}[path.name]
    assert series.defocus_angstrom.shape == (len(series), 1, 1)
    if path.name == "017.xml":
        assert series.volume_warp_z_angstrom.shape == (10, 4, 3, 3)
        assert series.movement_x_angstrom.shape == (60, 3, 3)
    write_series(path, series)
    assert path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("value", ["NaN", "", "many"])
def test_values_that_are_no_numbers_are_named(tmp_path, value):
    path = written(tmp_path, tilt_xml().replace('Value="2.6"', f'Value="{value}"'))
    with pytest.raises(FormatError, match="a number for a node of GridCTF"):
        read_series(path, SIZES)


def test_units_agree_with_what_imod_and_gctf_say_of_the_same_series():
    folder = shared_data("tilt/cryocat_TS_017")
    series = read_series(folder / "017.xml", SIZES)
    assert isinstance(series, TiltSeries)
    np.testing.assert_allclose(series.tilt_angle_degrees, np.loadtxt(folder / "017.tlt"), atol=0.05)  # stage's rounding
    dose = np.diff(np.sort(np.loadtxt(folder / "017_corrected_dose.txt")))
    assert np.median(np.diff(np.sort(series.dose_e_per_angstrom2))) == pytest.approx(np.median(dose), abs=0.01)
    gctf = star.read(folder / "017_gctf.star").tables[0]
    mean = (gctf.numbers("rlnDefocusU") + gctf.numbers("rlnDefocusV")) / 2
    # Å: two programs on single tilts of a thick sample
    assert np.median(np.abs(series.defocus_angstrom.values.ravel().numpy() - mean)) < 1000
    assert series.image_size_angstrom == (4096 * 1.971, 4096 * 1.971)
