"""``halfmap population refine``: sample, microscope and particles of all species fitted together, series by series."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from halfmap.errors import InputError
from halfmap.jobs.population_params import PopulationParams
from halfmap.multiparticle.params import GeometryChoice, ParameterChoice
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.schedule import Schedule
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.jobs.population_files import OpenPopulation


@dataclass(frozen=True, kw_only=True)
class RefinePopulationParams(ParameterChoice, Schedule, ReconstructionParams, PopulationParams):
    """Inputs and settings of ``halfmap population refine``; where nothing is to be fitted, maps are only made again."""

    min_particles: Annotated[int, Ge(1)] = 1
    """Leave items with fewer particles, of all species together, as they are; their particles still count in the
    maps."""

    share_optics: bool = False
    """Fit magnification, aberrations and, of tilt series, the spherical aberration once for all items of a source, not
    for each; every item is then refined twice."""

    tilt_movies: bool = False
    """Align the raw frames of each tilt by the particles, once its series is refined, and average them anew; earlier
    averages are kept in a folder beside them."""

    seed: int = 1
    """Seed of the random phases."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("magnification", "spherical_aberration", "odd_zernike_order", "even_zernike_order")
        if self.share_optics and not any(getattr(self, name) for name in names):
            raise InputError(
                "--share-optics must come with optics to fit; got none; add --magnification, --spherical-aberration, "
                "--odd-zernike-order or --even-zernike-order."
            )
        of_series = [name.replace("_", "-") for name in names if getattr(self, name)]
        if self.objective == "m_ncc" and of_series:
            raise InputError(
                "--objective m_ncc must go with geometry, defocus, astigmatism and phase shift alone; got "
                f"--{', --'.join(of_series)}; leave that out, or fit it by the likelihood."
            )
        if self.tilt_movies and not any(getattr(self, name) for name in GeometryChoice.__dataclass_fields__):
            raise InputError(
                "--tilt-movies must come with geometry to fit, since what is known of a tilt aligns its frames; got "
                "none; add --positions or --image-warp."
            )


def run(context: JobContext, params: RefinePopulationParams) -> Path:
    """Refine, make new maps and versions, and return the path of the population."""
    from halfmap.io.atomic import write_json
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_refine_report import page, series_sections
    from halfmap.jobs.population_refine_run import commit, new_maps
    from halfmap.jobs.population_refine_series import refine_items
    from halfmap.jobs.population_refine_work import gather

    done = context.folder / "versions.json"  # once it is there, a continued job has only what follows to do
    with changing(params.population, context.progress.message) as opened:
        if not done.is_file():
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
            context.report(page(work, of_series, maps, versions))
            write_json(done, versions)
        _keep_options(context, params, opened)
        return _cleared_up(context, opened.path)


def _keep_options(context: JobContext, params: RefinePopulationParams, opened: "OpenPopulation") -> None:
    """Write what was fitted into the population, for M; the job expects this change of its input."""
    from halfmap.io.atomic import replacing
    from halfmap.io.warp_population import write_population
    from halfmap.jobs.population_refine_options import options_of_m
    from halfmap.jobs.population_refine_series import is_anything_chosen
    from halfmap.project.record import expect_input

    options = {**opened.population.refinement_options, **options_of_m(params)}
    if not is_anything_chosen(params) or options == opened.population.refinement_options:
        return
    with replacing(opened.path) as temporary:
        shutil.copyfile(opened.path, temporary)
        write_population(temporary, replace(opened.population, refinement_options=options))
        expect_input(context.folder, opened.path, temporary)


def _cleared_up(context: JobContext, population: Path) -> Path:
    """Remove what the job went on from, and return the population."""
    from halfmap.jobs.per_micrograph import forget_states

    forget_states(context)
    shutil.rmtree(context.folder / "refined", ignore_errors=True)
    return population


JOB = JobType(
    command="population refine",
    folder="Population",
    parameters=RefinePopulationParams,
    run=run,
    summary="Refine species, sample and microscope of a population together",
    inputs=("population",),
    main_files={"population": "*.population"},
)
