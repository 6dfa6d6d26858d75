"""A volume and its grid agree."""

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import ShapeError
from halfmap.grid import ImageGrid


@pytest.mark.parametrize("side", [4, 5])
def test_volume_holds_values_of_its_grid_alone(side):
    grid = ImageGrid.cubic(side, 2.0)
    assert Volume(values=torch.zeros(grid.shape), grid=grid).values.shape == grid.shape
    with pytest.raises(ShapeError, match="sides of its grid"):
        Volume(values=torch.zeros(side, side, side + 1), grid=grid)
    with pytest.raises(ShapeError, match="three sides"):
        Volume(values=torch.zeros(side, side), grid=ImageGrid.square(side, 2.0))
