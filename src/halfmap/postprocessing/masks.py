"""Solvent masks: made from a map, inverted, combined, measured."""

import math

import torch
from scipy import ndimage
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import filters
from halfmap.geometry.shapes import raised_cosine_edge
from halfmap.postprocessing.params import MaskParams

_DEVIATIONS = 3.0
_LEAST_SHARE, _MOST_SHARE = 0.15, 0.5  # of the particle's height
_RANGE_TOLERANCE = 0.01  # half-precision files and interpolation leave masks a little outside 0 to 1


def low_passed(volume: Volume, resolution_angstrom: float) -> Volume:
    """Return a map without detail finer than a resolution; the edge is 2 shells wide."""
    grid = volume.grid
    multiplier = filters.low_pass(grid, resolution_angstrom, device=volume.values.device)
    return Volume(values=filters.apply_filter(volume.values, grid, multiplier), grid=grid)


def automatic_threshold(volume: Volume) -> float:
    """Find the grey value above which a low-passed map holds particle.

    Parameters
    ----------
    volume : low-passed, particle bright. The particle must fill less than half of the sphere inscribed in the box.

    Returns
    -------
    The solvent's level plus three times its deviation, but at least 15 and at most 50 % of the particle's height.

    Raises
    ------
    InputError
        The map has one value only.

    Notes
    -----
    Inside the inscribed sphere, the solvent's level is the median of the values, and its deviation the distance from
    there to the quantile that a normal distribution has one deviation below its median. Both look at the dark
    side of the values, which a bright particle does not touch. The particle's height is the 99.9th percentile. The
    lower bound decides in maps of flat solvent, where noise alone would let the ripple of the low-pass filter in.
    """
    radii = volume.grid.radii(device=volume.values.device)
    inside = volume.values[radii <= min(volume.grid.shape) / 2 * volume.grid.pixel_size_angstrom].double()
    values = inside.sort().values
    below, level, height = (float(values[int(share * (len(values) - 1))]) for share in (0.15866, 0.5, 0.999))
    if not float(values[-1]) > float(values[0]):
        raise InputError(f"A map must hold different values to be masked; got {level:g} everywhere; use another map.")
    wanted = max(_DEVIATIONS * (level - below), _LEAST_SHARE * (height - level))
    return level + min(wanted, _MOST_SHARE * (height - level))


def mask_from_map(volume: Volume, params: MaskParams) -> tuple[Volume, float]:
    """Make a solvent mask.

    Parameters
    ----------
    volume : real, shape (z, y, x), particle bright; best the mean of two half maps, not sharpened.

    Returns
    -------
    mask : float32, values from 0 to 1, on the grid of the map.
    threshold : the grey value of the low-passed map that was used.

    Raises
    ------
    InputError
        No voxel or every voxel reaches the threshold, or nothing is left after shrinking.

    Notes
    -----
    Low-pass; voxels at or above the threshold; islands removed; voxels nearer than ``extend`` to one of them added
    (or, negative, those nearer to one outside taken away); a raised-cosine edge outside. With the same threshold and
    ``min_island=0`` this is RELION's `relion_mask_create`, from distances instead of a search around each voxel.
    """
    smooth = low_passed(volume, params.low_pass_angstrom)
    threshold = automatic_threshold(smooth) if params.threshold is None else params.threshold
    inside = smooth.values >= threshold
    n_inside = int(inside.sum())
    if n_inside in (0, inside.numel()):
        low, high = float(smooth.values.min()), float(smooth.values.max())
        raise InputError(
            f"The threshold of a mask must leave some voxels inside and some outside; got {threshold:g} where the "
            f"low-passed map goes from {low:g} to {high:g}; choose one between."
        )
    inside = without_islands(inside, params.min_island)
    pixel_size = volume.grid.pixel_size_angstrom
    inside = extended(inside, params.extend.to_pixel(pixel_size))
    if not inside.any():
        raise InputError(
            f"A mask must hold a voxel after shrinking; got none with --extend {params.extend}; shrink it less."
        )
    return Volume(values=soft_edged(inside, params.soft_edge.to_pixel(pixel_size)), grid=volume.grid), threshold


def automatic_mask(volume: Volume, params: MaskParams | None = None) -> Volume:
    """Make a solvent mask without looking at the map: `mask_from_map` with its defaults."""
    return mask_from_map(volume, params or MaskParams())[0]


