"""Image sources made of others: brought to another grid, and joined."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halfmap.data.image_source import Float32Array, ImageSource, checked_indices
from halfmap.errors import InputError, ShapeError
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.grid import ImageGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class RescaledImages:
    """Images of another source, brought to a grid of other sides or pixel size as they are read.

    Parameters
    ----------
    images : as they are stored.
    grid : what they are brought to.
    level : of each image, float64, shape (len(images),): what it holds beyond its own field, where the grid is wider.

    Notes
    -----
    Coefficients that both grids have stay as they are, so grey values do: RELION compares optics groups of
    different pixel sizes in the same way.
    """

    images: ImageSource
    grid: ImageGrid
    level: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return images by their 0-based numbers, in the order asked for, shape (n, y, x)."""
        wanted = checked_indices(indices, len(self))
        level = torch.from_numpy(self.level[wanted]).float()[:, None, None]
        stored = torch.from_numpy(self.images.read(wanted)) - level
        brought, _ = rescale_to_pixel_size(
            stored, self.images.grid, self.grid.pixel_size_angstrom, (self.grid.shape[0], self.grid.shape[1])
        )
        return (brought + level).numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedImages:
    """Images of several sources in an order of their own.

    Parameters
    ----------
    sources : all on one grid.
    source_of, index_in_source : which source each image is in, and its number there; int64, shape (n,).

    Raises
    ------
    InputError
        There is no source.
    ShapeError
        Their grids differ.
    """

    sources: tuple[ImageSource, ...]
    source_of: NDArray[np.int64]
    index_in_source: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("Joined images must have at least one source; got none; give one.")
        for source in self.sources:
            if source.grid != self.grid:
                raise ShapeError(
                    f"Sources of joined images must have one grid; got {self.grid} and {source.grid}; bring them to "
                    "one with RescaledImages."
                )

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of every image."""
        return self.sources[0].grid

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source_of)

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return images by their 0-based numbers, in the order asked for, shape (n, y, x)."""
        wanted = checked_indices(indices, len(self))
        images = np.empty((len(wanted), *self.grid.shape), dtype=np.float32)
        source_of = self.source_of[wanted]
        for number in np.unique(source_of).tolist():
            mine = np.flatnonzero(source_of == number)
            images[mine] = self.sources[number].read(self.index_in_source[wanted[mine]])
        return images
