"""A species' maps: its mask, and what its two half-maps tell of resolution, from all sides and place to place."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.denoising.denoise import denoise, within_reach_angstrom
from halfmap.denoising.denoise import memory_bytes as denoising_memory_bytes
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import filters
from halfmap.fourier.resample import crop_or_pad, rescale_to_pixel_size
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.multiparticle.directional_maps import anisotropic_map, frequency_table
from halfmap.postprocessing import masks
from halfmap.postprocessing.half_map_fsc import check_halves, half_map_fsc
from halfmap.postprocessing.local_resolution import LocalResolution, local_resolution, locally_filtered
from halfmap.postprocessing.local_resolution import memory_bytes as local_resolution_memory_bytes
from halfmap.postprocessing.params import LocalResolutionParams, MaskParams, PostprocessParams, SharpeningParams
from halfmap.postprocessing.postprocess import PostprocessResult, postprocess
from halfmap.postprocessing.postprocess import memory_bytes as postprocess_memory_bytes
from halfmap.postprocessing.sharpening import sharpen
from halfmap.units import Length

_SAME_PIXEL_SIZE = 1e-4
_MASK_LEVEL = 0.25  # as M's, of a mask that was resampled or has a soft edge
_EDGE_PIXEL, _EDGE_SHARE = 16.0, 8  # of the spheres; in a small box an eighth of its side
_LOW_SHELLS, _LEAST_LOW_FSC = 4, 0.5
_NOT_SAID = ("no B-factor",)  # a species is refined at any resolution, and cannot be told a B-factor
_BEST_SHARE = 0.005
_NOT_GROWN = Length(0.0, in_pixels=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesMaps:
    """What the half-maps of a species have become.

    Parameters
    ----------
    half1, half2 : unfiltered.
    mask : binary.
    result : FSC corrected for the soft mask, Guinier plot, FSC in cones, and the sharpened map without low-pass.
    filtered, sharpened : mean of the halves times FSC weight, low-passed; the second with the B-factor.
    local : resolution from place to place; None where the pixels are too coarse for it.
    locally_filtered : sharpened, low-passed at each voxel by its own resolution; None with ``local``.
    anisotropic : spectrum flattened, low-passed in each direction by its own resolution.
    denoised : mean of the halves, each denoised, with the B-factor of ``sharpened``.
    denoised_to_angstrom : to which it reaches.
    direction_frequency : (180, 360), limiting frequency in 1/Å by tilt and rot in degrees.
    """

    half1: Volume
    half2: Volume
    mask: Volume
    result: PostprocessResult
    filtered: Volume
    sharpened: Volume
    local: LocalResolution | None
    locally_filtered: Volume | None
    anisotropic: Volume
    denoised: Volume
    denoised_to_angstrom: float
    direction_frequency: Tensor

    @property
    def resolution_angstrom(self) -> float:
        """Where the corrected FSC first falls below 0.143."""
        return self.result.resolution_angstrom

    @property
    def b_factor_angstrom2(self) -> float:
        """Of the sharpened map, negative where it sharpens."""
        return self.result.b_factor_angstrom2


def species_grid(diameter_angstrom: float, pixel_size_angstrom: float) -> ImageGrid:
    """Return the grid of a species' maps: a side of 2 round(diameter / pixel size), as in M."""
    return ImageGrid.cubic(2 * round(diameter_angstrom / pixel_size_angstrom), pixel_size_angstrom)


def fitted(volume: Volume, grid: ImageGrid) -> Volume:
    """Bring a map to a species' grid: resampled exactly, cut or surrounded by 0 about its centre."""
    ratio = volume.grid.pixel_size_angstrom / grid.pixel_size_angstrom
    if abs(ratio - 1) <= _SAME_PIXEL_SIZE:
        values, _ = crop_or_pad(volume.values, volume.grid, grid.shape)
    else:
        values, _ = rescale_to_pixel_size(volume.values, volume.grid, grid.pixel_size_angstrom, grid.shape)
    return Volume(values=values.float(), grid=grid)


