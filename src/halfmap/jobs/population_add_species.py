"""``halfmap population add-species``: half-maps, a mask and particles become a species of a population."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.jobs.population_params import PopulationParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class AddSpeciesParams(PopulationParams):
    """Inputs and settings of ``halfmap population add-species``."""

    name: str
    """Name of the species, and of its files."""

    diameter_angstrom: Annotated[int, Ge(1)]
    """Diameter of the particle; maps get boxes of twice that."""

    half1: Path
    """An unfiltered half-map, or the folder of the refinement that made both."""

    particles: Path
    """Particles of the half-maps: run_data.star of RELION, particles of tomograms, or those of a species of M."""

    half2: Path | None = None
    """The other half-map. Default: found beside the first, by its name."""

    mask: Path | None = None
    """Mask on the grid of the half-maps; what reaches 0.25 counts. Default: made from their mean."""

    mask_threshold: float | None = None
    """Grey value of the low-passed mean from which a voxel is in the mask. Default: found from the map."""

    mask_low_pass_angstrom: Annotated[float, Gt(0)] = 15.0
    """Low-pass the mean at this resolution for the mask."""

    molecular_weight_kda: Annotated[float, Gt(0)] | None = None
    """Weight of the particle in kDa: its volume is compared with the mask's."""

    symmetry: str = "C1"
    """Point group: C1, C2, …, D2, …, T, O, I1 to I4, axes as in RELION."""

    temporal_samples: Annotated[int, Ge(1), Le(10)] = 1
    """Poses of a particle over the exposure: 1 for poses that do not change, 2 or 3 for ones that do."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Calibrated pixel size of half-maps and mask, instead of the one in their headers."""

    resample_to_angstrom: Annotated[float, Gt(0)] | None = None
    """Bring the maps to this pixel size. Default: their own."""

    sources: tuple[str, ...] = ()
    """Names of the sources to look for the particles in. Default: all."""

    coordinate_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixels in which the table counts coordinates. Default: worked out from the table."""

    shift_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixels in which the table counts shifts that are not in Å. Default: worked out from the table."""

    seed: int = 1
    """Seed of the random phases."""

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask_threshold is not None:
            raise InputError("--mask-threshold must go without --mask; got both; leave one out.")


def _run(context: JobContext, params: AddSpeciesParams) -> Path:
    from dataclasses import replace

    from halfmap.data.population import Species
    from halfmap.geometry.symmetry_names import canonical_name
    from halfmap.io import warp_population
    from halfmap.jobs.population_files import changing, check_name, new_guid
    from halfmap.jobs.population_given import given_maps, linked_particles
    from halfmap.jobs.population_members import OpenSpecies
    from halfmap.jobs.population_report import (
        given_section,
        link_section,
        species_facts,
        species_sections,
        views_section,
    )
    from halfmap.jobs.population_species_files import commit_species, measured_maps, stage_maps, stage_particles
    from halfmap.multiparticle.poses import resampled
    from halfmap.report.blocks import Facts, Report

    say = context.progress.message
    with changing(params.population, say) as opened:
        check_name(params.name)
        if params.name in [one.species.name for one in opened.species]:
            raise InputError(
                f"Species of a population must have different names; got {params.name} again; choose another --name."
            )
        species = Species(
            guid=new_guid(),
            name=params.name,
            pixel_size_angstrom=1.0,
            diameter_angstrom=float(params.diameter_angstrom),
            symmetry=canonical_name(params.symmetry),
            n_temporal_samples=params.temporal_samples,
        )
        sources = opened.chosen_sources(params.sources)
        link, notes = linked_particles(
            params.particles,
            sources,
            coordinate_pixel_size_angstrom=params.coordinate_pixel_size_angstrom,
            shift_pixel_size_angstrom=params.shift_pixel_size_angstrom,
            say=say,
        )
        particles = resampled(link.particles, params.temporal_samples)
        given = given_maps(
            (params.half1, params.half2),
            diameter_angstrom=species.diameter_angstrom,
            mask=params.mask,
            mask_threshold=params.mask_threshold,
            mask_low_pass_angstrom=params.mask_low_pass_angstrom,
            pixel_size_angstrom=params.pixel_size_angstrom,
            resample_to_angstrom=params.resample_to_angstrom,
            say=say,
        )
        species = replace(
            species,
            pixel_size_angstrom=given.half1.grid.pixel_size_angstrom,
            molecular_weight_kda=params.molecular_weight_kda or species.molecular_weight_kda,
            used_sources={one.source.guid: one.source.version for one in sources},
        )
        first = [
            given_section(given.half1, given.half2, given.mask, note=given.note),
            link_section(link, notes),
            views_section(particles, species.symmetry),
        ]
        title = f"Species {species.name}"
        context.report(
            Report(title=title, summary="What was given, before it is committed.", sections=first, status="running")
        )

        species, maps = measured_maps(
            species,
            given.half1,
            given.half2,
            given.mask,
            with_weight=params.molecular_weight_kda is not None,
            context=context,
            seed=params.seed,
        )
        path = warp_population.species_path(opened.path, species.name, species.guid)
        new = OpenSpecies(path=path, species=species)
        with new.versions.staging() as staged:
            stage_maps(staged, path.stem, maps)
            stage_particles(staged, path.stem, particles, species.symmetry)
            commit_species(new, staged, species)
        warp_population.write_population(opened.path, opened.listing(species=path))
    for concern in maps.result.concerns:
        say(concern.words)
    say(f"{species.name}: {len(particles)} particles, resolution {maps.resolution_angstrom:.2f} Å.")
    levels = [concern.level for concern in maps.result.concerns]
    context.report(
        Report(
            title=title,
            summary=f"{params.half1.name} and {params.particles.name} are species {species.name} of "
            f"{opened.population.name} now.",
            facts=Facts(facts=species_facts(species, maps, len(particles))),
            sections=[*first, *species_sections(maps)],
            level="bad" if "bad" in levels else "warning" if "warning" in levels or link.unmatched else "good",
        )
    )
    return path


JOB = JobType(
    command="population add-species",
    folder="Population",
    parameters=AddSpeciesParams,
    run=_run,
    summary="Make half-maps, a mask and particles a species of a population",
    inputs=("population", "half1", "half2", "mask", "particles"),
)
