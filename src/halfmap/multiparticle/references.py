"""References for refinement: each half-map filtered by what the other confirms, joined at low resolution only."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import shells, slices
from halfmap.fourier.resample import crop_or_pad, rescale
from halfmap.geometry.shapes import soft_sphere
from halfmap.postprocessing import masks
from halfmap.postprocessing.half_map_fsc import check_halves, check_same_grid

JOIN_ANGSTROM = 40.0
"Coarser than this, both halves have one reference, so that they stay in one orientation."
FIELD = 1.25
"Side of a reference over its particle's diameter; padding doubles it."
BEYOND = 1.1
"""How far references reach beyond the frequency that images are compared up to: a slice that ended there would be best
fitted by a magnification that takes its end in."""
_MASK_GROWTH_PIXEL = 3.0
_MASK_EDGE_PIXEL = 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferencePair:
    """What particles of each half-set are compared with.

    Parameters
    ----------
    halves : of half-sets 1 and 2.
    resolution_angstrom : up to which images are compared with them; they hold `BEYOND` times the frequency.
    signal : float64, shape (n_shells,)
        By which each shell was multiplied: the FSC of the masked halves, the signal's share of a half-map's power.
    """

    halves: tuple[slices.PaddedTransform, slices.PaddedTransform]
    resolution_angstrom: float
    signal: Tensor


def reference_pair(
    half1: Volume,
    half2: Volume,
    resolution_angstrom: float,
    *,
    diameter_angstrom: float,
    mask: Volume | None = None,
    join_angstrom: float = JOIN_ANGSTROM,
    padding: int = 2,
) -> ReferencePair:
    """Make the references of a species.

    Parameters
    ----------
    half1, half2 : unfiltered half-maps.
    resolution_angstrom : up to which images will be compared; maps are cut off beyond it, and sampled as coarsely as
        they can be.
    diameter_angstrom : of the particle; references end with it.
    mask : of the molecule, 0 to 1; its edge is softened. None for a sphere of the diameter.
    join_angstrom : see `JOIN_ANGSTROM`.
    padding : of `halfmap.fourier.slices.prepare`.

    Raises
    ------
    InconsistentDataError
        Halves or mask are not on one grid.
    InputError
        The resolution is finer than the maps can hold; or they have nothing in common.

    Notes
    -----
    A half-map is signal and noise of its own; what estimates the signal best is the half-map times their FSC
    (Wiener's filter). The mean of both, below the join, has twice the ratio of signal to noise and is multiplied by
    2 FSC / (1 + FSC).
    """
    check_halves(half1, half2)
    grid = half1.grid
    if not resolution_angstrom >= 2 * grid.pixel_size_angstrom * (1 - 1e-6):
        raise InputError(
            f"References must be refined at a resolution that their maps hold, {2 * grid.pixel_size_angstrom:.2f} Å "
            f"or coarser; got {resolution_angstrom:g} Å; give maps of smaller pixels or a coarser resolution."
        )
    window = _soft_mask(mask, half1, resolution_angstrom, diameter_angstrom)
    first, second = (grid.rfft(half.values.to(torch.float32)) for half in (half1, half2))
    correlation = shells.fsc(grid.rfft(half1.values * window), grid.rfft(half2.values * window), grid).clamp(0, 1)
    finest = resolution_angstrom / BEYOND
    last = grid.side * grid.pixel_size_angstrom / finest
    shell = torch.arange(len(correlation))
    signal = torch.where(shell <= last + 1e-6, correlation, torch.zeros_like(correlation))
    signal[0] = correlation[1]
    if not float(signal[1:].max()) > 0:
        raise InputError("Half-maps must have something in common; their FSC is zero everywhere; are they of one map?")
    joined = shells.spread((shell < grid.side * grid.pixel_size_angstrom / join_angstrom).double(), grid) > 0
    own, common = (shells.spread(curve, grid).float() for curve in (signal, 2 * signal / (1 + signal)))
    mean = (first + second) / 2 * common
    halves = []
    for half in (first, second):
        filtered = grid.irfft(torch.where(joined, mean, half * own)) * window
        halves.append(_prepared(Volume(values=filtered, grid=grid), finest, diameter_angstrom, padding))
    return ReferencePair(halves=(halves[0], halves[1]), resolution_angstrom=resolution_angstrom, signal=signal)


def _prepared(volume: Volume, resolution: float, diameter: float, padding: int) -> slices.PaddedTransform:
    """Sample a reference as coarsely as its resolution allows, crop it to the particle and transform it."""
    grid = volume.grid
    # one shell more than the resolution needs, where the map has it
    side = min(grid.side, 2 * math.ceil(grid.side * grid.pixel_size_angstrom / resolution + 1))
    values, coarse = rescale(volume.values, grid, side)
    wanted = min(coarse.side, 2 * math.ceil(FIELD * diameter / coarse.pixel_size_angstrom / 2))
    values, small = crop_or_pad(values, coarse, wanted)
    # a projection sums over voxels: fewer of them count for more
    return slices.prepare(values * (small.pixel_size_angstrom / grid.pixel_size_angstrom), small, padding=padding)


def _soft_mask(mask: Volume | None, half: Volume, resolution: float, diameter: float) -> Tensor:
    grid = half.grid
    # of coarse maps the edge would be wider than their box
    edge = min(resolution / 2 * _MASK_EDGE_PIXEL, grid.side * grid.pixel_size_angstrom / 4)
    sphere = soft_sphere(grid, min(diameter / 2, grid.side * grid.pixel_size_angstrom / 2 - edge), edge)
    if mask is None:
        return sphere.float()
    check_same_grid(mask, half, "The mask", "the half-maps")
    # widths are those of M, in pixels of the refinement
    scale = resolution / 2 / grid.pixel_size_angstrom
    inside = masks.extended(mask.values > 0.25, _MASK_GROWTH_PIXEL * scale)
    return (masks.soft_edged(inside, _MASK_EDGE_PIXEL * scale) * sphere).float()
