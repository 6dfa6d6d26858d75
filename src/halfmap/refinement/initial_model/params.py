"""Parameters of the initial model."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.geometry.symmetry_names import canonical_name


@dataclass(frozen=True, kw_only=True)
class InitialModelParams:
    """How a first map is made.

    Raises
    ------
    InputError
        Parameters contradict each other.
    """

    mask_diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the circular mask around the particle in Å; a little more than the particle's longest axis."""

    symmetry: str = "C1"
    """Point group that the model is brought to once it stands: its axes are found, and the rest is done with it."""

    symmetry_from_start: bool = False
    """Impose the symmetry from the first mini-batch on, instead of finding it in a map made without; always so for T, O
    and I."""

    classes: Annotated[int, Ge(1)] = 1
    """Number of models; two or three part junk from particles, or one structure from another."""

    minibatches: Annotated[int, Ge(10)] = 60
    """Mini-batches before symmetry is imposed and all particles are taken."""

    resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Finest detail of the model, in Å; where left out 15, or an eighteenth of the mask's diameter if that is more; for
    T, O and I 12, or a fourteenth."""

    first_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Detail of the first mini-batches, in Å; the mask's diameter divided by 4.5 where left out, by 8 for T, O and
    I."""

    offset_range_angstrom: Annotated[float, Ge(0)] | None = None
    """Radius of the offset search in Å; a tenth of the mask's diameter where left out."""

    ctf: bool = True
    """Correct for the contrast transfer function."""

    ctf_intact_first_peak: bool = False
    """Leave the CTF uncorrected up to its first peak."""

    mask_edge_pixel: Annotated[float, Ge(0)] = 5.0
    """Width of the soft edge of circular masks in pixels."""

    initial_offset_sigma_angstrom: Annotated[float, Gt(0)] = 10.0
    """First spread of offsets in Å, along one axis."""

    kept_mass: Annotated[float, Gt(0.5), Le(1)] = 0.99
    """Share of the posterior that a first pass hands on to the fine one, and the fine one to the maps."""

    perturbation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Random shift of the sampling between mini-batches, as a share of the step."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        if self.finest_angstrom > self.coarsest_angstrom:
            raise InputError(
                f"--resolution must not be coarser than --first-resolution; got {self.finest_angstrom:g} and "
                f"{self.coarsest_angstrom:g} Å; give a smaller number for the former."
            )

    @property
    def finest_angstrom(self) -> float:
        """Finest detail of the model in Å."""
        least, parts = (12.0, 14.0) if self.is_polyhedral else (15.0, 18.0)
        return self.resolution_angstrom or max(least, self.mask_diameter_angstrom / parts)

    @property
    def coarsest_angstrom(self) -> float:
        """Detail of the first mini-batches in Å."""
        parts = 8.0 if self.is_polyhedral else 4.5
        return self.first_resolution_angstrom or max(self.mask_diameter_angstrom / parts, 1.5 * self.finest_angstrom)

    @property
    def middle_angstrom(self) -> float:
        """Detail of the middle mini-batches of T, O and I in Å: an eighth of the mask's diameter."""
        return min(max(self.mask_diameter_angstrom / 8, self.finest_angstrom), self.coarsest_angstrom)

    @property
    def is_polyhedral(self) -> bool:
        """Whether the group is that of a polyhedron, T, O or I: particles are then nearly round."""
        return canonical_name(self.symmetry)[0] in "TOI"

    @property
    def has_symmetry_from_start(self) -> bool:
        """Whether the symmetry is imposed from the first mini-batch on."""
        return self.symmetry_from_start or self.is_polyhedral

    @property
    def widest_offset_angstrom(self) -> float:
        """Radius of the offset search in Å."""
        given = self.offset_range_angstrom
        return self.mask_diameter_angstrom / 10 if given is None else given
