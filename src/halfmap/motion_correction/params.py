"""What can be set about motion correction."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, kw_only=True)
class MotionParams:
    """How motion is found."""

    patches: tuple[Annotated[int, Ge(1), Le(32)], Annotated[int, Ge(1), Le(32)]] = (5, 5)
    """Patches along x and y that local motion is found from; 1,1 for the motion of the whole frame alone."""

    b_factor_pixel2: Annotated[float, Gt(0)] = 150.0
    """B-factor, in pixels², by which fine detail counts less while frames are compared: exp(−B k²). Larger for movies
    of little dose, or of a super-resolution grid."""

    group_frames: Annotated[int, Ge(1)] | None = None
    """Frames that are added together before their motion is found. Default: 1, or as many as leave 128 groups."""

    max_shift_pixel: Annotated[float, Gt(0)] | None = None
    """Largest shift that is looked for at first. Default: a quarter of a patch."""
