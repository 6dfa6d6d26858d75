"""Parameters of 3D refinement."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.units import Length

OF_ONE_SETTING = "OI"
"""First letters of the groups whose axes tell how a map lies, but for its hand: maps that have been made apart lie
alike. Axes of T may lie in two ways, those of other groups in more."""

_FIVE_PIXELS, _ONE_PIXEL = Length(5.0, in_pixels=True), Length(1.0, in_pixels=True)


@dataclass(frozen=True, kw_only=True)
class RefinementParams:
    """How a map is refined.

    Raises
    ------
    InputError
        Parameters contradict each other.
    """

    mask_diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the circular mask around the particle in Å; a little more than the particle's longest axis."""

    symmetry: str = "C1"
    """Point group: C1, C4, D2, T, O, I1 … as RELION names them."""

    relax_symmetry: str | None = None
    """Point group that the particle nearly has beyond its symmetry, as RELION names them: local searches look at poses
    that its rotations relate too, while the map keeps the symmetry given."""

    initial_low_pass_angstrom: Annotated[float, Gt(0)] = 60.0
    """Low-pass of the reference in Å; what lies beyond must come from the particles."""

    absolute_greyscale: bool = False
    """The reference is on the grey scale of the particles; otherwise the first iteration compares by correlation."""

    healpix_order: Annotated[int, Ge(0), Le(7)] | None = None
    """Order of the first coarse sampling: 2 is 15° (fine 7.5°), each further one half of it; 3 for T, O and I, else 2
    where left out."""

    local_from_order: Annotated[int, Ge(1), Le(8)] | None = None
    """Order of the coarse sampling from which poses are searched locally; 5 for T, O and I, else 4 where left out."""

    sigma_angles_degrees: Annotated[float, Gt(0), Le(30)] | None = None
    """Search from the first iteration on around the angles that the particles come with (rlnAngleRotPrior,
    rlnAngleTiltPrior and rlnAnglePsiPrior where they have all of them), with this spread in degrees and up to three
    times as far; local searches are around the last pose as ever, with no wider a spread than this."""

    free_rot: bool = False
    """Take tilt and psi alone as known (rlnAngleTiltPrior and rlnAnglePsiPrior, or the particles' own), to
    --sigma-angles, and search all rots until searches are local: for particles on a membrane, or around a tube, whose
    axis is the map's z."""

    offset_range: Length = _FIVE_PIXELS
    """Radius of the first offset search around each particle's last offset, in Å, or in pixels as 5px."""

    offset_step: Length = _ONE_PIXEL
    """Fine step of the first offset search, in Å, or in pixels as 1px; a first pass takes twice this step."""

    finer_faster: bool = False
    """Go on to finer steps as soon as the resolution asks for them, without waiting for poses to settle."""

    solvent_flattened_fsc: bool = False
    """Correct the FSC for the mask in every iteration, by phase randomisation; needs a mask."""

    join_resolution_angstrom: Annotated[float, Gt(0)] = 40.0
    """Both halves are joined up to this resolution after each iteration, so that they stay in one orientation."""

    max_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Finest resolution used to compare images with references, in Å."""

    regularisation: Annotated[float, Gt(0)] = 1.0
    """T: by how much the FSC's ratio of signal to noise is multiplied."""

    max_iterations: Annotated[int, Ge(1)] = 50
    """Iterations after which a refinement ends that has not converged."""

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
        if not self.offset_range.value >= 0:
            raise InputError(f"--offset-range must not be negative; got {self.offset_range}; give 5px.")
        if not self.offset_step.value > 0:
            raise InputError(f"--offset-step must be positive; got {self.offset_step}; give 1px.")
        if self.free_rot and self.sigma_angles_degrees is None:
            raise InputError("--free-rot must come with --sigma-angles; got none; give the spread of tilt and psi.")
        low = self.initial_low_pass_angstrom
        if self.max_resolution_angstrom is not None and self.max_resolution_angstrom >= low:
            raise InputError(
                f"--max-resolution must be finer than the reference's low-pass of {low:g} Å; "
                f"got {self.max_resolution_angstrom:g} Å; give a smaller number."
            )
