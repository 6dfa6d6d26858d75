"""`LiveSettings`: how a session classifies, under the names and defaults of Live2D."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from halfmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """How a session classifies.

    Raises
    ------
    InputError
        The resolution would fall from cycle to cycle, or a length is infinite.
    """

    mask_radius_angstrom: Annotated[float, Gt(0)] = 100.0
    """Radius of the circular mask in Å; 1.2 times the particle's radius is usual."""

    classification_type: Literal["abinit", "seeded", "refine", "incremental"] = "abinit"
    """abinit: from random averages; seeded: from the last class averages, beginning at low resolution again; refine:
    from the last class averages, at the final resolution; incremental: new particles are folded into what there is,
    and the resolution is lowered again only where particles have doubled."""

    initial_resolution_angstrom: Annotated[float, Gt(0)] = 40.0
    """High-resolution limit of the first startup cycle in Å."""

    final_resolution_angstrom: Annotated[float, Gt(0)] = 8.0
    """High-resolution limit of the last startup cycle and of all refinement cycles in Å."""

    startup_cycles: Annotated[int, Ge(1)] = 15
    """Cycles in which the resolution rises from the initial to the final one."""

    refinement_cycles: Annotated[int, Ge(1)] = 5
    """Cycles with all particles at the final resolution."""

    first_threshold: Annotated[int, Ge(1)] = 50_000
    """Particles that start the first automatic job."""

    next_threshold: Annotated[int, Ge(1)] = 50_000
    """New particles that start another automatic job."""

    classes: Annotated[int, Ge(1)] = 50
    """Number of classes."""

    particles_per_class: Annotated[int, Ge(1)] = 300
    """Particles of each class that startup cycles of an ab initio job look at, on average."""

    automask: bool = False
    """Leave out of class averages, before particles are compared with them, what is far from the particle."""

    autocentre: bool = True
    """Move the centre of mass of each class average to the centre of its box."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        for name in ("mask_radius_angstrom", "initial_resolution_angstrom", "final_resolution_angstrom"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(
                    f"{name} must be finite; got {getattr(self, name):g} Å; give the length that is meant."
                )
        if self.initial_resolution_angstrom < self.final_resolution_angstrom:
            raise InputError(
                f"The initial resolution must be no finer than the final one; got "
                f"{self.initial_resolution_angstrom:g} and {self.final_resolution_angstrom:g} Å; exchange them."
            )
