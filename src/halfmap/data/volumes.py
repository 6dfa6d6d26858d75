"""`Volume`: a map and the grid it lies on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfmap.errors import ShapeError
from halfmap.grid import ImageGrid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A three-dimensional map.

    Parameters
    ----------
    values : real, shape (z, y, x); the map's centre is voxel ``n // 2`` of each axis.
    grid : sides and pixel size of the values.

    Raises
    ------
    ShapeError
        The grid has not three sides, or the values have other sides than the grid.
    """

    values: "Tensor"
    grid: ImageGrid

    def __post_init__(self) -> None:
        if self.grid.ndim != 3:
            raise ShapeError(f"A volume's grid must have three sides; got {self.grid.shape}.")
        if tuple(self.values.shape) != self.grid.shape:
            raise ShapeError(
                f"A volume's values must have the sides of its grid {self.grid.shape}; "
                f"got shape {tuple(self.values.shape)}."
            )
