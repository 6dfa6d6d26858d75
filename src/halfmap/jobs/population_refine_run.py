"""The passes of `halfmap population refine`: items one by one, maps species by species, versions of all at the end."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from halfmap.compute.allocator import give_back
from halfmap.data.population import Species, SpeciesParticles
from halfmap.io.species_particles import as_written
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.jobs.population_refine_items import (
    ItemSums,
    SumsTask,
    add_sums,
    moved,
    sum_item,
)
from halfmap.jobs.population_refine_movies import stage_averages
from halfmap.jobs.population_refine_series import Fitted, refined_path
from halfmap.jobs.population_sources import commit_source
from halfmap.jobs.population_species_files import (
    commit_species,
    measured_maps,
    read_species_mask,
    stage_maps,
    stage_particles,
)
from halfmap.multiparticle.reconstruction import combine
from halfmap.multiparticle.species import SpeciesMaps
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.population_refine import RefinePopulationParams
from halfmap.jobs.population_refine_work import Work


@dataclass(frozen=True, kw_only=True, eq=False)
class NewMaps:
    """What became of a species.

    Parameters
    ----------
    species : with its new resolution.
    maps : made of the half-maps.
    particles : at their new poses.
    n_seen : particles that lie in some image.
    rejected : items whose images could not be read.
    """

    species: Species
    maps: SpeciesMaps
    particles: SpeciesParticles
    n_seen: int
    rejected: tuple[Rejected, ...]


def new_maps(context: JobContext, params: "RefinePopulationParams", work: Work, fitted: Fitted, number: int) -> NewMaps:
    """Reconstruct a species at its refined poses, in refined series.

    Raises
    ------
    JobFailed
        More than a tenth of the items with its particles cannot be read.
    InconsistentDataError
        None can.
    """
    opened = work.opened.species[number]
    species = opened.species
    refined = [(item, outcome.species[number]) for item, outcome in fitted.outcomes.items()]
    found = [(work.rows[item][number], one) for item, one in refined if one is not None]
    particles = moved(work.particles[number], [mine for mine, _ in found], [one for _, one in found])
    # of what the next reconstruction will read
    particles = as_written(particles)
    tasks = [
        SumsTask(item=task, number=number, particles=particles.take(rows[number]), params=params)
        for task, rows in zip(work.tasks, work.rows, strict=True)
        if len(rows[number])
    ]
    total: ItemSums = context.executor.reduce(
        sum_item, tasks, add_sums, progress=context.progress, label=f"Reconstructing {species.name}"
    )
    check_rejections(total.rejected, len(tasks), "series")
    assert total.sums is not None  # some item could be read
    halves = combine(total.sums, species, params)
    give_back()
    mask = read_species_mask(opened)
    context.log(f"{species.name}: {sum(total.sums.n_images)} images of {sum(total.sums.n_particles)} particles")
    known, maps = measured_maps(species, halves.half1, halves.half2, mask, context=context, seed=params.seed)
    before = work.resolution_angstrom[number]
    context.progress.message(
        f"{species.name}: {maps.resolution_angstrom:.2f} Å{'' if before is None else f', {before:.2f} Å before'}."
    )
    return NewMaps(
        species=known,
        maps=maps,
        particles=particles,
        n_seen=sum(total.sums.n_particles),
        rejected=total.rejected,
    )


def commit(context: JobContext, work: Work, maps: Sequence[NewMaps]) -> dict[str, str]:
    """Make new versions of sources and species, and bring them into use; return each one's by its name.

    Everything is written beside the versions in use first, so that a full disk leaves all of them as they were. A
    killed commit is finished by the next command on the population, member by member; continuing the job makes those
    that are left.
    """
    versions = {}
    used_sources = {}
    with ExitStack() as stack:
        of_sources = [stack.enter_context(source.versions.staging()) for source in work.opened.sources]
        of_species = [stack.enter_context(opened.versions.staging()) for opened in work.opened.species]
        for source, staged in zip(work.opened.sources, of_sources, strict=True):
            for refined in (refined_path(context.folder, source, item) for item in source.source.items):
                if refined.is_file():
                    shutil.copyfile(refined, staged / refined.name)
            stage_averages(source, staged, work.tasks)
        for opened, staged, new in zip(work.opened.species, of_species, maps, strict=True):
            stage_maps(staged, opened.path.stem, new.maps)
            stage_particles(staged, opened.path.stem, new.particles, new.species.symmetry)
        for source, staged in zip(work.opened.sources, of_sources, strict=True):
            made = commit_source(source, staged, source.source)
            now = made or source.source
            used_sources[now.guid] = now.version
            versions[now.name] = now.version if made is not None else f"{now.version}, as before"
        for opened, staged, new in zip(work.opened.species, of_species, maps, strict=True):
            species = replace(new.species, used_sources={**opened.species.used_sources, **used_sources})
            known = commit_species(opened, staged, species)
            versions[species.name] = known.version if known is not None else f"{opened.species.version}, as before"
    for name, version in versions.items():
        context.log(f"{name} is at version {version}")
    return versions
