"""How a series is refined: in which steps, up to which resolution, and when to stop."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Sub-iterations of the refinement of a series.

    Notes
    -----
    Each sub-iteration compares up to its own resolution, and takes Gauss-Newton steps there.
    """

    sub_iterations: Annotated[int, Ge(1)] = 3
    """Sub-iterations, each with a new estimate of the noise."""

    first_fraction: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Share of the resolution, as a frequency, that the first sub-iteration reaches to; it grows evenly to 1."""

    steps: Annotated[int, Ge(1)] = 3
    """Gauss-Newton steps at most in each sub-iteration; it ends before where another promises nothing."""

    search_angstrom: Annotated[float, Ge(0)] = 0.0
    """Look first for shifts of whole images up to this far, by cross-correlation of all their particles; 0: do not."""

    search_defocus_angstrom: Annotated[float, Ge(0)] = 0.0
    """Look for the defocus of each image up to this far from where it is, before the first step that fits it; 0: do
    not."""

    ctf_resolution_angstrom: Annotated[float, Gt(0)] = 8.0
    """The CTF is fitted from the first sub-iteration on that reaches this resolution, with every species that does."""

    objective: Literal["likelihood", "m_ncc"] = "likelihood"
    """What is bettered: the likelihood of the images, with priors; or M's normalised cross-correlation, without, to
    compare with M: slower, less exact, and not for magnification, spherical and other aberrations."""


def fractions(schedule: Schedule) -> list[float]:
    """Return the share of the resolution that each sub-iteration reaches to."""
    n = schedule.sub_iterations
    if n == 1:
        return [1.0]
    return [schedule.first_fraction + (1 - schedule.first_fraction) * i / (n - 1) for i in range(n)]


def shell_at(last_shell: int, fraction: float, *, least: int = 3) -> int:
    """Return the last shell of a sub-iteration; never none, and never beyond the last."""
    return max(min(least, last_shell), min(last_shell, round(last_shell * fraction)))
