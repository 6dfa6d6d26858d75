"""What can be set about masks, post-processing and local resolution."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from halfmap.errors import InputError
from halfmap.units import Length

_THREE_PIXELS, _SIX_PIXELS = Length(3.0, in_pixels=True), Length(6.0, in_pixels=True)


@dataclass(frozen=True, kw_only=True)
class MaskParams:
    """How a solvent mask is made from a map."""

    low_pass_angstrom: Annotated[float, Gt(0)] = 15.0
    """Low-pass the map at this resolution first; 15 to 20 Å is usual."""

    threshold: float | None = None
    """Grey value of the low-passed map from which a voxel belongs to the particle. Default: found from the map."""

    extend: Length = _THREE_PIXELS
    """Grow the particle by this distance on all sides; a negative one shrinks it."""

    soft_edge: Annotated[Length, Ge(0)] = _SIX_PIXELS
    """Width of the raised-cosine edge outside the grown particle."""

    min_island: Annotated[float, Ge(0), Le(1)] = 0.1
    """Remove islands of less than this share of the largest one's volume; 0 keeps all, 1 the largest alone."""


@dataclass(frozen=True, kw_only=True)
class FscParams:
    """How two half maps are correlated."""

    randomise_below_fsc: Annotated[float, Gt(0), Lt(1)] = 0.8
    """Randomise phases from the first shell whose unmasked FSC is below this, to see what the mask adds."""

    randomise_from_angstrom: Annotated[float, Gt(0)] | None = None
    """Randomise phases from this resolution on instead."""

    molecular_mass_kilodalton: Annotated[float, Gt(0)] | None = None
    """Mass of the particle: its volume is compared with the mask's."""


@dataclass(frozen=True, kw_only=True)
class SharpeningParams:
    """How the mean of two half maps is sharpened and weighted."""

    b_factor_angstrom2: float | None = None
    """Multiply amplitudes by exp(-B s²/4): negative sharpens. Default: from the Guinier plot."""

    fit_from_angstrom: Annotated[float, Gt(0)] | None = None
    """Lowest resolution of the Guinier fit. Default: 10 Å, or 1.5 times the resolution if that is coarser."""

    fit_to_angstrom: Annotated[float, Gt(0)] | None = None
    """Highest resolution of the fit. Default: where FSC weighting leaves nothing, or the Nyquist frequency."""

    fsc_weighting: bool = True
    """Multiply each shell by √(2 FSC / (1 + FSC)). Without, the map is low-passed instead."""

    low_pass_angstrom: Annotated[float, Gt(0)] | None = None
    """Low-pass the map at this resolution. Default: at the resolution found if there is no FSC weighting, else not."""

    edge_width: Annotated[float, Ge(0)] = 2.0
    """Width of the low-pass filter's raised-cosine edge in Fourier shells."""

    mtf_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the detector that the MTF is of (the movies' own). Default: that of the maps."""

    def __post_init__(self) -> None:
        start, end = self.fit_from_angstrom, self.fit_to_angstrom
        if start is not None and end is not None and start <= end:
            raise InputError(
                f"--fit-from must be a lower resolution than --fit-to; got {start:g} and {end:g} Å; exchange them."
            )


@dataclass(frozen=True, kw_only=True)
class PostprocessParams(FscParams, SharpeningParams):
    """How two half maps become a resolution and a sharpened map."""

    directional: bool = True
    """Correlate in cones around directions too, to see whether the resolution depends on the direction."""

    cone_half_angle_degrees: Annotated[float, Ge(10), Le(45)] = 20.0
    """Half angle of the cones."""


@dataclass(frozen=True, kw_only=True)
class LocalResolutionParams(SharpeningParams):
    """How the resolution is measured from place to place."""

    step_angstrom: Annotated[float, Gt(0)] = 15.0
    """Distance of the points at which the resolution is measured. Halving it takes eight times longer."""

    radius_angstrom: Annotated[float, Gt(0)] = 12.5
    """Radius of the sphere around each point in which the half maps are compared."""

    sphere_edge_angstrom: Annotated[float, Gt(0)] = 25.0
    """Width of the sphere's raised-cosine edge."""

    randomise_from_angstrom: Annotated[float, Gt(0)] = 25.0
    """Randomise phases from this resolution on, to see what the sphere adds."""

    worst_resolution_angstrom: Annotated[float, Gt(0)] = 50.0
    """Lowest resolution that a point can have."""

    fsc_threshold: Annotated[float, Gt(0), Lt(1)] = 0.143
    """FSC at which the resolution is read."""
