"""Parameters of 2D classification."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from halfmap.errors import InputError
from halfmap.units import Length

_FIVE_PIXELS, _ONE_PIXEL = Length(5.0, in_pixels=True), Length(1.0, in_pixels=True)


@dataclass(frozen=True, kw_only=True)
class ClassificationParams:
    """How particles are classified.

    Raises
    ------
    InputError
        Parameters contradict each other.
    """

    classes: Annotated[int, Ge(1)] = 50
    """Number of classes; a hundred particles or more for each is usual."""

    mask_diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the circular mask around the particle in Å; a little more than the particle's longest axis."""

    algorithm: Literal["auto", "em", "vdam"] = "auto"
    """em: every particle in every iteration; vdam: mini-batches with momentum; auto goes by the number of particles."""

    iterations: Annotated[int, Ge(1)] = 25
    """Most EM iterations."""

    minibatches: Annotated[int, Ge(1)] = 200
    """Mini-batches of VDAM."""

    first_minibatch_size: Annotated[int, Ge(1)] | None = None
    """Particles of each of VDAM's first mini-batches; else 0.5 % of all, but 200 to 10,000."""

    last_minibatch_size: Annotated[int, Ge(1)] | None = None
    """Particles of each of VDAM's last mini-batches; else 5 % of all, but 1,000 to 100,000."""

    first_minibatch_step: Annotated[float, Gt(0), Le(1)] = 0.9
    """How far VDAM's first mini-batches move an average towards what they show; 1: all the way."""

    last_minibatch_step: Annotated[float, Gt(0), Le(1)] = 0.3
    """How far VDAM's last mini-batches move an average towards what they show."""

    minibatch_memory: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of what earlier mini-batches told that stays after another."""

    stop_early: bool = True
    """Stop when nothing changes any more."""

    regularisation: Annotated[float, Gt(0)] = 2.0
    """T: how much the signal's own power is trusted against noise; 2 to 3 is usual in 2D."""

    max_alignment_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Finest resolution used to compare images with references, in Å; try 10 to 15 where averages look streaky."""

    min_alignment_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Coarsest resolution used to compare images with references, in Å."""

    psi_step_degrees: Annotated[float, Gt(0), Le(90)] = 6.0
    """Fine step of in-plane angles; a first pass takes twice this step."""

    offset_range: Annotated[Length, Ge(0)] = _FIVE_PIXELS
    """Radius of the offset search around each particle's last offset, in Å, or in pixels as 5px."""

    offset_step: Annotated[Length, Gt(0)] = _ONE_PIXEL
    """Fine step of offsets, in Å, or in pixels as 1px; a first pass takes twice this step."""

    allow_coarser_sampling: bool = False
    """Take coarser steps while the references do not support finer ones."""

    ctf: bool = True
    """Correct for the contrast transfer function."""

    ctf_intact_first_peak: bool = False
    """Leave the CTF uncorrected up to its first peak."""

    center: bool = True
    """Move the centre of mass of each class average to the centre of its box."""

    mask: Literal["zeros", "noise"] = "zeros"
    """What images hold outside the circular mask when they are compared with references."""

    mask_edge_pixel: Annotated[float, Ge(0)] = 5.0
    """Width of the soft edge of masks in pixels."""

    skip_alignment: bool = False
    """Keep angles and offsets of the input; only classify."""

    skip_rotation: bool = False
    """Keep angles of the input; search offsets and classes."""

    norm_correction: bool = True
    """Estimate the contrast of every particle."""

    scale_correction: bool = True
    """Estimate the grey scale of every micrograph."""

    class_inactivity: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Share of the mean size of classes in use below which a class is replaced by the twin of another; 0: never."""

    closing_passes: Annotated[int, Ge(0)] = 3
    """Passes of the closing stage, in which two halves of the particles are classified apart for the FRC; 0: none."""

    initial_offset_sigma_angstrom: Annotated[float, Gt(0)] = 10.0
    """First spread of offsets in Å, along one axis."""

    initial_low_pass_angstrom: Annotated[float, Gt(0)] | None = None
    """Low-pass of the first references in Å; 0.07 of the sampling frequency where left out."""

    kept_mass: Annotated[float, Gt(0.5), Le(1)] = 0.999
    """Share of the posterior that a first pass hands on to the fine one, and the fine one to the averages."""

    max_kept_samples: Annotated[int, Ge(1)] | None = None
    """Most samples that a first pass hands on; else 5 for each class in mini-batches, 50 (at least 4000) in others."""

    perturbation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Random shift of the sampling between iterations, as a share of the step."""

    resolution_increment_shells: Annotated[int, Ge(1)] = 10
    """Shells by which the band reaches beyond the current resolution."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        if self.closing_passes in (1, 2):
            raise InputError(
                f"--closing-passes must be at least 3, so that the halves forget what they had in common, or 0 for no "
                f"closing stage; got {self.closing_passes}; choose 3."
            )
        low, high = self.min_alignment_resolution_angstrom, self.max_alignment_resolution_angstrom
        if low is not None and high is not None and low <= high:
            raise InputError(
                f"The coarsest resolution of the alignment must be a larger number than the finest; "
                f"got {low:g} and {high:g} Å; exchange them."
            )
