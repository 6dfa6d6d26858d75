"""From two half maps to a resolution and a sharpened map: all steps in a row."""

from dataclasses import dataclass

import torch

from halfmap.data.volumes import Volume
from halfmap.grid import ImageGrid
from halfmap.postprocessing import concerns, masks
from halfmap.postprocessing.concerns import Concern
from halfmap.postprocessing.directional import DirectionalFsc, directional_fsc
from halfmap.postprocessing.half_map_fsc import HalfMapFsc, JoinedShells, half_map_fsc
from halfmap.postprocessing.params import PostprocessParams
from halfmap.postprocessing.sharpening import GuinierPlot, MtfCurve, SharpenedMap, sharpen


@dataclass(frozen=True, kw_only=True, eq=False)
class PostprocessResult:
    """What two half maps have become.

    Parameters
    ----------
    fsc : the curves.
    sharpened : the map, its Guinier plot and its B-factor.
    mask : that was used; None where there was none.
    directional : FSC in cones; None where it was not wanted or the box is not cubic.
    concerns : what may be wrong.
    """

    fsc: HalfMapFsc
    sharpened: SharpenedMap
    mask: Volume | None
    directional: DirectionalFsc | None
    concerns: tuple[Concern, ...]

    @property
    def grid(self) -> ImageGrid:
        """Grid of all maps."""
        return self.fsc.grid

    @property
    def resolution_angstrom(self) -> float:
        """Where the corrected FSC first falls below 0.143; see `HalfMapFsc.resolution_angstrom`."""
        return self.fsc.resolution_angstrom

    @property
    def b_factor_angstrom2(self) -> float:
        """B-factor that was used."""
        return self.sharpened.b_factor_angstrom2

    @property
    def guinier(self) -> GuinierPlot:
        """Amplitudes at each stage and the line fitted to them."""
        return self.sharpened.guinier

    @property
    def map(self) -> Volume:
        """The sharpened map."""
        return self.sharpened.volume

    @property
    def masked_map(self) -> Volume:
        """The sharpened map times the mask."""
        if self.mask is None:
            return self.map
        return Volume(values=self.map.values * self.mask.values, grid=self.grid)


def memory_bytes(grid: ImageGrid) -> int:
    """Return the memory that `postprocess` needs beside the maps it is given: 18 maps of float64, in bytes."""
    return 18 * 8 * grid.n_pixels


def mean_map(half1: Volume, half2: Volume) -> Volume:
    """Return the mean of two half maps, from which `masks.automatic_mask` makes a mask."""
    return Volume(values=(half1.values + half2.values) / 2, grid=half1.grid)


def postprocess(
    half1: Volume,
    half2: Volume,
    mask: Volume | None,
    params: PostprocessParams | None = None,
    *,
    mtf: MtfCurve | None = None,
    joined: JoinedShells | None = None,
    band_shell: int | None = None,
    seed: int = 1,
) -> PostprocessResult:
    """Measure the resolution of two half maps and sharpen their mean.

    Parameters
    ----------
    half1, half2 : unfiltered, unsharpened maps of independent halves, on one grid.
    mask : values from 0 to 1 on the same grid, as of `masks.automatic_mask`; None measures without.
    mtf : of the detector; None leaves amplitudes as they are.
    joined : what the halves shared in their refinement; None: nothing that is known of.
    band_shell : last shell that the half maps hold data of; None: all hold some.
    seed : of the random phases.

    Returns
    -------
    PostprocessResult

    Raises
    ------
    InconsistentDataError
        Maps or mask have different sides or pixel sizes, or both halves hold the same values.
    InputError
        Values that are not finite, or a mask with values outside 0 to 1.
    """
    params = params or PostprocessParams()
    fsc = half_map_fsc(half1, half2, mask, params, joined=joined, band_shell=band_shell, seed=seed)
    if mask is not None:
        mask = masks.checked_mask(mask)
    sharpened = sharpen(half1, half2, fsc.corrected, fsc.resolution_angstrom, params, mtf=mtf)
    directional = None
    grid = fsc.grid
    if params.directional and len(set(grid.shape)) == 1:
        weight = torch.ones(()) if mask is None else mask.values.double()
        directional = directional_fsc(
            grid.rfft(half1.values.double() * weight),
            grid.rfft(half2.values.double() * weight),
            grid,
            cone_half_angle_degrees=params.cone_half_angle_degrees,
            randomised=fsc.randomised,
            randomise_from_shell=fsc.randomise_from_shell,
            band_shell=band_shell,
        )
    found = concerns.concerns_about_halves(half1, half2) + concerns.concerns_about_fsc(fsc)
    if mask is None:
        found.append(
            Concern(kind="no mask", text="There was no mask: noise of the solvent lowers the FSC.", level="plain")
        )
    else:
        found += concerns.concerns_about_mask(mask, params.molecular_mass_kilodalton)
    found += concerns.concerns_about_sharpening(sharpened, is_automatic=params.b_factor_angstrom2 is None)
    if directional is not None and bool(torch.isfinite(directional.resolution_angstrom).all()):
        found += concerns.concerns_about_directions(directional)
    return PostprocessResult(fsc=fsc, sharpened=sharpened, mask=mask, directional=directional, concerns=tuple(found))
