"""Local resolution: the FSC in soft spheres around points, and the map filtered by it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import filters, shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.postprocessing import masks
from halfmap.postprocessing.half_map_fsc import (
    check_halves,
    check_same_grid,
    corrected_fsc,
    random_phases,
    resolution_angstrom,
    shell_resolution_angstrom,
)
from halfmap.postprocessing.params import LocalResolutionParams

_VALUES_AT_ONCE = 1 << 22
_BYTES_OF_A_WINDOW_S_VALUE = 60  # with its transform and products in float64
_FILTER_LEVELS = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalResolution:
    """The resolution of a map from place to place.

    Parameters
    ----------
    resolution : Å at each voxel, float32; the worst resolution where no point is near.
    points_pixel : voxels (x, y, z) at which the FSC was measured; int64, shape (n, 3).
    point_resolution_angstrom : there; float64, shape (n,).
    n_at_worst : points at which the FSC was below the threshold before the worst resolution allowed.
    n_at_finest : points at which it stood above it to the end of the half maps' band.
    """

    resolution: Volume
    points_pixel: Tensor
    point_resolution_angstrom: Tensor
    n_at_worst: int
    n_at_finest: int = 0


def sampling_points(mask: Volume, step_angstrom: float) -> Tensor:
    """Return the voxels of a lattice through the centre voxel that lie in a mask.

    Returns
    -------
    int64, shape (n, 3), components (x, y, z), counted from the first voxel.

    Raises
    ------
    InputError
        None lies in it.
    """
    grid = mask.grid
    step = max(1, round(step_angstrom / grid.pixel_size_angstrom))
    axes = [torch.arange(side // 2 % step, side, step) for side in grid.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    inside = mask.values.cpu()[z, y, x] > 0.5
    points = torch.stack([x[inside], y[inside], z[inside]], dim=1)
    if not len(points):
        raise InputError(
            f"A mask must hold points of a lattice of {step_angstrom:g} Å; got none; give a mask that "
            "holds the particle, or a smaller --step."
        )
    return points


def window_side(grid: ImageGrid, params: LocalResolutionParams) -> int:
    """Return the side of the window around a point, in voxels: even, and as wide as the sphere with its edge."""
    reach = (params.radius_angstrom + params.sphere_edge_angstrom) / grid.pixel_size_angstrom
    return 2 * math.ceil(reach)


def memory_bytes(grid: ImageGrid, params: LocalResolutionParams) -> int:
    """Return the memory that `local_resolution` needs beside the maps it is given, in bytes.

    Four float32 maps, padded by a window, and the largest of: 14 maps of float64 while phases are made random; a
    batch of windows, 60 bytes for each of at most 4 million values, or of one window if that is larger; three padded
    maps of float64 while values are spread between the points.
    """
    side = window_side(grid, params)
    n_padded = math.prod(extent + side for extent in grid.shape)
    windows = _BYTES_OF_A_WINDOW_S_VALUE * max(_VALUES_AT_ONCE, 4 * side**3)
    return 16 * n_padded + max(14 * 8 * grid.n_pixels, windows, 3 * 8 * n_padded)


def local_resolution(
    half1: Volume,
    half2: Volume,
    mask: Volume,
    params: LocalResolutionParams | None = None,
    *,
    band_shell: int | None = None,
    seed: int = 1,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] | None = None,
) -> LocalResolution:
    """Measure the resolution from place to place.

    Parameters
    ----------
    half1, half2 : unfiltered maps of independent halves, on one grid.
    mask : the points are where it exceeds 0.5; it does not enter the FSC.
    band_shell : last shell of the box that the half maps hold data of; no resolution is finer. None: all hold data.
    seed : of the random phases.
    device : on which windows are transformed.
    advance : called with the number of points after each batch.

    Returns
    -------
    LocalResolution

    Raises
    ------
    InconsistentDataError
        The maps do not go together.
    InputError
        The mask holds no point, or the sphere is too small for phases to be made random within it.

    Notes
    -----
    At each point both half maps are multiplied by a soft sphere and correlated; the FSC is corrected by that of the
    half maps with random phases in the same sphere, and read where it first falls below the threshold. Since nothing
    outside the sphere counts, only a window as wide as the sphere is transformed, and points are batched. Windows are
    float32, sums over shells float64. Between points, limiting frequencies are averaged with the spheres as weights.
    This is the measure of RELION's own local resolution.

    References
    ----------
    Cardone, Heymann, Steven 2013, J. Struct. Biol. 184, 226.
    """
    params = params or LocalResolutionParams()
    check_halves(half1, half2)
    check_same_grid(mask, half1, "The mask", "the half maps")
    grid = half1.grid
    pixel_size = grid.pixel_size_angstrom
    side = window_side(grid, params)
    window_grid = ImageGrid.cubic(side, pixel_size)
    if params.randomise_from_angstrom <= 2 * pixel_size:
        raise InputError(
            f"--randomise-from must be a lower resolution than the Nyquist frequency, {2 * pixel_size:g} Å; got "
            f"{params.randomise_from_angstrom:g} Å; choose a larger one."
        )
    if side * pixel_size < params.randomise_from_angstrom:
        raise InputError(
            f"--radius and --sphere-edge together must reach half of --randomise-from, "
            f"{params.randomise_from_angstrom / 2:g} Å; got {side * pixel_size / 2:g} Å; make the sphere larger."
        )
    points = sampling_points(masks.checked_mask(mask), params.step_angstrom)
    sphere = soft_sphere(window_grid, params.radius_angstrom, params.sphere_edge_angstrom, device=device)
    # the first random shell of the whole box and of the window lie at one frequency
    box_shell = max(1, math.floor(max(grid.shape) * pixel_size / params.randomise_from_angstrom))
    window_shell = max(1, math.floor(side * pixel_size / params.randomise_from_angstrom))
    half_side = side // 2
    padded = torch.zeros([4, *(extent + side for extent in grid.shape)])
    inner = padded[:, *(slice(half_side, half_side + extent) for extent in grid.shape)]
    for number, half in enumerate((half1, half2)):
        inner[number] = half.values
        transform = grid.rfft(half.values.double())
        inner[2 + number] = grid.irfft(random_phases(transform, grid, box_shell, seed=seed, half=number + 1))
        del transform
    padded = padded.to(device)

    at_once = max(1, _VALUES_AT_ONCE // (4 * side**3))
    slowest = 1 / params.worst_resolution_angstrom
    frequency = torch.empty(len(points), dtype=torch.float64)
    for start in range(0, len(points), at_once):
        batch = points[start : start + at_once]
        windows = torch.stack([padded[:, z : z + side, y : y + side, x : x + side] for x, y, z in batch.tolist()])
        transforms = window_grid.rfft(windows * sphere)
        curve, noise = (shells.fsc(transforms[:, k], transforms[:, k + 1], window_grid).cpu() for k in (0, 2))
        curve[:, 0] = 1.0
        for row, corrected in enumerate(corrected_fsc(curve, noise, window_shell), start=start):
            frequency[row] = 1 / resolution_angstrom(corrected, window_grid, params.fsc_threshold)
        if advance is not None:
            advance(len(batch))
    del padded, inner
    n_at_worst = int((frequency <= slowest).sum())
    fastest = math.inf if band_shell is None else 1 / shell_resolution_angstrom(band_shell, grid)
    n_at_finest = int((frequency >= fastest).sum())
    frequency.clamp_(min=slowest, max=max(slowest, fastest))

    field = _between_points(frequency, points, sphere.cpu(), grid, slowest)
    return LocalResolution(
        resolution=Volume(values=(1 / field).float(), grid=grid),
        points_pixel=points,
        point_resolution_angstrom=1 / frequency,
        n_at_worst=n_at_worst,
        n_at_finest=n_at_finest,
    )


def locally_filtered(volume: Volume, resolution: Volume, *, edge_width: float = 2.0) -> Volume:
    """Low-pass a map at each voxel by its own resolution.

    Parameters
    ----------
    volume : sharpened, not low-passed.
    resolution : Å at each voxel, on the same grid.
    edge_width : width of the filters' edges in shells.

    Returns
    -------
    Volume, float32

    Notes
    -----
    The map is low-passed at up to 24 frequencies evenly spread over those that occur, and each voxel interpolated
    linearly between its two neighbours; two maps are held at a time.
    """
    check_same_grid(resolution, volume, "The local resolution", "the map")
    grid = volume.grid
    frequency = 1 / resolution.values.double()
    low, high = float(frequency.min()), float(frequency.max())
    spacing = 1 / (max(grid.shape) * grid.pixel_size_angstrom)
    n_levels = min(_FILTER_LEVELS, max(2, math.ceil((high - low) / spacing) + 1))
    step = (high - low) / (n_levels - 1) or spacing
    place = (frequency - low) / step
    transform = grid.rfft(volume.values)
    filtered = torch.zeros_like(volume.values)
    for level in range(n_levels):
        weight = (1 - (place - level).abs()).clamp_min(0)
        if bool((weight > 0).any()):
            multiplier = filters.low_pass(grid, 1 / (low + level * step), edge_width)
            filtered += (grid.irfft(transform * multiplier) * weight).float()
    return Volume(values=filtered, grid=grid)


def _between_points(frequency: Tensor, points: Tensor, sphere: Tensor, grid: ImageGrid, outside: float) -> Tensor:
    """Average values of points with the sphere around each as weight; float64, shape of the grid."""
    side = sphere.shape[0]
    half = side // 2
    total = torch.zeros([extent + side for extent in grid.shape], dtype=torch.float64)
    weight = torch.zeros_like(total)
    sphere = sphere.double()
    for value, (x, y, z) in zip(frequency.tolist(), points.tolist(), strict=True):
        window = (slice(z, z + side), slice(y, y + side), slice(x, x + side))
        total[window] += value * sphere
        weight[window] += sphere
    inner = tuple(slice(half, half + extent) for extent in grid.shape)
    total, weight = total[inner], weight[inner]
    known = weight > 1e-6
    return torch.where(known, total / weight.clamp_min(1e-6), torch.full_like(total, outside))