def without_islands(inside: Tensor, min_share: float) -> Tensor:
    """Remove connected regions that are small beside the largest one.

    Parameters
    ----------
    inside : bool, shape (z, y, x), some of it True. Voxels that share a face, an edge or a corner are connected.
    min_share : of the largest region's volume, 0 to 1.

    Returns
    -------
    bool, shape of ``inside``.
    """
    if min_share == 0:
        return inside
    labels, _ = ndimage.label(inside.cpu().numpy(), structure=torch.ones(3, 3, 3).numpy())
    numbers = torch.from_numpy(labels).long()
    sizes = torch.bincount(numbers.flatten())
    sizes[0] = 0
    kept = sizes >= max(1.0, min_share * float(sizes.max()))
    return kept[numbers].to(inside.device)


def extended(inside: Tensor, distance_pixel: float) -> Tensor:
    """Grow a region by a distance, or shrink it by a negative one.

    Parameters
    ----------
    inside : bool, shape (z, y, x).
    distance_pixel : voxels whose centres are strictly nearer than this to one of the region (negative: to one outside
        it) change sides, as in RELION.

    Returns
    -------
    bool, shape of ``inside``.
    """
    if distance_pixel == 0:
        return inside
    if distance_pixel < 0:
        return ~extended(~inside, -distance_pixel)
    return inside | (_distance_pixel(inside, distance_pixel) < distance_pixel)


def soft_edged(inside: Tensor, width_pixel: float) -> Tensor:
    """Give a region a raised-cosine edge outside it.

    Returns
    -------
    float32, shape of ``inside``: 1 in the region, ½ + ½ cos(π r / width) at distance r from its nearest voxel.
    """
    if width_pixel == 0:
        return inside.float()
    return raised_cosine_edge(_distance_pixel(inside, width_pixel), width_pixel).float()


def inverted(mask: Volume) -> Volume:
    """Return 1 minus a mask."""
    return Volume(values=1 - mask.values, grid=mask.grid)


def union(first: Volume, second: Volume) -> Volume:
    """Return the larger value of two masks at each voxel: what lies in either."""
    return Volume(values=torch.maximum(first.values, _of_one_shape(first, second)), grid=first.grid)


def intersection(first: Volume, second: Volume) -> Volume:
    """Return the smaller value of two masks at each voxel: what lies in both."""
    return Volume(values=torch.minimum(first.values, _of_one_shape(first, second)), grid=first.grid)


def difference(first: Volume, second: Volume) -> Volume:
    """Return what lies in the first mask and not in the second."""
    return intersection(first, inverted(second))


def volume_angstrom3(mask: Volume) -> float:
    """Return the volume of the voxels with a value above one half, in Å³."""
    return float((mask.values > 0.5).sum()) * mask.grid.pixel_size_angstrom**3


def checked_mask(mask: Volume, name: str = "The mask") -> Volume:
    """Return a mask with values from 0 to 1; what is outside by rounding alone is brought inside.

    Raises
    ------
    InputError
        Values lie outside 0 to 1, are not finite, or none is above 0.5.
    """
    low, high = float(mask.values.min()), float(mask.values.max())
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise InputError(
            f"{name} must hold values from 0 to 1; got {low:g} to {high:g}; make one with `halfmap mask create`."
        )
    if high <= 0.5:
        raise InputError(
            f"{name} must hold values above 0.5; got {high:g} at most; make one with `halfmap mask create`."
        )
    return Volume(values=mask.values.clamp(0, 1), grid=mask.grid)


def _distance_pixel(inside: Tensor, reach_pixel: float) -> Tensor:
    """Return the distance of each voxel to the nearest one inside, float64, in voxels; infinite beyond the reach."""
    far = torch.full(inside.shape, math.inf, dtype=torch.float64, device=inside.device)
    if not inside.any():
        return far
    margin = math.ceil(reach_pixel)
    near = []  # a particle fills a small part of its box, and distances are slow
    for axis in range(3):
        places = torch.nonzero(inside.movedim(axis, 0).flatten(1).any(1)).flatten()
        near.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1))
    distances = ndimage.distance_transform_edt(~inside[tuple(near)].cpu().numpy())
    far[tuple(near)] = torch.from_numpy(distances).to(inside.device)
    return far


def _of_one_shape(first: Volume, second: Volume) -> Tensor:
    if first.grid.shape != second.grid.shape:
        raise ShapeError(
            f"Two masks must have the same sides; got {first.grid.shape} and {second.grid.shape}; use masks of one box."
        )
    return second.values
