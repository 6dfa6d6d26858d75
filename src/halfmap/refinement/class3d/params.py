"""Parameters of 3D classification."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.units import Length

_FIVE_PIXELS, _ONE_PIXEL = Length(5.0, in_pixels=True), Length(1.0, in_pixels=True)


@dataclass(frozen=True, kw_only=True)
class Classification3DParams:
    """How particles are parted among maps.

    Raises
    ------
    InputError
        Parameters contradict each other.
    """

    mask_diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the circular mask around the particle in Å; a little more than the particle's longest axis."""

    classes: Annotated[int, Ge(1)] = 4
    """Number of classes."""

    symmetry: str = "C1"
    """Point group of all classes: C1, C4, D2, T, O, I1 … as RELION names them."""

    initial_low_pass_angstrom: Annotated[float, Gt(0)] = 60.0
    """Low-pass of the reference, and of the first maps of the classes, in Å."""

    iterations: Annotated[int, Ge(1)] = 25
    """Most iterations."""

    stop_early: bool = True
    """Stop when hardly a particle changes class any more and the likelihood does not grow."""

    regularisation: Annotated[float, Gt(0)] = 4.0
    """T: how much the signal's own power is trusted against noise; 2 to 4 is usual in 3D."""

    skip_alignment: bool = False
    """Keep angles and offsets of the input; only classify."""

    local: bool = False
    """Search angles around those of the input alone."""

    healpix_order: Annotated[int, Ge(0), Le(7)] = 2
    """Order of the coarse sampling of angles: 2 is 15° (fine 7.5°), each further one half of it."""

    offset_range: Length = _FIVE_PIXELS
    """Radius of the offset search around each particle's last offset, in Å, or in pixels as 5px."""

    offset_step: Length = _ONE_PIXEL
    """Fine step of the offset search, in Å, or in pixels as 1px; a first pass takes twice this step."""

    max_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Finest resolution used to compare images with references, in Å."""

    skip_padding: bool = False
    """Do not pad maps before their transform: an eighth of the memory, slices less exact."""

    ctf: bool = True
    """Correct for the contrast transfer function."""

    ctf_intact_first_peak: bool = False
    """Leave the CTF uncorrected up to its first peak."""

    mask_edge_pixel: Annotated[float, Ge(0)] = 5.0
    """Width of the soft edge of circular masks in pixels."""

    norm_correction: bool = True
    """Estimate the contrast of every particle."""

    scale_correction: bool = True
    """Estimate the grey scale of every micrograph."""

    initial_offset_sigma_angstrom: Annotated[float, Gt(0)] = 10.0
    """First spread of offsets in Å, along one axis."""

    kept_mass: Annotated[float, Gt(0.5), Le(1)] = 0.999
    """Share of the posterior that a first pass hands on to the fine one, and the fine one to the maps."""

    perturbation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Random shift of the sampling between iterations, as a share of the step."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        if self.skip_alignment and self.local:
            raise InputError("--local must not go with --skip-alignment, which searches nothing; leave one out.")
        if not self.offset_range.value >= 0:
            raise InputError(f"--offset-range must not be negative; got {self.offset_range}; give 5px.")
        if not self.offset_step.value > 0:
            raise InputError(f"--offset-step must be positive; got {self.offset_step}; give 1px.")
        low = self.initial_low_pass_angstrom
        if self.max_resolution_angstrom is not None and self.max_resolution_angstrom >= low:
            raise InputError(
                f"--max-resolution must be finer than the reference's low-pass of {low:g} Å; "
                f"got {self.max_resolution_angstrom:g} Å; give a smaller number."
            )
