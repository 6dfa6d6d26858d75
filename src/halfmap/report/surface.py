"""The surface of a map as a picture: seen along z, lit from the upper left, darker the farther away."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from halfmap.errors import ShapeError
from halfmap.report.pictures import Picture

_NEAR, _FAR = np.array([116.0, 170.0, 255.0]), np.array([44.0, 62.0, 110.0])
_BACKGROUND = np.array([16.0, 20.0, 32.0])
_LIGHT = np.array([-0.45, -0.55, 0.70])  # towards the light: x to the right, y down, z towards the eye
_AMBIENT, _GLOSS, _GLOSS_POWER = 0.25, 0.35, 24


def surface_picture(density: ArrayLike, threshold: float, *, side_pixel: int = 320) -> Picture:
    """Draw where a map reaches a threshold, as an eye far up the z axis sees it.

    Parameters
    ----------
    density : shape (z, y, x), cubic.
    threshold : grey value of the surface.
    side_pixel : of the picture; the map is interpolated linearly.

    Raises
    ------
    ShapeError
        The map is not cubic.
    """
    values = np.asarray(density, dtype=np.float32)
    if values.ndim != 3 or len(set(values.shape)) != 1:
        raise ShapeError(f"A map must be cubic to be drawn; got shape {values.shape}; crop or pad it.")
    side = len(values)
    pixels = np.arange(side_pixel) * (side - 1) / (side_pixel - 1)
    rows, columns = np.meshgrid(pixels, pixels, indexing="ij")
    # columns of voxels at the picture's pixels, the eye's first
    places = np.stack([rows, columns])
    across = np.stack([ndimage.map_coordinates(plane, places, order=1) for plane in values[::-1]])
    inside = np.asarray(across >= threshold)
    hit = np.asarray(inside.any(axis=0))[..., None]
    step = inside.argmax(axis=0)
    here = np.take_along_axis(across, step[None], axis=0)[0]
    before = np.take_along_axis(across, np.maximum(step - 1, 0)[None], axis=0)[0]
    back = np.where(step > 0, (here - threshold) / np.maximum(here - before, 1e-12), 0.0)
    z = side - 1 - (step - np.clip(back, 0, 1))
    colour = _shaded(_normals(values, z, rows, columns), z / (side - 1))
    return Picture.png(np.where(hit, colour, _BACKGROUND).round().astype(np.uint8))


def _normals(
    values: NDArray[np.float32], z: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the unit normals of the surface at points, (x, y, z) components, shape (rows, columns, 3)."""
    places = np.stack([z, y, x])
    slopes = [
        ndimage.map_coordinates(np.gradient(values, axis=axis), places, order=1, mode="nearest") for axis in range(3)
    ]
    downhill = -np.stack(slopes[::-1], axis=-1).astype(np.float64)
    return np.asarray(downhill / np.maximum(np.linalg.norm(downhill, axis=-1, keepdims=True), 1e-12))


def _shaded(normals: NDArray[np.float64], nearness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return colours of points with a normal, from 0, farthest away, to 1, nearest to the eye."""
    light = _LIGHT / np.linalg.norm(_LIGHT)
    halfway = light + np.array([0.0, 0.0, 1.0])
    diffuse = np.clip(normals @ light, 0, 1)
    gloss = np.clip(normals @ (halfway / np.linalg.norm(halfway)), 0, 1) ** _GLOSS_POWER
    body = _FAR + (_NEAR - _FAR) * nearness[..., None]
    lit = body * (_AMBIENT + (1 - _AMBIENT) * diffuse)[..., None] + 255 * _GLOSS * gloss[..., None]
    return np.clip(lit, 0, 255)
