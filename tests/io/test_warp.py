import numpy as np
import pytest

from halfmap.errors import FormatError, InputError
from halfmap.io import warp

SPECIES = """
data_

loop_
_wrpCoordinateX1 #1
_wrpCoordinateY1 #2
_wrpCoordinateZ1 #3
_wrpCoordinateX2 #4
_wrpAngleRot1 #5
_wrpAngleTilt1 #6
_wrpAnglePsi1 #7
_wrpRandomSubset #8
_wrpSourceName #9
_wrpSourceHash #10
100.0 200.0 300.0 101.0 10 90 30 1 TS_1.tomostar abc
400.0 500.0 600.0 401.0 10 90 30 2 TS_1.tomostar abc
"""


def test_a_species_table_gives_positions_in_pixels_and_keeps_the_rest(tmp_path):
    path = tmp_path / "s_particles.star"
    path.write_text(SPECIES)
    particles = warp.read_species_particles(path, 2.0)
    np.testing.assert_array_equal(particles["position_pixel"], [[50, 100], [200, 250]])
    assert particles["rlnCoordinateZ"].tolist() == ["150.000000", "300.000000"]
    assert particles["random_subset"].tolist() == [1, 2]
    assert particles["rlnTomoName"].tolist() == ["TS_1", "TS_1"]
    assert particles["wrpCoordinateX2"].tolist() == ["101.0", "401.0"]
    assert particles["wrpSourceHash"].tolist() == ["abc", "abc"]
    c, s = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    np.testing.assert_allclose(particles["rotation"][0, 2], [c, s, 0], atol=1e-12)


def test_a_pixel_size_must_be_given_and_columns_be_there(tmp_path):
    path = tmp_path / "s_particles.star"
    path.write_text(SPECIES)
    with pytest.raises(InputError, match="--pixel-size"):
        warp.read_species_particles(path, None)
    path.write_text(SPECIES.replace("_wrpSourceName", "_wrpOther"))
    with pytest.raises(FormatError, match="wrpSourceName"):
        warp.read_species_particles(path, 2.0)
