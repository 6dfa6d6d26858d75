import numpy as np
import pytest

from halfmap.errors import FormatError
from halfmap.io import tomostar

TEXT = """
data_

loop_
_wrpMovieName #1
_wrpAngleTilt #2
_wrpAxisAngle #3
_wrpDose #4
_wrpAverageIntensity #5
_wrpMaskedFraction #6
 ../warp_frameseries/a.tif   -59.98  -86.100   105.6   3.214   0.000
 ../warp_frameseries/b.tif    59.98  -86.100     0.0   3.300   0.010
"""


def test_a_tomostar_is_read_and_written(tmp_path):
    path = tmp_path / "tomostar" / "TS_1.tomostar"
    path.parent.mkdir()
    path.write_text(TEXT)
    tilts = tomostar.read_tomostar(path)
    assert len(tilts) == 2
    assert tilts.tilt_angle_degrees.tolist() == [-59.98, 59.98]
    assert tilts.dose_e_per_angstrom2.tolist() == [105.6, 0]
    assert tilts.axis_angle_degrees.tolist() == [-86.1, -86.1]
    assert not tilts.axis_offset_angstrom.any()
    assert tilts.further["wrpMaskedFraction"].tolist() == ["0.000", "0.010"]
    again_path = tmp_path / "again.tomostar"
    tomostar.write_tomostar(again_path, tilts)
    again = tomostar.read_tomostar(again_path)
    assert again.movie_names == tilts.movie_names
    np.testing.assert_array_equal(again.tilt_angle_degrees, tilts.tilt_angle_degrees)
    assert again.further["wrpAverageIntensity"].tolist() == ["3.214", "3.300"]


def test_images_and_movies_are_found_from_the_tomostar(tmp_path):
    path = tmp_path / "tomostar" / "TS_1.tomostar"
    metadata = tmp_path / "warp_frameseries"
    metadata.mkdir()
    name = "../warp_frameseries/a.tif"
    path.parent.mkdir()
    assert tomostar.average_path(path, name).resolve() == (metadata / "average" / "a.mrc").resolve()
    with pytest.raises(FormatError, match="the movie"):
        tomostar.raw_movie_path(path, name)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.tif").write_bytes(b"x")
    (metadata / "a.xml").write_text('<Movie DataDirectory="../frames"></Movie>')
    assert tomostar.raw_movie_path(path, name).resolve() == (tmp_path / "frames" / "a.tif").resolve()
    (metadata / "a.tif").write_bytes(b"y")
    assert tomostar.raw_movie_path(path, name).resolve() == (metadata / "a.tif").resolve()


def test_missing_columns_and_tilts_are_named(tmp_path):
    path = tmp_path / "x.tomostar"
    path.write_text(TEXT.replace("wrpDose", "wrpOther"))
    with pytest.raises(FormatError, match="_wrpDose"):
        tomostar.read_tomostar(path)
    path.write_text("\n".join(line for line in TEXT.splitlines() if "../" not in line) + "\n")
    with pytest.raises(FormatError, match="at least one tilt"):
        tomostar.read_tomostar(path)
