"""What can be set about the global search for a template."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.template_matching.params import FilterParams, stepped


@dataclass(frozen=True, kw_only=True)
class MatchTemplateParams(FilterParams):
    """How a template is looked for in a whole micrograph."""

    theta_step_degrees: Annotated[float, Gt(0), Le(90)] = 2.5
    """Step of the viewing directions."""

    psi_step_degrees: Annotated[float, Gt(0), Le(180)] = 1.5
    """Step of the turns in the plane."""

    symmetry: str = "C1"
    """Point group of the template: only directions in its asymmetric unit are tried."""

    phi_min_degrees: float = 0.0
    """Lowest first Euler angle, RELION's rot."""

    phi_max_degrees: float = 360.0
    """Highest first Euler angle."""

    theta_min_degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    """Lowest second Euler angle, RELION's tilt."""

    theta_max_degrees: Annotated[float, Ge(0), Le(180)] = 180.0
    """Highest second Euler angle."""

    psi_min_degrees: float = 0.0
    """Lowest third Euler angle, the turn in the plane."""

    psi_max_degrees: float = 360.0
    """Highest third Euler angle."""

    defocus_min_angstrom: float = -1000.0
    """Lowest offset from the micrograph's defocus; the lowest and the highest are 0 to keep the defocus."""

    defocus_max_angstrom: float = 1000.0
    """Highest offset from the micrograph's defocus."""

    defocus_step_angstrom: Annotated[float, Gt(0)] = 200.0
    """Step of the defocus."""

    pixel_size_min_angstrom: float = 0.0
    """Lowest offset of the pixel size tried, the template keeping its size in Å; the lowest and the highest are 0 to
    keep the pixel size."""

    pixel_size_max_angstrom: float = 0.0
    """Highest offset of the pixel size tried."""

    pixel_size_step_angstrom: Annotated[float, Gt(0)] = 0.001
    """Step of the pixel size."""

    enforce_zero: bool = True
    """Try the offset 0 too where the steps of defocus or pixel size pass it over."""

    normalisation: Literal["local", "orientations"] = "local"
    """What the scaled MIP is measured in: mean and standard deviation usual around a place, which a particle does not
    raise at its own; or those of the place itself over all orientations, as Leopard-EM and cisTEM."""

    false_positives: Annotated[float, Gt(0)] = 1.0
    """Peaks that noise alone may give in the micrograph: sets the cutoff."""

    cutoff: Annotated[float, Gt(0)] | None = None
    """Lowest scaled MIP of a peak. Default: from the false positives."""

    peak_distance: Annotated[float, Gt(0)] = 5.0
    """Pixels within which a higher peak suppresses others."""

    padding: Annotated[int, Ge(1), Le(4)] = 2
    """How many times its side the template is padded before its transform: finer interpolation, more memory."""

    seed: int = 1
    """Seed of random phases, where they are asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high, unit in (
            ("phi", self.phi_min_degrees, self.phi_max_degrees, "°"),
            ("theta", self.theta_min_degrees, self.theta_max_degrees, "°"),
            ("psi", self.psi_min_degrees, self.psi_max_degrees, "°"),
            ("defocus", self.defocus_min_angstrom, self.defocus_max_angstrom, " Å"),
            ("pixel-size", self.pixel_size_min_angstrom, self.pixel_size_max_angstrom, " Å"),
        ):
            if high < low:
                raise InputError(
                    f"--{name}-max must be at least --{name}-min; got {high:g} and {low:g}{unit}; swap them."
                )

    @property
    def defocus_offsets_angstrom(self) -> tuple[float, ...]:
        """Defocus offsets that are tried."""
        low, high = self.defocus_min_angstrom, self.defocus_max_angstrom
        return stepped(low, high, self.defocus_step_angstrom, self.enforce_zero)

    @property
    def pixel_size_offsets_angstrom(self) -> tuple[float, ...]:
        """Offsets of the pixel size that are tried."""
        low, high = self.pixel_size_min_angstrom, self.pixel_size_max_angstrom
        return stepped(low, high, self.pixel_size_step_angstrom, self.enforce_zero)
