"""``halfmap population export``: particles of a species cut out with all refined geometry, for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from halfmap.jobs.population_params import SpeciesOfPopulation
from halfmap.multiparticle.export_params import ExportParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.jobs.population_export_items import ExportTask
    from halfmap.jobs.population_files import OpenPopulation

_OUTPUTS = {"images": "images.star", "relion5": "optimisation_set.star", "sub-tomograms": "particles.star"}


@dataclass(frozen=True, kw_only=True)
class ExportPopulationParams(ExportParams, SpeciesOfPopulation):
    """Inputs and settings of ``halfmap population export``."""

    kind: Literal["images", "relion5", "sub-tomograms"] = "images"
    """What to write: one stack an item and a table in which every image has its own pose and CTF; what RELION 5 takes
    of tilt series, one stack a particle; or sub-tomograms with their weights."""

    sources: tuple[str, ...] = ()
    """Names of the sources whose particles to export. Default: all."""


def _run(context: JobContext, params: ExportPopulationParams) -> Path:
    from halfmap.jobs.population_files import changing

    with changing(params.population, context.progress.message) as opened:  # what is read stays as it is meanwhile
        return _export(context, params, opened)


def _export(context: JobContext, params: ExportPopulationParams, opened: "OpenPopulation") -> Path:
    from halfmap.errors import JobFailed
    from halfmap.io.warp_population import write_species_particles_of_m
    from halfmap.jobs import population_export_items as items
    from halfmap.jobs.per_micrograph import Rejected, forget_states, resumable_map
    from halfmap.jobs.population_export_tables import at_poses_of_dose, write_tables
    from halfmap.report.blocks import Block, Fact, Facts, Note, Report, Section, Table

    species = opened.find_species(params.species)
    tasks = items.tasks_of(opened, species, params, context.folder)
    context.expect_memory(max(map(items.memory_bytes, tasks)), "one item in each worker", n_tasks=len(tasks))
    done: list[ExportTask] = []
    rows: list[tuple[str | int, ...]] = []
    for task, result in zip(
        tasks,
        resumable_map(
            context,
            items.export_item,
            tasks,
            names=[task.item.name for task in tasks],
            result_type=items.ExportedItem,
            label="Exporting",
            what="items",
        ),
        strict=True,
    ):
        if isinstance(result, Rejected):
            rows.append((task.item.name, len(task.particles), 0, f"set aside: {result.reason}"))
            continue
        rows.append((task.item.name, len(task.particles), result.n_images, ""))
        if result.n_images:
            done.append(task)
    if not done:
        raise JobFailed(
            f"An export must hold an image; got none of {sum(len(task.particles) for task in tasks)} particles; all "
            "lie at the borders of their images, or none of their images is used."
        )
    output = context.folder / _OUTPUTS[params.kind]
    write_tables(context, params, done, output)
    write_species_particles_of_m(
        context.folder / f"{species.species.name}_particles.star", at_poses_of_dose(done, params)
    )
    n_images = sum(int(row[2]) for row in rows)
    what = {"images": "images", "relion5": "images", "sub-tomograms": "sub-tomograms"}[params.kind]
    context.progress.message(f"Exported {n_images} {what} of {params.species} from {len(done)} items.")
    grid = items.grid_of(species.species, params)
    facts = [
        Fact(label=what.capitalize(), value=n_images),
        Fact(label="Items", value=len(done)),
        Fact(label="Box", value=grid.side, unit="px"),
        Fact(label="Pixel size", value=float(f"{grid.pixel_size_angstrom:.4g}"), unit="Å"),
    ]
    blocks: list[Block] = [
        Note(text=_said(params)),
        Table(columns=("item", "particles", what, "note"), rows=rows, title="Items"),
        *items.pictures(done[0], params),
    ]
    context.report(
        Report(
            title=f"Export of {params.species}",
            summary=f"{n_images} {what} from {opened.population.name}.",
            facts=Facts(facts=facts),
            sections=[Section(title="What was exported", blocks=blocks)],
        )
    )
    forget_states(context)
    return output


def _said(params: ExportPopulationParams) -> str:
    """Return how the files are meant."""
    multiplied = (
        "They are multiplied by their CTF and the fading of their signal with dose."
        if params.premultiply_ctf or params.kind == "sub-tomograms"
        else "They are not multiplied by their CTF."
    )
    return {
        "images": f"Every image has its own pose and CTF in the table. {multiplied}",
        "relion5": "Images of a particle are one stack. The tables of RELION know of no deformation: every tilt is "
        f"turned and moved as a whole there, the images are cut with all of it. {multiplied}",
        "sub-tomograms": f"Beside each sub-tomogram lies the sum of its weights, by which it is to be divided. "
        f"{multiplied}",
    }[params.kind]


JOB = JobType(
    command="population export",
    folder="Population",
    parameters=ExportPopulationParams,
    run=_run,
    summary="Cut the particles of a species out with all refined geometry, for other programs",
    inputs=("population",),
)
