"""What can be set about picking blobs and templates."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LogPickParams:
    """How particles are found as blobs of a given size, without a reference."""

    min_diameter_angstrom: Annotated[float, Gt(0)]
    """Shortest diameter of the particles."""

    max_diameter_angstrom: Annotated[float, Gt(0)]
    """Longest diameter of the particles."""

    max_resolution_angstrom: Annotated[float, Gt(0)] = 20.0
    """Finest detail looked at. The micrograph is reduced to pixels of half this size, which is what makes it fast."""

    threshold: float = 0.0
    """Move the automatic threshold by this many σ of the background's scores; higher picks fewer. Sensible: -1 to 1."""

    upper_threshold: Annotated[float, Gt(0)] = 5.0
    """Drop peaks this many spreads of the picks' scores above their median: ice, gold, aggregates. Raise it where views
    of one particle differ much in strength."""

    min_distance_angstrom: Annotated[float, Gt(0)] | None = None
    """Least distance between two picks. Default: 0.7 times the mean of the two diameters."""

    white_particles: bool = False
    """Particles are brighter than the background, not darker."""

    edge_distance_angstrom: Annotated[float, Ge(0)] | None = None
    """Least distance of a pick from the edge of the micrograph. Default: half the shortest diameter."""

    def __post_init__(self) -> None:
        if self.min_diameter_angstrom > self.max_diameter_angstrom:
            raise InputError(
                f"--min-diameter must not exceed --max-diameter; got {self.min_diameter_angstrom:g} and "
                f"{self.max_diameter_angstrom:g} Å; swap them."
            )
        if self.min_diameter_angstrom < 1.5 * self.max_resolution_angstrom:
            raise InputError(
                f"--min-diameter must be at least 1.5 times --max-resolution; got {self.min_diameter_angstrom:g} and "
                f"{self.max_resolution_angstrom:g} Å; lower --max-resolution."
            )

    @property
    def pick_distance_angstrom(self) -> float:
        """Least distance between two picks, in Å."""
        if self.min_distance_angstrom is not None:
            return self.min_distance_angstrom
        return 0.35 * (self.min_diameter_angstrom + self.max_diameter_angstrom)

    @property
    def margin_angstrom(self) -> float:
        """Least distance of a pick from the edge, in Å."""
        return 0.5 * self.min_diameter_angstrom if self.edge_distance_angstrom is None else self.edge_distance_angstrom


@dataclass(frozen=True, kw_only=True)
class TemplatePickParams:
    """How particles are found by templates."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Longest diameter of the particles: of the disc in which templates are compared."""

    max_resolution_angstrom: Annotated[float, Gt(0)] = 20.0
    """Finest detail of the templates that is compared. Finer detail finds no more particles, but repeats the templates
    in noise."""

    psi_step_degrees: Annotated[float, Gt(0), Le(90)] = 5.0
    """Step of the in-plane angles in which each template is tried."""

    threshold: float = 0.0
    """Move the automatic threshold by this many σ of the background's scores; higher picks fewer. Sensible: -1 to 1."""

    upper_threshold: Annotated[float, Gt(0)] = 5.0
    """Drop peaks this many spreads of the picks' scores above their median."""

    min_distance_angstrom: Annotated[float, Gt(0)] | None = None
    """Least distance between two picks. Default: 0.5 times the diameter; elongated particles lie close side by side."""

    white_particles: bool = False
    """Particles are brighter than the background, not darker."""

    edge_distance_angstrom: Annotated[float, Ge(0)] | None = None
    """Least distance of a pick from the edge of the micrograph. Default: half the diameter."""

    def __post_init__(self) -> None:
        if self.diameter_angstrom < 3 * self.max_resolution_angstrom:
            raise InputError(
                f"--diameter must be at least 3 times --max-resolution; got {self.diameter_angstrom:g} and "
                f"{self.max_resolution_angstrom:g} Å; lower --max-resolution."
            )

    @property
    def pick_distance_angstrom(self) -> float:
        """Least distance between two picks, in Å."""
        return 0.5 * self.diameter_angstrom if self.min_distance_angstrom is None else self.min_distance_angstrom

    @property
    def margin_angstrom(self) -> float:
        """Least distance of a pick from the edge, in Å."""
        return 0.5 * self.diameter_angstrom if self.edge_distance_angstrom is None else self.edge_distance_angstrom
