"""Maps for viewers: reduced in size, as a surface of triangles and as pictures of slices and projections."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.fourier.resample import rescale
from halfmap.io import mrc
from halfmap.jobs.map_inputs import read_map
from halfmap.report.mesh import surface_mesh
from halfmap.report.pictures import Picture, enlarge, shrink, to_grey

MOST_VOXELS = 128
"""Longest side of a map that is shown; larger ones are cropped in Fourier space."""

MOST_TRIANGLES = 300_000
LEAST_DEVIATIONS = 0.5
_USUAL_DEVIATIONS = 3.0
_SIDE_PIXEL = 320


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedMap:
    """A map as it is shown.

    Parameters
    ----------
    values : float32, shape (z, y, x), perhaps reduced.
    voxel_angstrom : of these values.
    mean, deviation : of these values.
    """

    values: NDArray[np.float32]
    voxel_angstrom: float
    mean: float
    deviation: float

    @property
    def usual_level(self) -> float:
        """Three standard deviations above the mean, or halfway to the maximum where nothing reaches that."""
        level = self.mean + _USUAL_DEVIATIONS * self.deviation
        highest = float(self.values.max())
        return level if level < highest else 0.5 * (self.mean + highest)


def facts(path: Path) -> dict[str, Any]:
    """Return what a viewer must know before it asks for a surface."""
    header = mrc.read_header(path)
    viewed = view(path)
    return {
        "shape": list(header.shape),
        "voxel_angstrom": viewed.voxel_angstrom * viewed.values.shape[-1] / header.shape[-1],
        "shown_shape": list(viewed.values.shape),
        "mean": viewed.mean,
        "deviation": viewed.deviation,
        "minimum": float(viewed.values.min()),
        "maximum": float(viewed.values.max()),
        "level": viewed.usual_level,
    }


def view(path: Path) -> ViewedMap:
    """Read a map, and keep it for the next question about it.

    Raises
    ------
    FormatError, InputError
        It is no map, or holds values that are not finite.
    """
    status = path.stat()
    return _viewed(path, status.st_mtime_ns, status.st_size)


def surface(path: Path, level: float | None = None) -> dict[str, Any]:
    """Return a map's surface.

    Parameters
    ----------
    level : grey value; three standard deviations above the mean where left out.

    Returns
    -------
    ``vertices``: float32, shape (n, 3), (x, y, z) in Å from the map's centre; ``triangles``: uint32, shape (m, 3);
    ``level``, ``mean``, ``deviation``, ``minimum``, ``maximum``: numbers.

    Notes
    -----
    Levels so low that there would be more than 300,000 triangles are raised, a tenth of a standard deviation at a
    time; the level that was taken is returned.
    """
    viewed = view(path)
    taken = viewed.usual_level if level is None else level
    found = surface_mesh(viewed.values, taken)
    while len(found.triangles) > MOST_TRIANGLES:
        taken += 0.1 * viewed.deviation
        found = surface_mesh(viewed.values, taken)
    sides = np.array(viewed.values.shape[::-1])
    return {
        "vertices": ((found.vertices - sides // 2) * viewed.voxel_angstrom).astype(np.float32),
        "triangles": found.triangles,
        "level": taken,
        "mean": viewed.mean,
        "deviation": viewed.deviation,
        "minimum": float(viewed.values.min()),
        "maximum": float(viewed.values.max()),
    }


def slices(path: Path) -> Picture:
    """Return a picture of a map: above its central slices across z, y and x, below its projections along them."""
    values = view(path).values
    centre = [side // 2 for side in values.shape]
    planes = [values.take(centre[axis], axis) for axis in range(3)] + [values.sum(axis) for axis in range(3)]
    tiles = [_tile(plane) for plane in planes]
    return Picture.png(np.concatenate([np.concatenate(tiles[:3], axis=1), np.concatenate(tiles[3:], axis=1)]))


def _tile(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    grey = to_grey(shrink(enlarge(plane, _SIDE_PIXEL), _SIDE_PIXEL), percentiles=(0.5, 99.8))
    tile = np.zeros((_SIDE_PIXEL + 4, _SIDE_PIXEL + 4), dtype=np.uint8)
    tile[2 : 2 + grey.shape[0], 2 : 2 + grey.shape[1]] = grey
    return tile


@lru_cache(maxsize=4)
def _viewed(path: Path, changed_ns: int, size: int) -> ViewedMap:
    volume = read_map(path, None if mrc.read_header(path).voxel_size_angstrom else 1.0)
    values, grid = volume.values, volume.grid
    longest = max(grid.shape)
    if longest > MOST_VOXELS:
        shape = tuple(max(2, 2 * round(side * MOST_VOXELS / longest / 2)) for side in grid.shape)
        if len(set(grid.shape)) == 1:
            shape = (MOST_VOXELS,) * 3
        values, grid = rescale(values, grid, shape)
    array = values.numpy().astype(np.float32)
    return ViewedMap(
        values=array,
        voxel_angstrom=grid.pixel_size_angstrom,
        mean=float(array.mean(dtype=np.float64)),
        deviation=float(array.std(dtype=np.float64)),
    )
