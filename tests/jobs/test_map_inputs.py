"""Maps as jobs read them."""

import pytest

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.jobs import map_inputs as inputs
from support.half_maps import white
from support.shared_data import shared_data

GRID = ImageGrid.cubic(16, 2.0)


def test_maps_without_pixel_size_or_with_nan_are_refused(tmp_path):
    volume = Volume(values=white(GRID, 1).float(), grid=GRID)
    volume.values[1, 2, 3] = float("nan")
    mrc.write_volume(tmp_path / "nan.mrc", volume)
    with pytest.raises(
        InputError, match=r"1 of 4096 values are NaN or infinite, the first at \(z, y, x\) = \(1, 2, 3\)"
    ):
        inputs.read_map(tmp_path / "nan.mrc", None)
    with pytest.raises(InputError, match="none in its header; give it with --pixel-size"):
        inputs.read_map(shared_data("maps/ribosome70s_65.mrc"), None)
    with pytest.raises(InputError, match="give it with --header-pixel-size"):
        inputs.read_map(shared_data("maps/ribosome70s_65.mrc"), None, flag="--header-pixel-size")
    assert inputs.read_map(shared_data("maps/ribosome70s_65.mrc"), 6.0).grid.pixel_size_angstrom == 6.0