def binary_mask(mask: Volume, grid: ImageGrid, *, level: float = _MASK_LEVEL) -> Volume:
    """Bring a mask to a species' grid and make it binary: 1 where it reaches a level, M's 0.25.

    Raises
    ------
    InputError
        It holds values outside 0 to 1, no voxel, or every voxel.
    """
    inside = fitted(masks.checked_mask(mask), grid).values >= level
    return Volume(values=_checked_inside(inside, "cut").float(), grid=grid)


def mask_of_map(volume: Volume, *, low_pass_angstrom: float, threshold: float | None) -> tuple[Volume, float]:
    """Make a binary mask from a map: the low-passed map reaches a threshold, small islands left out.

    Parameters
    ----------
    volume : particle bright, best the mean of both half-maps.
    threshold : grey value; None finds it from the map.

    Returns
    -------
    mask : 0 and 1, float32.
    threshold : that was used.
    """
    params = MaskParams(
        low_pass_angstrom=low_pass_angstrom, threshold=threshold, extend=_NOT_GROWN, soft_edge=_NOT_GROWN
    )
    mask, used = masks.mask_from_map(volume, params)
    return Volume(values=_checked_inside(mask.values > 0, "made").float(), grid=volume.grid), used


def soft_mask(mask: Volume, resolution_angstrom: float) -> Volume:
    """Return the mask in which half-maps are compared: tighter, the better they are resolved.

    Notes
    -----
    Grown by 3σ with an edge of 3σ, σ the resolution in units of two pixels but at least 1 pixel, as in M.
    """
    sigma = max(1.0, resolution_angstrom / (2 * mask.grid.pixel_size_angstrom))
    width = min(float(round(3 * sigma)), mask.grid.side / _EDGE_SHARE)
    grown = masks.extended(mask.values > 0.5, width)
    return Volume(values=masks.soft_edged(grown, width), grid=mask.grid)


def box_sphere(grid: ImageGrid) -> Tensor:
    """Return the soft sphere that every map of a species is multiplied by, inscribed in its box."""
    edge = _edge_angstrom(grid)
    return soft_sphere(grid, grid.side / 2 * grid.pixel_size_angstrom - edge, edge * 15 / 16)


def first_resolution_angstrom(half1: Volume, half2: Volume, *, diameter_angstrom: float, seed: int) -> float:
    """Return the resolution of half-maps in a soft sphere of the particle's diameter.

    Raises
    ------
    InconsistentDataError
        The halves are the same, or do not agree even at low resolution.
    """
    check_halves(half1, half2)
    grid = half1.grid
    sphere = Volume(values=soft_sphere(grid, diameter_angstrom / 2, _edge_angstrom(grid)), grid=grid)
    fsc = half_map_fsc(half1, half2, sphere, seed=seed)
    agreement = float(fsc.masked[1 : _LOW_SHELLS + 1].mean())
    if agreement < _LEAST_LOW_FSC:
        coarse = grid.side * grid.pixel_size_angstrom / _LOW_SHELLS
        raise InconsistentDataError(
            f"Half-maps of a species must agree at low resolution; got a mean FSC of {agreement:.2f} down to "
            f"{coarse:.0f} Å; name both halves of one refinement, in one orientation."
        )
    return fsc.resolution_angstrom


