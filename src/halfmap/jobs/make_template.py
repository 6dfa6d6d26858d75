"""``halfmap make-template``: a template from an atomic model, as template matching takes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, MultipleOf

from halfmap.jobs.model_templates import ModelTemplateParams, read_model, side_of_model, template_of_model
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.atomic_models import AtomicModel
    from halfmap.data.volumes import Volume
    from halfmap.report.blocks import Report


@dataclass(frozen=True, kw_only=True)
class MakeTemplateParams(ModelTemplateParams):
    """Inputs and settings of ``halfmap make-template``."""

    model: Path
    """Atomic model, PDB or mmCIF."""

    pixel_size_angstrom: Annotated[float, Gt(0)]
    """Pixel size of the micrographs that are searched."""

    box_pixel: Annotated[int, Ge(8), MultipleOf(2)] | None = None
    """Side of the template. Default: what holds the model and 25 Å around it."""

    chains: tuple[str, ...] = ()
    """Draw these chains only, where they are in the whole model: the template of a domain."""

    without_chains: tuple[str, ...] = ()
    """Leave these chains out: the template of what is around a domain."""

    float16: bool = False
    """Write 16-bit floating point (MRC mode 12), half the size."""


def _run(context: JobContext, params: MakeTemplateParams) -> Path:
    from halfmap.io import mrc

    model = read_model(params.model, params, chains=params.chains, without_chains=params.without_chains)
    pixel = params.pixel_size_angstrom
    side = params.box_pixel or side_of_model(model, pixel)
    # the volume, its transform, and what each kind of atom adds to it
    context.expect_memory(24 * side**3, "the template")
    context.progress.message(
        f"{len(model)} atoms, {model.mass_dalton / 1e3:.0f} kDa, {model.diameter_angstrom:.0f} Å wide, in a box of "
        f"{side} px of {pixel:g} Å."
    )
    if params.chains or params.without_chains:
        middle = ",".join(f"{place:.1f}" for place in model.centre_of_mass_angstrom.tolist())
        context.progress.message(f"The centre of these chains lies at {middle} Å in the box.")
    volume = template_of_model(model, side, pixel, params)
    output = context.folder / "template.mrc"
    mrc.write_volume(output, volume, float16=params.float16)
    context.report(_page(params, volume, model))
    return output


def _page(params: MakeTemplateParams, volume: "Volume", model: "AtomicModel") -> "Report":
    from halfmap.jobs.volume_report import central_slices
    from halfmap.report.blocks import Fact, Facts, Report, Section

    facts = [
        Fact(label="atoms", value=len(model)),
        Fact(label="mass", value=round(model.mass_dalton / 1e3, 1), unit="kDa", note="with hydrogens"),
        Fact(label="box", value=volume.grid.side, unit="px"),
        Fact(label="pixel size", value=volume.grid.pixel_size_angstrom, unit="Å"),
        Fact(label="highest potential", value=round(float(volume.values.max()), 2), unit="V"),
    ]
    if params.chains or params.without_chains:
        middle = ", ".join(f"{place:.1f}" for place in model.centre_of_mass_angstrom.tolist())
        facts.append(Fact(label="centre of mass", value=middle, unit="Å", note="x, y, z from the middle of the box"))
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
