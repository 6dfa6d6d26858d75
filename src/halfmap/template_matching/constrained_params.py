"""What can be set about the search for a domain at particles that are known already."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.template_matching.params import ParticleBoxParams, stepped


@dataclass(frozen=True, kw_only=True)
class ConstrainedSearchParams(ParticleBoxParams):
    """Where, and in which orientations, a domain is looked for relative to the particle that it belongs to."""

    centre_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Middle of the domain, from the middle of the particle's template to (x, y, z) in it: tells the domain's depth,
    and so its defocus."""

    inverted_depth: bool = False
    """Whether depth, the z to which a pose turns the domain, subtracts from the defocus. Which it does depends on how
    the camera's images are read: where the domain is far from the middle, try both."""

    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Axis through the middle of the particle's template, (x, y, z), about which the domain may turn."""

    turn_min_degrees: Annotated[float, Ge(-360), Le(360)] = -10.0
    """Lowest turn about the axis; right-handed. The lowest and the highest are 0 where it does not turn."""

    turn_max_degrees: Annotated[float, Ge(-360), Le(360)] = 10.0
    """Highest turn about the axis."""

    turn_step_degrees: Annotated[float, Gt(0)] = 1.5
    """Step of the turns."""

    tilt_axis: tuple[float, float, float] | None = None
    """A second axis, about which the domain tilts before it turns. Default: every axis across the first."""

    tilt_min_degrees: Annotated[float, Ge(-180), Le(180)] = 0.0
    """Lowest tilt about the second axis; 0 where that is every one."""

    tilt_max_degrees: Annotated[float, Ge(-180), Le(180)] = 2.5
    """Highest tilt; 0 to search turns alone."""

    tilt_step_degrees: Annotated[float, Gt(0)] = 2.5
    """Step of the tilts."""

    reach_pixel: Annotated[int, Ge(0)] = 3
    """How far from its place the domain may lie, along x and along y, to either side."""

    defocus_min_angstrom: float = -100.0
    """Lowest offset from the domain's defocus; the lowest and the highest are 0 to keep it."""

    defocus_max_angstrom: float = 100.0
    """Highest offset from the domain's defocus."""

    defocus_step_angstrom: Annotated[float, Gt(0)] = 100.0
    """Step of the defocus."""

    enforce_zero: bool = True
    """Try no turn, no tilt and no defocus offset too where the steps pass them over."""

    false_positives: Annotated[float, Gt(0), Le(1)] = 0.005
    """Particles that noise alone may make seem to have the domain, as a share of all: sets the cutoff."""

    polish: bool = True
    """Go on from the best of the grid to the maximum of the likelihood, and state uncertainties."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high, unit in (
            ("turn", self.turn_min_degrees, self.turn_max_degrees, "°"),
            ("tilt", self.tilt_min_degrees, self.tilt_max_degrees, "°"),
            ("defocus", self.defocus_min_angstrom, self.defocus_max_angstrom, " Å"),
        ):
            if high < low:
                raise InputError(
                    f"--{name}-max must be at least --{name}-min; got {high:g} and {low:g}{unit}; swap them."
                )
        for flag, vector in (("--axis", self.axis), ("--tilt-axis", self.tilt_axis)):
            if vector is not None and not any(vector):
                raise InputError(f"{flag} must have a direction; got 0,0,0; give it as x,y,z, such as 0,0,1.")
        if self.tilt_axis is None and self.tilt_min_degrees != 0:
            raise InputError(
                f"--tilt-min must be 0 where the domain tilts about every axis; got {self.tilt_min_degrees:g}°; leave "
                "it out, or give --tilt-axis."
            )
        if self.tilt_axis is not None and abs(_cosine(self.axis, self.tilt_axis)) > 0.999:
            raise InputError("--tilt-axis must differ from --axis; got the same direction; give one across it.")

    @property
    def turns_degrees(self) -> tuple[float, ...]:
        """Turns about the axis that are tried; a whole circle is closed once."""
        turns = stepped(self.turn_min_degrees, self.turn_max_degrees, self.turn_step_degrees, self.enforce_zero)
        return tuple(turn for turn in turns if turn - turns[0] < 360 - 1e-9)

    @property
    def tilts_degrees(self) -> tuple[float, ...]:
        """Tilts that are tried."""
        return stepped(self.tilt_min_degrees, self.tilt_max_degrees, self.tilt_step_degrees, self.enforce_zero)

    @property
    def defocus_offsets_angstrom(self) -> tuple[float, ...]:
        """Offsets from the domain's defocus that are tried."""
        low, high = self.defocus_min_angstrom, self.defocus_max_angstrom
        return stepped(low, high, self.defocus_step_angstrom, self.enforce_zero)


def _cosine(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True)) / (math.hypot(*first) * math.hypot(*second))