def species_maps(
    half1: Volume,
    half2: Volume,
    mask: Volume,
    *,
    diameter_angstrom: float,
    molecular_weight_kda: float | None = None,
    seed: int = 1,
    advance: Callable[[int], None] | None = None,
) -> SpeciesMaps:
    """Measure the half-maps of a species, filter their mean in every way that M does, and denoise it.

    Parameters
    ----------
    half1, half2 : unfiltered, on the species' grid, particle bright, inside `box_sphere`.
    mask : binary, on that grid.
    molecular_weight_kda : of the particle, to compare the mask with; None compares nothing.
    advance : called with the number of points of the local resolution after each batch.

    Raises
    ------
    InconsistentDataError
        The half-maps do not go together.
    InputError
        A map holds values that are not finite, or the halves agree nowhere.

    Notes
    -----
    The local resolution is that of `halfmap.postprocessing.local_resolution`; B-factors are not fitted from place to
    place. The denoised map reaches to the resolution that 0.5 % of the mask exceed, as M's.
    """
    grid = half1.grid
    first = first_resolution_angstrom(half1, half2, diameter_angstrom=diameter_angstrom, seed=seed)
    params = PostprocessParams(molecular_mass_kilodalton=molecular_weight_kda)
    result = postprocess(half1, half2, soft_mask(mask, first), params, seed=seed)
    concerns = tuple(concern for concern in result.concerns if concern.kind not in _NOT_SAID)
    result = replace(result, concerns=concerns)
    resolution = result.resolution_angstrom
    if not math.isfinite(resolution):
        raise InputError(
            "The FSC of a species' half-maps must reach 0.143; got less in every shell; give half-maps of a finished "
            "refinement, and a mask that holds the particle."
        )
    assert result.directional is not None  # the box is cubic
    flat = SharpeningParams(low_pass_angstrom=resolution, b_factor_angstrom2=0.0)
    low_pass = filters.low_pass(grid, resolution)
    sharpened = filters.apply_filter(result.map.values, grid, low_pass)
    local = by_place = None
    if (local_settings := local_params(grid)) is not None:
        local = local_resolution(half1, half2, mask, local_settings, seed=seed, advance=advance)
        by_place = locally_filtered(result.map, local.resolution)
    table = frequency_table(result.directional, resolution)
    denoised_to = _denoised_to(local, mask, resolution)
    denoised = denoise(half1, half2, denoised_to, seed=seed).mean.values
    by_b = filters.b_factor(grid, result.b_factor_angstrom2)
    mean = Volume(values=(half1.values + half2.values) / 2, grid=grid)
    return SpeciesMaps(
        half1=half1,
        half2=half2,
        mask=mask,
        result=result,
        filtered=sharpen(half1, half2, result.fsc.corrected, resolution, flat).volume,
        sharpened=Volume(values=sharpened, grid=grid),
        local=local,
        locally_filtered=by_place,
        anisotropic=anisotropic_map(mean, table),
        denoised=Volume(values=filters.apply_filter(denoised, grid, by_b), grid=grid),
        denoised_to_angstrom=denoised_to,
        direction_frequency=table,
    )


def local_params(grid: ImageGrid) -> LocalResolutionParams | None:
    """Return how the local resolution of a species' maps is measured; None where pixels are too coarse for it."""
    pixel = grid.pixel_size_angstrom
    usual = LocalResolutionParams()
    if usual.randomise_from_angstrom <= 2 * pixel:
        return None
    return replace(usual, step_angstrom=max(usual.step_angstrom, 3 * pixel))


def memory_bytes(grid: ImageGrid) -> int:
    """Return the memory that `species_maps` needs beside the maps it is given: with it all maps that it makes."""
    made = 9 * 4 * grid.n_pixels
    settings = local_params(grid)
    local = 0 if settings is None else local_resolution_memory_bytes(grid, settings)
    denoising = denoising_memory_bytes(grid, 2 * grid.pixel_size_angstrom)
    return made + max(postprocess_memory_bytes(grid), local, denoising)


def _denoised_to(local: LocalResolution | None, mask: Volume, resolution_angstrom: float) -> float:
    """Return the resolution to which a species is denoised: near its best place's, never coarser than the whole's."""
    wanted = resolution_angstrom
    if local is not None:
        wanted = min(wanted, float(np.quantile(local.resolution.values[mask.values > 0.5].numpy(), _BEST_SHARE)))
    return within_reach_angstrom(wanted, mask.grid)


def _edge_angstrom(grid: ImageGrid) -> float:
    return min(_EDGE_PIXEL, grid.side / _EDGE_SHARE) * grid.pixel_size_angstrom


def _checked_inside(inside: Tensor, how: str) -> Tensor:
    n_inside = int(inside.sum())
    if n_inside in (0, inside.numel()):
        found = "none" if n_inside == 0 else "all of them"
        raise InputError(
            f"The mask of a species must hold some voxels of its box, not all; got {found} once it was {how}; choose "
            "another threshold, diameter or mask."
        )
    return inside
