"""What spoils micrographs: ice crystals, carbon, gradients, bad pixels, replicated borders."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import pdtrik
from torch import Tensor

from halfmap import keyed_random
from halfmap.geometry.shapes import raised_cosine_edge
from halfmap.grid import ImageGrid

CARBON_POTENTIAL_VOLT = 9.0
ICE_POTENTIAL_VOLT = 4.5
CRYSTAL_ABSORPTION_LENGTH_ANGSTROM = 900.0
"""Of an ice crystal, which diffracts electrons out of the image: they look much darker than amorphous ice."""

_CARBON_THICKNESS_ANGSTROM = (150.0, 250.0)
_CARBON_DEPTH = 0.28
_HOLE_RADIUS_ANGSTROM = 6000.0
_CARBON_EDGE_ANGSTROM = 120.0
_CRYSTAL_DIAMETER_ANGSTROM = (100.0, 500.0)
_HOT_PIXELS_PER_MEGAPIXEL = 6.0
_LARGEST_BORDER_PIXEL = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class IceCrystals:
    """Round ice crystals.

    Parameters
    ----------
    positions_angstrom : shape (n, 2), (x, y) from the centre of the first pixel.
    diameters_angstrom : shape (n,).
    """

    positions_angstrom: NDArray[np.float64]
    diameters_angstrom: NDArray[np.float64]


def ice_crystals(seed: int, uid: int, *, field_angstrom: tuple[float, float], per_micrometre2: float) -> IceCrystals:
    """Draw the crystals of a micrograph, their number Poisson-distributed.

    Parameters
    ----------
    field_angstrom : width and height.
    per_micrometre2 : mean number on 1e8 Å².
    """
    mean = per_micrometre2 * field_angstrom[0] * field_angstrom[1] / 1e8
    n = poisson_number(mean, float(keyed_random.uniform(seed, "number of ice crystals", uid)))
    draws = keyed_random.uniform(seed, "ice crystals", uid, size=(n, 3))
    low, high = _CRYSTAL_DIAMETER_ANGSTROM
    # small ones are more frequent: uniform in 1/diameter
    diameters = 1.0 / (1 / high + draws[:, 2] * (1 / low - 1 / high))
    return IceCrystals(positions_angstrom=draws[:, :2] * np.array(field_angstrom), diameters_angstrom=diameters)


def crystal_thickness(grid: ImageGrid, crystals: IceCrystals, *, seed: int, uid: int, origin_pixel: int) -> Tensor:
    """Return the thickness of all crystals along the beam in Å, float32, shape ``grid.shape``.

    Parameters
    ----------
    grid : of the micrograph with its margins.
    origin_pixel : place of the micrograph's first pixel in the grid, along both axes.

    Notes
    -----
    A crystal is a flattened ball, half as thick as wide, whose outline waves by a tenth and which is
    thinner and thicker in parts.
    """
    thickness = torch.zeros(grid.shape, dtype=torch.float32)
    a = grid.pixel_size_angstrom
    waves = keyed_random.uniform(seed, "outline of ice crystals", uid, size=(len(crystals.diameters_angstrom), 8))
    for (x, y), diameter, wave in zip(crystals.positions_angstrom, crystals.diameters_angstrom, waves, strict=True):
        reach = math.ceil(0.65 * diameter / a) + 2
        ix, iy = round(x / a) + origin_pixel, round(y / a) + origin_pixel
        rows = slice(max(iy - reach, 0), min(iy + reach + 1, grid.shape[0]))
        columns = slice(max(ix - reach, 0), min(ix + reach + 1, grid.shape[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        dy = torch.arange(rows.start, rows.stop)[:, None] * a - (y + origin_pixel * a)
        dx = torch.arange(columns.start, columns.stop)[None, :] * a - (x + origin_pixel * a)
        angle = torch.atan2(dy, dx)
        outline = 1.0 + sum(
            0.05 * float(wave[k]) * torch.cos((k + 2) * angle + 2 * math.pi * float(wave[k + 3])) for k in range(3)
        )
        r = torch.hypot(dx, dy) / (0.5 * diameter * outline)
        lumps = 1.0 + 0.25 * torch.cos(dx * (7 / diameter) + 6 * wave[6]) * torch.cos(dy * (9 / diameter) + 6 * wave[7])
        dome = (1.0 - r**2).clamp(min=0.0).sqrt()
        thickness[rows, columns] += (0.5 * diameter * dome * lumps).float()
    return thickness


@dataclass(frozen=True, kw_only=True, eq=False)
class CarbonEdge:
    """The rim of a hole in carbon film.

    Parameters
    ----------
    centre_angstrom : of the hole, (x, y) from the centre of the first pixel.
    radius_angstrom : of the hole.
    thickness_angstrom : of the film.
    """

    centre_angstrom: tuple[float, float]
    radius_angstrom: float
    thickness_angstrom: float

    def distance_angstrom(self, x_angstrom: Tensor, y_angstrom: Tensor) -> Tensor:
        """Return how far points lie inside the film; negative in the hole."""
        return torch.hypot(x_angstrom - self.centre_angstrom[0], y_angstrom - self.centre_angstrom[1]) - (
            self.radius_angstrom
        )


def carbon_edge(seed: int, uid: int, *, field_angstrom: tuple[float, float], share: float) -> CarbonEdge | None:
    """Draw whether a micrograph shows carbon, and where.

    The film reaches up to 28 % of the field into it from a random side.
    """
    present, angle, depth, thickness = keyed_random.uniform(seed, "carbon", uid, size=4)
    if present >= share:
        return None
    width, height = field_angstrom
    direction = np.array([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)])
    # distance from the middle to the border of the field along the direction
    reach = min(0.5 * width / max(abs(direction[0]), 1e-9), 0.5 * height / max(abs(direction[1]), 1e-9))
    edge_at = reach * (1 - 2 * _CARBON_DEPTH * (0.3 + 0.7 * depth))
    centre = np.array([0.5 * width, 0.5 * height]) + direction * (edge_at - _HOLE_RADIUS_ANGSTROM)
    low, high = _CARBON_THICKNESS_ANGSTROM
    return CarbonEdge(
        centre_angstrom=(float(centre[0]), float(centre[1])),
        radius_angstrom=_HOLE_RADIUS_ANGSTROM,
        thickness_angstrom=float(low + thickness * (high - low)),
    )


def carbon_thickness(grid: ImageGrid, edge: CarbonEdge, *, origin_pixel: int) -> Tensor:
    """Return the film's thickness in Å, float32, shape ``grid.shape``: a soft step at the rim."""
    a = grid.pixel_size_angstrom
    y = (torch.arange(grid.shape[0], dtype=torch.float32) - origin_pixel)[:, None] * a
    x = (torch.arange(grid.shape[1], dtype=torch.float32) - origin_pixel)[None, :] * a
    inside = edge.distance_angstrom(x, y)
    return edge.thickness_angstrom * raised_cosine_edge(_CARBON_EDGE_ANGSTROM - inside, _CARBON_EDGE_ANGSTROM)


