"""``halfmap population refine``: sample, microscope and particles of all species fitted together, series by series."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from halfmap.errors import InputError
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.schedule import Schedule
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class RefinePopulationParams(ParameterChoice, Schedule, ReconstructionParams):
    """Inputs and settings of ``halfmap population refine``; where nothing is to be fitted, maps are only made again."""

    population: Path
    """The .population file, or the folder that holds it."""

    min_particles: Annotated[int, Ge(1)] = 1
    """Leave items with fewer particles, of all species together, as they are; their particles still count in the
    maps."""

    seed: int = 1
    """Seed of the random phases."""


def run(context: JobContext, params: RefinePopulationParams) -> Path:
    """Refine, make new maps and versions, and return the path of the population."""
    from halfmap.jobs.per_micrograph import forget_states
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_refine_report import page, series_sections
    from halfmap.jobs.population_refine_run import commit, gather, new_maps, refine_items

    with changing(params.population, context.progress.message) as opened:
        if not opened.species or not opened.sources:
            missing = "species" if not opened.species else "sources"
            raise InputError(
                f"A population must have sources and species to be refined; {opened.path} has no {missing}; see "
                f"`halfmap population add-{'species' if missing == 'species' else 'source'}`."
            )
        work = gather(context, params, opened)
        fitted = refine_items(context, params, work)
        maps = [new_maps(context, params, work, fitted, number) for number in range(len(opened.species))]
        of_series = series_sections(work, fitted)
        versions = commit(context, work, maps)
        path = opened.path
    context.report(page(work, of_series, maps, versions))
    forget_states(context)
    return path


JOB = JobType(
    command="population refine",
    folder="Population",
    parameters=RefinePopulationParams,
    run=run,
    summary="Refine species, sample and microscope of a population together",
    inputs=("population",),
    main_files={"population": "*.population"},
)
