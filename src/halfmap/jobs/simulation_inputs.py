"""What both simulations are made of: specimens, atomic models and maps, as references of a pixel size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from halfmap.errors import InputError

if TYPE_CHECKING:
    from halfmap.simulation.references import Reference

DEFAULT_SPECIMEN = "ferritin-like-o-130"


@dataclass(frozen=True, kw_only=True)
class SpecimenParams:
    """Of what particles are; several make several classes, specimens first, then models, then maps."""

    model: tuple[Path, ...] = ()
    """Atomic model, PDB or mmCIF; repeat it for several classes."""

    map: tuple[Path, ...] = ()
    """Map in MRC format, density positive, of any scale; repeat it for several classes."""

    specimen: tuple[str, ...] = ()
    """Built-in specimen: shape, symmetry and diameter in Å, such as compact-d3-140; repeat it for several classes.
    Default, where neither model nor map is given: ferritin-like-o-130."""

    assembly: str | None = None
    """Biological assembly of the models to build, such as 1. Default: the atoms as they stand in the file."""

    diameter_angstrom: Annotated[float, Gt(0)] | None = None
    """Diameter of the particles in the maps. Default: found from the density."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        files = tuple(path.stem for path in (*self.model, *self.map))
        specimens = self.specimen or (() if files else (DEFAULT_SPECIMEN,))
        return (*specimens, *files)


def references(
    params: SpecimenParams,
    pixel_sizes_angstrom: Sequence[float],
    b_factor_angstrom2: float,
    message: Callable[[str], None],
) -> "list[list[Reference]]":
    """Return for each pixel size a reference of each class.

    Raises
    ------
    InputError
        A specimen's name is unknown, or a map has no density.
    """
    from halfmap.io.atoms import read_atoms
    from halfmap.io.mrc import read_volume
    from halfmap.simulation.references import reference_of_atoms, reference_of_map
    from halfmap.simulation.specimens import specimen

    built: dict[float, list[Reference]] = {size: [] for size in pixel_sizes_angstrom}
    names = iter(params.names)
    for _ in range(len(params.names) - len(params.model) - len(params.map)):
        name = next(names)
        model = specimen(name)
        message(f"{name}: {len(model)} atoms, {model.mass_dalton / 1e3:.0f} kDa, {model.diameter_angstrom:.0f} Å.")
        for size, made in built.items():
            made.append(
                reference_of_atoms(model, pixel_size_angstrom=size, b_factor_angstrom2=b_factor_angstrom2, name=name)
            )
    for path in params.model:
        name = next(names)
        model = read_atoms(path, assembly=params.assembly).centred()
        message(f"{name}: {len(model)} atoms, {model.mass_dalton / 1e3:.0f} kDa, {model.diameter_angstrom:.0f} Å.")
        for size, made in built.items():
            made.append(
                reference_of_atoms(model, pixel_size_angstrom=size, b_factor_angstrom2=b_factor_angstrom2, name=name)
            )
    for path in params.map:
        name = next(names)
        volume = read_volume(path)
        for size, made in built.items():
            made.append(
                reference_of_map(
                    volume,
                    pixel_size_angstrom=size,
                    b_factor_angstrom2=b_factor_angstrom2,
                    name=name,
                    diameter_angstrom=params.diameter_angstrom,
                )
            )
        message(f"{name}: a map of a particle {built[pixel_sizes_angstrom[0]][-1].diameter_angstrom:.0f} Å wide.")
    return [built[size] for size in pixel_sizes_angstrom]


def check_fractions(fractions: Sequence[float], n_classes: int) -> None:
    """Raise `InputError` unless there is one fraction for each class, or none."""
    if fractions and len(fractions) != n_classes:
        raise InputError(
            f"--class-fractions must have one number for each of {n_classes} specimens; got {len(fractions)}; "
            "give as many as specimens, models and maps."
        )
