"""The surface of a map as triangles, for viewers that turn it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.errors import ShapeError

_CORNERS = np.array([(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles.

    Parameters
    ----------
    vertices : float32, shape (n, 3): (x, y, z) in voxels, the first voxel's centre at 0.
    triangles : uint32, shape (m, 3): rows of vertices, counter-clockwise as seen from where the map is lower.
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.uint32]


def surface_mesh(density: ArrayLike, threshold: float) -> Mesh:
    """Return the surface on which a map has a value, closed where it does not meet the box's sides.

    Parameters
    ----------
    density : shape (z, y, x), each side at least 2.
    threshold : the value.

    Raises
    ------
    ShapeError
        The map has not three sides of at least two voxels.

    Notes
    -----
    Surface nets: each cube of eight voxels that the surface passes has one vertex, the mean of the points at which its
    edges are crossed, by linear interpolation; each edge between a voxel inside and one outside joins the vertices of
    the four cubes around it. A mesh has half the triangles of one by marching cubes, and no slivers.

    References
    ----------
    Gibson, S. F. F. (1998), Constrained elastic surface nets, MICCAI, LNCS 1496, 888-898.
    """
    values = np.asarray(density, dtype=np.float32)
    if values.ndim != 3 or min(values.shape) < 2:
        raise ShapeError(f"A map must have three sides of at least 2 voxels; got shape {values.shape}; give a volume.")
    inside = values > threshold
    cubes = tuple(side - 1 for side in values.shape)
    corners = [_corner(inside, corner, cubes) for corner in _CORNERS]
    count = sum(corner.astype(np.int8) for corner in corners)
    active = np.flatnonzero((count > 0) & (count < 8))
    number = np.full(cubes, -1, dtype=np.int64)
    number.ravel()[active] = np.arange(len(active))
    vertices = _vertices(values, threshold, np.stack(np.unravel_index(active, cubes), axis=-1))
    triangles = np.concatenate([_triangles(inside, number, axis) for axis in range(3)])
    return Mesh(vertices=vertices[:, ::-1].astype(np.float32), triangles=triangles.astype(np.uint32))


def _corner(values: NDArray[np.bool_], corner: NDArray[np.int64], cubes: tuple[int, ...]) -> NDArray[np.bool_]:
    z, y, x = corner
    return values[z : z + cubes[0], y : y + cubes[1], x : x + cubes[2]]


def _vertices(values: NDArray[np.float32], threshold: float, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the vertices (z, y, x) of cubes whose first corners lie at ``places``."""
    at_corner = np.stack([values[tuple((places + corner).T)] for corner in _CORNERS], axis=-1) - np.float32(threshold)
    total, n = np.zeros((len(places), 3)), np.zeros(len(places))
    for a, b in _EDGES:
        crossed = (at_corner[:, a] > 0) != (at_corner[:, b] > 0)
        difference = np.where(crossed, at_corner[:, a] - at_corner[:, b], 1.0)
        share = at_corner[:, a] / difference
        point = _CORNERS[a] + share[:, None] * (_CORNERS[b] - _CORNERS[a])
        total += np.where(crossed[:, None], point, 0.0)
        n += crossed
    return places + total / np.maximum(n, 1)[:, None]


def _triangles(inside: NDArray[np.bool_], number: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Return the triangles around all crossed edges along an axis that have four cubes around them."""
    first, second = (inside.take(range(start, inside.shape[axis] - 1 + start), axis) for start in (0, 1))
    others = [(axis + 1) % 3, (axis + 2) % 3]
    crossed = first != second
    within = [slice(None)] * 3
    for other in others:
        within[other] = slice(1, inside.shape[other] - 1)
    places = np.stack(np.nonzero(crossed[tuple(within)]), axis=-1)
    for other in others:
        places[:, other] += 1
    steps = np.zeros((4, 3), dtype=np.int64)
    steps[1, others[0]] = steps[2, others[0]] = steps[2, others[1]] = steps[3, others[1]] = -1
    a, b, c, d = (number[tuple((places + step).T)] for step in steps)
    falls = first[tuple(places.T)]  # the axis runs from inside to outside
    # (axis, others[0], others[1]) is right-handed in (z, y, x), which is left-handed in (x, y, z)
    b, d = np.where(falls, d, b), np.where(falls, b, d)
    return np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)])
