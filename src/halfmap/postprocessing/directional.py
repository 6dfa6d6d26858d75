"""The FSC in cones around directions: does the resolution depend on where one looks from?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from astropy_healpix.healpy import vec2pix
from scipy.spatial import ConvexHull
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier import shells
from halfmap.geometry.healpix import OrientationGrid
from halfmap.grid import ImageGrid
from halfmap.postprocessing.half_map_fsc import (
    THRESHOLD,
    corrected_fsc,
    resolution_angstrom,
    shell_resolution_angstrom,
)
from halfmap.tensors import VolumesRfft

_CONE_ORDER = 2  # 192 directions about 15° apart, 96 of them on the half sphere
_CELL_ORDER = 4  # cells of 3.7°: far narrower than any cone
_FEWEST_COEFFICIENTS = 20  # of the whole transform, mates included


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectionalFsc:
    """Correlations of two half maps in cones.

    Parameters
    ----------
    directions : axes of the cones, unit vectors (x, y, z) with z ≥ 0; float64, shape (n, 3). A cone and its mirror
        image through the origin are one.
    curves : FSC in each cone, float64, shape (n, n_shells).
    resolution_angstrom : where each curve first falls below 0.143; float64, shape (n,). Infinite where it begins below.
    cone_half_angle_degrees : of the cones.
    """

    directions: Tensor
    curves: Tensor
    resolution_angstrom: Tensor
    cone_half_angle_degrees: float

    @property
    def best_angstrom(self) -> float:
        """The finest resolution of any direction."""
        return float(self.resolution_angstrom.min())

    @property
    def worst_angstrom(self) -> float:
        """The coarsest resolution of any direction."""
        return float(self.resolution_angstrom.max())

    @property
    def worst_direction(self) -> Tensor:
        """Unit vector (x, y, z) of the coarsest resolution."""
        return self.directions[int(self.resolution_angstrom.argmax())]

    @property
    def anisotropy(self) -> float:
        """Standard deviation of the limiting frequency over directions, as a share of its mean."""
        frequency = 1 / self.resolution_angstrom
        return float(frequency.std(correction=0) / frequency.mean())

    @property
    def sphericity(self) -> float:
        """How nearly the solid of limiting frequencies is a sphere: 1 where all directions are alike.

        Notes
        -----
        Surface of a sphere of the solid's volume over the solid's surface, (36 π V²)^⅓ / A, after Tan et al. 2017. The
        solid is the polyhedron of the directions and their mirror images, so the figure is divided by that of equal
        frequencies.
        """
        return _sphericity(self.directions, 1 / self.resolution_angstrom) / _sphericity(
            self.directions, torch.ones_like(self.resolution_angstrom)
        )


def directional_fsc(
    first: VolumesRfft,
    second: VolumesRfft,
    grid: ImageGrid,
    *,
    cone_half_angle_degrees: float = 20.0,
    randomised: Tensor | None = None,
    randomise_from_shell: int | None = None,
    band_shell: int | None = None,
) -> DirectionalFsc:
    """Correlate two transforms in cones around directions.

    Parameters
    ----------
    first, second : complex, shape ``grid.rfft_shape``, of `ImageGrid.rfft`; best of masked half maps.
    grid : of equal sides.
    cone_half_angle_degrees : 20 is usual. Cones overlap: their axes lie about 15° apart.
    randomised, randomise_from_shell : FSC of maps with random phases, shape (n_shells,), and its first random shell, by
        which every cone is corrected; None corrects nothing.
    band_shell : last shell that the maps hold data of; beyond it curves are 0. None: all do.

    Returns
    -------
    DirectionalFsc

    Raises
    ------
    InputError
        An angle that is not between 0 and 90°.

    Notes
    -----
    Coefficients are summed once into HEALPix cells of 3.7° on a half sphere and shells; a cone is a sum of cells. Sums
    are averaged over three neighbouring shells with weights 1, 2, 1: a cone of 20° holds 6 % of a shell, too few for a
    curve that crosses a threshold but once. In low shells, where a cone holds fewer than 20 of these, it takes the FSC
    of the whole shell.

    References
    ----------
    Tan et al. 2017, Nature Methods 14, 793 (3DFSC), for cones and sphericity.
    """
    if not 0 < cone_half_angle_degrees < 90:
        raise InputError(
            f"The half angle of a cone must lie between 0 and 90°; got {cone_half_angle_degrees}°; use 20."
        )
    directions = _half_sphere(OrientationGrid(_CONE_ORDER).directions())
    n_shells = shells.n_shells(grid)
    sums = _smoothed(_cell_sums(first, second, grid))  # (4, cells, shells): cross, first, second, number
    cells = OrientationGrid(_CELL_ORDER).directions()
    in_cone = (directions @ cells.T).abs() >= math.cos(math.radians(cone_half_angle_degrees))
    cross, one, other, number = in_cone.double() @ sums
    norm = torch.sqrt(one * other)
    whole = sums.sum(1)
    tiny = torch.finfo(torch.float64).tiny
    whole_curve = whole[0] / torch.sqrt(whole[1] * whole[2]).clamp_min(tiny)
    curves = torch.where(number >= _FEWEST_COEFFICIENTS, cross / norm.clamp_min(tiny), whole_curve)
    curves[:, 0] = 1.0
    if randomised is not None and randomise_from_shell is not None:
        curves = corrected_fsc(curves, randomised, randomise_from_shell)
    end = n_shells - 1 if band_shell is None else band_shell
    curves[:, end + 1 :] = 0.0
    finest = shell_resolution_angstrom(end, grid)
    found = [max(finest, resolution_angstrom(curve, grid, THRESHOLD)) for curve in curves]
    assert curves.shape == (len(directions), n_shells)
    return DirectionalFsc(
        directions=directions,
        curves=curves,
        resolution_angstrom=torch.tensor(found, dtype=torch.float64),
        cone_half_angle_degrees=cone_half_angle_degrees,
    )


def _cell_sums(first: VolumesRfft, second: VolumesRfft, grid: ImageGrid) -> Tensor:
    """Return Σ Re(a b*), Σ|a|², Σ|b|² and Σ 1 in each cell and shell, float64, shape (4, cells, shells)."""
    n_shells, n_cells = shells.n_shells(grid), OrientationGrid(_CELL_ORDER).n_directions
    index = shells.shell_index(grid)
    weight = shells.multiplicity(grid).expand(grid.rfft_shape)
    frequencies = grid.frequencies()
    sums = torch.zeros(4, n_cells * n_shells, dtype=torch.float64)
    for z in range(grid.shape[0]):  # plane by plane, so that directions need no memory to speak of
        inside = (index[z] > 0) & (index[z] < n_shells)
        vectors = frequencies[z][inside]
        upward = torch.where(vectors[:, 2:] < 0, -vectors, vectors).numpy()
        cell = torch.from_numpy(np.asarray(vec2pix(2**_CELL_ORDER, *upward.T, nest=True))).long()
        place = cell * n_shells + index[z][inside]
        a, b, count = (values[z][inside] for values in (first, second, weight))
        products = (a.real * b.real + a.imag * b.imag, a.abs().square(), b.abs().square(), torch.ones_like(count))
        for row, product in zip(sums, products, strict=True):
            row.index_add_(0, place, product.double() * count)
    return sums.reshape(4, n_cells, n_shells)


def _smoothed(sums: Tensor) -> Tensor:
    """Average over three neighbouring shells with weights 1, 2, 1; the first and the last but over two."""
    smoothed = sums / 2
    smoothed[..., 1:] += sums[..., :-1] / 4
    smoothed[..., :-1] += sums[..., 1:] / 4
    return smoothed


def _half_sphere(directions: Tensor) -> Tensor:
    """Return one of each pair of opposite directions."""
    z = directions[:, 2]
    on_equator = z.abs() < 1e-9
    y, x = directions[:, 1], directions[:, 0]
    upper = torch.where(on_equator, (y > 1e-9) | ((y.abs() <= 1e-9) & (x > 0)), z > 0)
    return directions[upper]


def _sphericity(directions: Tensor, radius: Tensor) -> float:
    if not bool((radius > 0).all()):
        return 0.0
    unit = torch.cat([directions, -directions]).numpy()
    triangles = ConvexHull(unit).simplices
    corners = (unit * torch.cat([radius, radius]).numpy()[:, None])[triangles]
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    volume = float(np.abs(np.einsum("ij,ij->i", a, np.cross(b, c))).sum()) / 6
    surface = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    return (36 * math.pi * volume**2) ** (1 / 3) / surface
