"""Where a map's symmetry axes lie, and how it must be turned and moved so that they lie where its group has them."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.fourier.resample import rescale, shift
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.geometry.symmetry import operators
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.grid import ImageGrid
from halfmap.tensors import Rotations, Volumes

COARSE_DETAILS = 6.0
"""The first search sees details of a sixth of the particle's diameter: what moves by less than their size from one
orientation of its grid to the next."""

FINE_DETAILS = 16.0
"""The last one sees details of a sixteenth of the diameter, or what the map's sampling holds."""

_ORDER = 3
_DIRECTIONS_ORDER = 4
_CANDIDATES = 5
_LAYERS = 10
_COARSE_POINTS = 500
_FINE_POINTS = 4000
_ROTATED_POINTS_AT_ONCE = 1 << 20
_FARTHEST = 0.08
"""Share of the particle's diameter that an axis may lie from the middle of the density, in x, y and z each; farther off
the points of comparison leave the particle, and emptiness is symmetric."""

_OUTER_SHELL = 0.5
"""Density of an outer shell over that of the densest from which on it belongs to a round particle."""

_LEAST_WEIGHT = 1e-9
"""What a radius counts at least, so that one without voxels has a mean."""

_DENSE = 0.3
"""Density above this share of the strongest belongs to the particle when its middle and size are measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SymmetryAxes:
    """How a map must be turned and moved.

    Parameters
    ----------
    rotation : M, float64, shape (3, 3): the aligned map at v is the map at M v + centre. Orientations A of particles of
        the map become A M.
    centre_angstrom : (x, y, z) of the point of the map that becomes the centre, float64, shape (3,); for C groups,
        whose axis it may lie anywhere on, its height is that of the particle's middle.
    correlation : of the aligned map, low-passed and without its radial mean, with the mean of its copies turned by the
        group's rotations: 1 where the map has the symmetry, 1/√g for noise, g the group's order.
    resolution_angstrom : of that low-pass.
    """

    rotation: Rotations
    centre_angstrom: Tensor
    correlation: float
    resolution_angstrom: float


def find_axes(
    volume: Volumes, grid: ImageGrid, symmetry: str, *, resolution_angstrom: float | None = None
) -> SymmetryAxes:
    """Find a map's symmetry axes.

    Parameters
    ----------
    volume : real, shape (z, y, x); density positive.
    grid : cubic.
    symmetry : point group, not C1.
    resolution_angstrom : of the details that the axes are at last found by; `FINE_DETAILS` of the particle's diameter
        where left out.

    Returns
    -------
    `SymmetryAxes`

    Raises
    ------
    InputError
        The group is C1, or the map empty.

    Notes
    -----
    Maximises the correlation of V(M p + c) with its mean ⟨V(M S p + c)⟩ over the rotations S of the group, p within the
    particle, V without its radial mean. The start is the middle of the density, which lies on every axis of a symmetric
    particle; M goes over a grid of all orientations that the group tells apart, 7.5° apart, on a map of few voxels. The
    best of them, apart from one another, are refined together with c, then the best of these at finer details.

    Settings that a group leaves open, as up and down of C, or which twofold axis of D2 is z, are all equally right, and
    so are several where the map has more symmetry than asked for; the first of the best is returned.
    """
    group = canonical_name(symmetry)
    if group == "C1":
        raise InputError("A symmetry whose axes are to be found must have some; got C1; give C2, D2, O …")
    grid.check(volume, "volume")
    values = volume.detach().cpu().double()
    middle, diameter = density_extent(values, grid)
    finest = 2.5 * grid.pixel_size_angstrom
    coarse = max(diameter / COARSE_DETAILS, finest)
    fine = max(diameter / FINE_DETAILS, finest) if resolution_angstrom is None else max(resolution_angstrom, finest)
    coarse = max(coarse, fine)
    rough = _Density.of(values, grid, coarse, diameter, _COARSE_POINTS)
    ops = operators(group)
    candidates = _searched(rough, ops, group, middle)
    refined = [_refined(rough, ops, rotation, middle) for rotation in candidates]
    score, rotation, centre = max(refined, key=lambda one: one[0])
    detailed = _Density.of(values, grid, fine, diameter, _FINE_POINTS)
    score, rotation, centre = _refined(detailed, ops, rotation, centre)
    if group[0] == "C":  # anywhere on the axis is as good: take the point nearest to the particle's middle
        axis = rotation[:, 2]
        centre = centre + axis * torch.dot(middle - centre, axis)
    return SymmetryAxes(rotation=rotation, centre_angstrom=centre, correlation=score, resolution_angstrom=fine)


def in_nearest_setting(axes: SymmetryAxes, symmetry: str) -> SymmetryAxes:
    """Return the same axes such that the map turns least, of the settings that its group leaves open.

    Parameters
    ----------
    symmetry : of the axes.

    Notes
    -----
    Settings are what rotations N with N⁻¹ G N = G make of one another: those of the group itself, for C also any turn
    about z and up for down, for D2 those of O, for other D half a step about z, for T a quarter turn about twofold
    axes.
    """
    group = canonical_name(symmetry)
    ops = operators(group)
    x_axis, _, z_axis = torch.eye(3, dtype=torch.float64)
    if group[0] == "C":
        upside_down = torch.stack([torch.eye(3, dtype=torch.float64), matrix_from_rotation_vector(math.pi * x_axis)])
        found = axes.rotation @ upside_down
        angle = torch.atan2(found[:, 0, 1] - found[:, 1, 0], found[:, 0, 0] + found[:, 1, 1])
        settings = found @ matrix_from_rotation_vector(angle[:, None] * z_axis)
    else:
        half_step = matrix_from_rotation_vector(z_axis * math.pi * 2 / len(ops))
        along = torch.linalg.eigh(ops[(ops.diagonal(dim1=-2, dim2=-1).sum(-1) + 1).abs() < 1e-6])[1][..., 2]
        quarter_turn = matrix_from_rotation_vector(along[0] * math.pi / 2)
        changes = torch.cat([ops, operators("O"), half_step @ ops, quarter_turn @ ops])
        conjugates = changes.mT[:, None] @ ops @ changes[:, None]
        away = (conjugates[:, :, None] - ops).abs().amax((-2, -1)).amin(-1).amax(-1)
        settings = axes.rotation @ changes[away < 1e-6]
    least = settings.diagonal(dim1=-2, dim2=-1).sum(-1).argmax()
    return replace(axes, rotation=settings[least])


def aligned(volume: Volumes, grid: ImageGrid, axes: SymmetryAxes) -> Volumes:
    """Return a map turned and moved so that its axes lie where its group has them.

    Parameters
    ----------
    volume : real, shape (z, y, x).
    grid : cubic.

    Returns
    -------
    Shape and dtype of ``volume``; what comes from outside the box is 0.
    """
    centred = shift(volume.double(), grid, -axes.centre_angstrom)
    return rotate_volume(centred.to(volume.dtype), grid, axes.rotation)


def density_extent(volume: Volumes, grid: ImageGrid) -> tuple[Tensor, float]:
    """Return the middle of a map's density, (x, y, z) in Å from the centre voxel, and the particle's diameter in Å.

    Raises
    ------
    InputError
        There is no positive density.
    """
    values = volume.double()
    passed = apply_filter(values, grid, low_pass(grid, 8 * grid.pixel_size_angstrom, dtype=torch.float64))
    dense = (passed - _DENSE * passed.max()).clamp(min=0)
    total = dense.sum()
    if not bool(total > 0) or not bool(torch.isfinite(total)):
        raise InputError("A map of a particle must hold positive density; got none; invert its contrast.")
    axis = (torch.arange(grid.side, dtype=torch.float64) - grid.side // 2) * grid.pixel_size_angstrom
    middle = torch.stack(
        [(dense.sum(dim=others) * axis).sum() / total for others in ((0, 1), (0, 2), (1, 2))]
    )  # over all but x, y and z in turn
    z, y, x = torch.meshgrid(axis - middle[2], axis - middle[1], axis - middle[0], indexing="ij")
    distance = (x.square() + y.square() + z.square()).sqrt()[dense > 0]
    box = grid.side * grid.pixel_size_angstrom
    return middle, min(2 * float(distance.quantile(0.98)) + 2 * grid.pixel_size_angstrom, box)


def radius_of_round(volume: Volumes, grid: ImageGrid) -> float:
    """Return the radius of a nearly round particle in Å: where the mean over all directions has fallen to 0.

    Notes
    -----
    Outwards from where the mean times the radius is largest, since so weighted the noise of a map is alike in all
    shells; and from beyond a gap where an outer shell is at least half as dense, as neighbours, which are seen on some
    sides alone, are not. Between voxels by a straight line; half the box where the mean does not fall that far.
    """
    radius = (grid.positions().norm(dim=-1) / grid.pixel_size_angstrom).round().long().flatten()
    number = torch.bincount(radius)
    last = grid.side // 2
    mean = (torch.bincount(radius, weights=volume.double().flatten()) / number)[: last + 1]
    peak = int((mean * torch.arange(last + 1)).argmax())
    dense = torch.nonzero(mean >= _OUTER_SHELL * mean[peak].clamp(min=0)).flatten()
    outermost = int(dense.max()) if len(dense) else last
    beyond = torch.nonzero(mean[outermost:] <= 0).flatten()
    if not len(beyond):
        return last * grid.pixel_size_angstrom
    end = outermost + int(beyond[0])
    above, below = float(mean[max(end - 1, 0)]), float(mean[end])
    return (end - (below / (below - above) if above > 0 else 0.0)) * grid.pixel_size_angstrom


def without_round_part(volume: Volumes, grid: ImageGrid) -> Volumes:
    """Return a map less its mean over all directions about the centre voxel.

    Parameters
    ----------
    volume : real, shape (z, y, x).
    grid : cubic.

    Returns
    -------
    float64, shape of ``volume``.

    Notes
    -----
    The mean is the function of the radius, straight between whole voxels, that is nearest to the map.
    """
    radius = (grid.positions().norm(dim=-1) / grid.pixel_size_angstrom).flatten()
    values = volume.double().flatten()
    below = radius.long()
    share = radius - below
    n = int(below.max()) + 2
    diagonal, beside, right = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
    for at, part in ((below, 1 - share), (below + 1, share)):
        diagonal.index_add_(0, at, part.square())
        right.index_add_(0, at, part * values)
    beside.index_add_(0, below, share * (1 - share))
    normal = torch.diag(diagonal + _LEAST_WEIGHT) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    mean = torch.linalg.solve(normal, right)
    return (values - (1 - share) * mean[below] - share * mean[below + 1]).reshape(volume.shape)


def share_off_round(volume: Volumes, grid: ImageGrid, symmetry: str, radius_angstrom: float) -> float:
    """Return the share of a map's power that is lost where the map is turned into its mean over all directions.

    Parameters
    ----------
    volume : real, shape (z, y, x), its solvent at 0.
    grid : cubic.
    symmetry : point group that is imposed first.
    radius_angstrom : of the sphere about the centre voxel that is looked at.

    Returns
    -------
    0 for a ball, about 0.4 for β-galactosidase at 60 Å.
    """
    pixel = grid.pixel_size_angstrom
    last = max(1, min(int(radius_angstrom / pixel), grid.side // 2 - 1))
    radii = torch.arange(1, last + 1, dtype=torch.float64) * pixel
    lattice = OrientationGrid(_DIRECTIONS_ORDER)
    directions = lattice.directions(lattice.direction_numbers(symmetry))
    density = _Density(values=volume.detach().cpu().float(), grid=grid, points=radii[:, None, None] * directions)
    turned = torch.einsum("gij,rdj->rdgi", operators(symmetry), density.points)
    values = density.at(turned).double().mean(-1)
    area = radii.square()
    power = float((area * values.square().mean(1)).sum())
    return float((area * values.var(1, correction=0)).sum()) / power if power > 0 else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Density:
    """A low-passed map on few voxels, and the points within the particle at which it is compared.

    Points are spread over the ball of the particle evenly, in Å from its middle, ordered by their distance from it.
    """

    values: Tensor
    grid: ImageGrid
    points: Tensor

    @classmethod
    def of(
        cls, values: Tensor, grid: ImageGrid, resolution_angstrom: float, diameter_angstrom: float, n_points: int
    ) -> "_Density":
        # linear interpolation wants some four samples in the smallest detail
        side = min(grid.side, 2 * math.ceil(2 * grid.side * grid.pixel_size_angstrom / resolution_angstrom))
        passed = apply_filter(values, grid, low_pass(grid, resolution_angstrom, dtype=torch.float64))
        small, small_grid = rescale(passed, grid, side)
        return cls(values=small.float(), grid=small_grid, points=_ball(n_points) * 0.5 * diameter_angstrom)

    def at(self, points: Tensor) -> Tensor:
        """Return the density at points in Å from the centre voxel, shape (..., 3); 0 outside the box."""
        n = self.grid.side
        place = (points / self.grid.pixel_size_angstrom + n // 2) * (2 / (n - 1)) - 1
        flat = place.reshape(1, 1, 1, -1, 3).to(self.values.dtype)
        found = torch.nn.functional.grid_sample(self.values[None, None], flat, align_corners=True)
        return found.reshape(points.shape[:-1])

    def scores(self, ops: Tensor, rotations: Rotations, centre: Tensor) -> Tensor:
        """Return the correlation of the turned map with its symmetrised self, shape (n,), for n rotations."""
        turned = torch.einsum("nij,gjk,pk->ngpi", rotations, ops, self.points) + centre
        values = self.at(turned).double().unflatten(2, (_LAYERS, -1))
        # what is round about the centre is the same however it is turned
        values = (values - values.mean(dim=(1, 3), keepdim=True)).flatten(2)
        mean = values.mean(1)
        return (mean.square().sum(-1) / values.square().sum(-1).mean(1).clamp(min=1e-30)).sqrt()


def _ball(n: int) -> Tensor:
    """Return n points spread evenly over the unit ball, always the same, float64, shape (n, 3)."""
    k = torch.arange(n, dtype=torch.float64) + 0.5
    # additive recurrence of the plastic number's cubic analogue: no gaps, no lattice that rotations might prefer
    g = 1.2207440846057596
    u = torch.stack([(k / g**power) % 1.0 for power in (1, 2, 3)])
    radius, height, angle = u[0].sort().values ** (1 / 3), 2 * u[1] - 1, 2 * math.pi * u[2]
    across = (1 - height.square()).clamp(min=0).sqrt()
    return torch.stack([radius * across * angle.cos(), radius * across * angle.sin(), radius * height], dim=-1)


def _searched(density: _Density, ops: Tensor, group: str, centre: Tensor) -> list[Rotations]:
    """Return the best rotations of a grid, apart from one another."""
    lattice = OrientationGrid(_ORDER)
    rotations = lattice.rotations(lattice.numbers(group))
    # one orientation of C groups stands for all that differ by a turn about the axis
    if group[0] == "C":
        rotations = rotations[_distinct_axes(rotations, lattice.spacing_degrees)]
    at_once = max(1, _ROTATED_POINTS_AT_ONCE // (len(ops) * len(density.points)))
    scores = torch.cat([density.scores(ops, part, centre) for part in rotations.split(at_once)])
    found: list[Rotations] = []
    apart = math.radians(2.5 * lattice.spacing_degrees)
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        axis_apart = [_apart_rad(rotations[i], known, ops, group) for known in found]
        if all(distance > apart for distance in axis_apart):
            found.append(rotations[i])
        if len(found) == _CANDIDATES:
            break
    return found


def _distinct_axes(rotations: Rotations, spacing_degrees: float) -> Tensor:
    """Return numbers of rotations that put the z axis at all directions of half a sphere, one each."""
    axes = rotations[:, :, 2]
    axes = torch.where(axes[:, 2:] < 0, -axes, axes)
    cell = (axes / math.radians(0.5 * spacing_degrees)).round().long()
    _, first = np.unique(cell.numpy(), axis=0, return_index=True)
    return torch.from_numpy(np.sort(first))


def _apart_rad(first: Rotations, second: Rotations, ops: Tensor, group: str) -> float:
    if group[0] == "C":
        return math.acos(min(1.0, abs(float(first[:, 2] @ second[:, 2]))))
    trace = torch.einsum("ij,gjk,ik->g", second, ops, first)
    return float(torch.arccos(((trace.max() - 1) / 2).clamp(-1, 1)))


def _refined(density: _Density, ops: Tensor, rotation: Rotations, centre: Tensor) -> tuple[float, Rotations, Tensor]:
    """Return the nearest maximum: its correlation, rotation and centre."""
    # so scaled, a unit is some details' size in rotation and in translation alike
    unit = 2 * density.grid.pixel_size_angstrom
    radius = float(density.points.norm(dim=-1).max())

    def place(values: Tensor) -> tuple[Rotations, Tensor]:
        turn = matrix_from_rotation_vector(values[:3] * (unit / radius))
        return rotation @ turn, centre + values[3:] * unit

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(values).requires_grad_()
        turned, moved = place(at)
        score = density.scores(ops, turned[None], moved)[0]
        (gradient,) = torch.autograd.grad(score, at)
        return -float(score.detach()), -gradient.numpy()

    found = minimize(
        objective,
        np.zeros(6),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-4.0, 4.0)] * 3 + [(-2 * _FARTHEST * radius / unit, 2 * _FARTHEST * radius / unit)] * 3,
        options={"ftol": 1e-9, "gtol": 1e-5, "maxiter": 40},
    )
    turned, moved = place(torch.from_numpy(np.asarray(found.x)))
    return -float(found.fun), turned, moved
