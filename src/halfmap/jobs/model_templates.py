"""Templates from atomic models: how the potential of a model becomes what a micrograph shows of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from halfmap.errors import InputError

if TYPE_CHECKING:
    from halfmap.data.atomic_models import AtomicModel
    from halfmap.data.volumes import Volume

MARGIN_ANGSTROM = 25.0
"""Around the model: what the CTF spreads at a usual defocus."""


@dataclass(frozen=True, kw_only=True)
class ModelTemplateParams:
    """How a template is made from an atomic model."""

    assembly: str | None = None
    """Biological assembly of the model to build, such as 1. Default: the atoms as they stand in the file."""

    centre: bool = True
    """Move the centre of mass to the middle of the box; else the model's origin lies there."""

    b_factor_scaling: Annotated[float, Ge(0)] = 1.0
    """What the B-factors of the model's atoms are multiplied by; 0 leaves them out."""

    b_factor_angstrom2: float = 0.0
    """B-factor added to each atom's own."""

    solvent: bool = True
    """Subtract the ice that the atoms displace; without it the model stands in vacuum."""

    envelope_b_factor_angstrom2: Annotated[float, Ge(0)] = 0.0
    """B-factor of the microscope's envelope."""

    dose_start: Annotated[float, Ge(0)] = 0.0
    """Exposure in e/Å² before the first frame that was summed."""

    dose_end: Annotated[float, Ge(0)] = 0.0
    """Exposure in e/Å² after the last frame: the template fades as the mean over the exposures does. Equal to the
    start, nothing fades."""

    voltage_kv: Annotated[float, Ge(80), Le(300)] = 300.0
    """Acceleration voltage, for the fading."""

    mirror: bool = False
    """Turn the model into its mirror image: a control, which a search of the right hand should not find as well."""

    def __post_init__(self) -> None:
        if self.dose_end < self.dose_start:
            raise InputError(
                f"--dose-end must be at least --dose-start; got {self.dose_end:g} and {self.dose_start:g} e/Å²; swap "
                "them."
            )


def read_model(
    path: Path,
    params: ModelTemplateParams,
    *,
    chains: tuple[str, ...] = (),
    without_chains: tuple[str, ...] = (),
) -> "AtomicModel":
    """Read a model, or some of its chains, and move and mirror it as asked: chains stay where they are in the whole."""
    from halfmap.io.atoms import read_atoms

    model = whole = read_atoms(path, assembly=params.assembly)
    if chains or without_chains:
        model = read_atoms(path, assembly=params.assembly, chains=chains, without_chains=without_chains)
    model = model.moved(-whole.centre_of_mass_angstrom) if params.centre else model
    return model.mirrored() if params.mirror else model


def side_of_model(model: "AtomicModel", pixel_size_angstrom: float) -> int:
    """Return the side, in pixels, of the even cube that holds a model and a margin."""
    import math

    return 2 * math.ceil((model.diameter_angstrom / 2 + MARGIN_ANGSTROM) / pixel_size_angstrom)


def template_of_model(
    model: "AtomicModel", side: int, pixel_size_angstrom: float, params: ModelTemplateParams
) -> "Volume":
    """Return the template that a model makes in a cube.

    Raises
    ------
    InputError
        The cube does not hold the model, or an atom's B-factor is negative altogether.
    """
    from halfmap.grid import ImageGrid
    from halfmap.simulation.potential import faded, potential_of_atoms

    volume = potential_of_atoms(
        model,
        ImageGrid.cubic(side, pixel_size_angstrom),
        b_factor_angstrom2=params.b_factor_angstrom2,
        b_factor_scaling=params.b_factor_scaling,
        solvent=params.solvent,
    )
    return faded(
        volume,
        envelope_b_factor_angstrom2=params.envelope_b_factor_angstrom2,
        dose_e_per_angstrom2=(params.dose_start, params.dose_end),
        voltage_kv=params.voltage_kv,
    )
