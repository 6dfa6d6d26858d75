"""The settings of reconstruction from series."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le


@dataclass(frozen=True, kw_only=True)
class ReconstructionParams:
    """How half-maps are made from the images of series."""

    ewald: Literal["flat", "sphere", "reversed"] = "flat"
    """Whether slices are planes, or lie on Ewald's sphere as depth and defocus have it, or the other way round."""

    reconstruction_resolution_angstrom: Annotated[float, Ge(0)] = 0.0
    """Frequencies beyond this are left out; 0 takes all that images and maps hold."""

    padding: Annotated[int, Ge(1), Le(3)] = 1
    """How much finer than a box of twice the diameter needs transforms are sampled; memory grows with its cube."""

    damp_unseen_directions: bool = True
    """Whether directions that a shell is seen less from than on average are damped, as far as its FSC says."""
