"""The settings of estimating weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt


@dataclass(frozen=True, kw_only=True)
class WeightParams:
    """How much items and images count, told by how well their particles agree with the other half's map."""

    resolve: Literal["items", "images", "items and images"] = "items and images"
    """What gets weights of its own: each item as a whole; each tilt or frame, the same in all items; or each tilt or
    frame of each item."""

    weight_coarsest_angstrom: Annotated[float, Gt(0)] = 20.0
    """Agreement coarser than this is left out: there all images have enough."""

    b_factor_spread_angstrom2: Annotated[float, Gt(0)] = 150.0
    """How far B-factors are expected to differ from one another, where agreement tells little."""

    scale_spread: Annotated[float, Gt(0)] = 0.5
    """How far scales are expected to differ, relative to their mean."""
