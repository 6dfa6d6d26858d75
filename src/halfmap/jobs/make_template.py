"""``halfmap make-template``: a template from an atomic model, as template matching takes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, MultipleOf

from halfmap.errors import InputError
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume
    from halfmap.report.blocks import Report


_MARGIN_ANGSTROM = 25.0
"""Around the model: what the CTF spreads at a usual defocus."""


@dataclass(frozen=True, kw_only=True)
class MakeTemplateParams:
    """Inputs and settings of ``halfmap make-template``."""

    model: Path
    """Atomic model, PDB or mmCIF."""

    pixel_size_angstrom: Annotated[float, Gt(0)]
    """Pixel size of the micrographs that are searched."""

    box_pixel: Annotated[int, Ge(8), MultipleOf(2)] | None = None
    """Side of the template. Default: what holds the model and 25 Å around it."""

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

    float16: bool = False
    """Write 16-bit floating point (MRC mode 12), half the size."""

    def __post_init__(self) -> None:
        if self.dose_end < self.dose_start:
            raise InputError(
                f"--dose-end must be at least --dose-start; got {self.dose_end:g} and {self.dose_start:g} e/Å²; swap "
                "them."
            )


def _run(context: JobContext, params: MakeTemplateParams) -> Path:
    import math

    from halfmap.grid import ImageGrid
    from halfmap.io import mrc
    from halfmap.io.atoms import read_atoms
    from halfmap.simulation.potential import faded, potential_of_atoms

    model = read_atoms(params.model, assembly=params.assembly)
    model = model.centred() if params.centre else model
    if params.mirror:
        model = model.mirrored()
    pixel = params.pixel_size_angstrom
    side = params.box_pixel or 2 * math.ceil((model.diameter_angstrom / 2 + _MARGIN_ANGSTROM) / pixel)
    grid = ImageGrid.cubic(side, pixel)
    # the volume, its transform, and what each kind of atom adds to it
    context.expect_memory(24 * side**3, "the template")
    context.progress.message(
        f"{len(model)} atoms, {model.mass_dalton / 1e3:.0f} kDa, {model.diameter_angstrom:.0f} Å wide, in a box of "
        f"{side} px of {pixel:g} Å."
    )
    volume = potential_of_atoms(
        model,
        grid,
        b_factor_angstrom2=params.b_factor_angstrom2,
        b_factor_scaling=params.b_factor_scaling,
        solvent=params.solvent,
    )
    volume = faded(
        volume,
        envelope_b_factor_angstrom2=params.envelope_b_factor_angstrom2,
        dose_e_per_angstrom2=(params.dose_start, params.dose_end),
        voltage_kv=params.voltage_kv,
    )
    output = context.folder / "template.mrc"
    mrc.write_volume(output, volume, float16=params.float16)
    context.report(_page(params, volume, len(model), model.mass_dalton / 1e3))
    return output


def _page(params: MakeTemplateParams, volume: "Volume", n_atoms: int, mass_kilodalton: float) -> "Report":
    from halfmap.jobs.volume_report import central_slices
    from halfmap.report.blocks import Fact, Facts, Report, Section

    facts = [
        Fact(label="atoms", value=n_atoms),
        Fact(label="mass", value=round(mass_kilodalton, 1), unit="kDa", note="with hydrogens"),
        Fact(label="box", value=volume.grid.side, unit="px"),
        Fact(label="pixel size", value=volume.grid.pixel_size_angstrom, unit="Å"),
        Fact(label="highest potential", value=round(float(volume.values.max()), 2), unit="V"),
    ]
    hand = "the mirror image of " if params.mirror else ""
    place = "less the ice it displaces" if params.solvent else "in vacuum"
    return Report(
        title="Template",
        summary=f"The potential of {hand}{params.model.name}, {place}.",
        facts=Facts(facts=facts),
        sections=[Section(title="Map", blocks=[central_slices(volume, "Central slices and projections")])],
    )


JOB = JobType(
    command="make-template",
    folder="MakeTemplate",
    parameters=MakeTemplateParams,
    run=_run,
    summary="Make a template from an atomic model",
    inputs=("model",),
)