def relative_illumination(seed: int, uid: int, shape: tuple[int, ...]) -> Tensor:
    """Return how ice thickness and beam vary over a micrograph, float32, shape (y, x), mean near 1.

    A slope of up to 8 % across the field and a beam that is up to 6 % weaker in the corners.
    """
    direction, slope, fall, centre_x, centre_y = keyed_random.uniform(seed, "illumination", uid, size=5)
    y = torch.linspace(-0.5, 0.5, shape[0])[:, None]
    x = torch.linspace(-0.5, 0.5, shape[1])[None, :]
    tilt = 0.08 * slope * (math.cos(2 * math.pi * direction) * x + math.sin(2 * math.pi * direction) * y)
    away = (x - 0.4 * (float(centre_x) - 0.5)) ** 2 + (y - 0.4 * (float(centre_y) - 0.5)) ** 2
    return (1.0 + tilt - 0.12 * fall * (away - 1 / 6)).float()


def spoil_pixels(counts: NDArray[np.float32], *, seed: int, uid: int) -> int:
    """Make some pixels much too bright and a few dead, in place; return how many."""
    mean = float(counts.mean())
    n = poisson_number(
        _HOT_PIXELS_PER_MEGAPIXEL * counts.size / 1e6, float(keyed_random.uniform(seed, "number of bad pixels", uid))
    )
    draws = keyed_random.uniform(seed, "bad pixels", uid, size=(n, 3))
    rows = (draws[:, 0] * counts.shape[0]).astype(int)
    columns = (draws[:, 1] * counts.shape[1]).astype(int)
    counts[rows, columns] = np.where(draws[:, 2] < 0.2, 0.0, mean * (1.5 + 8.0 * draws[:, 2] ** 3))
    return n


def replicate_border(counts: NDArray[np.float32], *, seed: int, uid: int) -> tuple[int, int, int, int]:
    """Overwrite 0 to 12 rows and columns at each border with the first good one, in place.

    Returns
    -------
    Widths at the left, right, top and bottom.
    """
    draws = keyed_random.uniform(seed, "replicated border", uid, size=4)
    left, right, top, bottom = ((_LARGEST_BORDER_PIXEL + 1) * draws**2).astype(int).tolist()
    counts[:top] = counts[top]
    counts[:, :left] = counts[:, left : left + 1]
    counts[counts.shape[0] - bottom :] = counts[counts.shape[0] - bottom - 1]
    counts[:, counts.shape[1] - right :] = counts[:, counts.shape[1] - right - 1 : counts.shape[1] - right]
    return left, right, top, bottom


def poisson_number(mean: float, quantile: float) -> int:
    """Return the number at a quantile in [0, 1) of Poisson's distribution."""
    if mean <= 0:
        return 0
    return max(0, math.ceil(float(pdtrik(quantile, mean))))
