"""``halfmap population add-particles``: more particles for a species, each taken once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.jobs.population_params import SpeciesOfPopulation
from halfmap.project.job import ImmediateCommand

_DUPLICATE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class AddParticlesParams(SpeciesOfPopulation):
    """What `population add-particles` takes."""

    particles: Path
    """Particles as `population add-species` takes them."""

    sources: tuple[str, ...] = ()
    """Names of the sources to look for them in. Default: all."""

    duplicate_distance_angstrom: Annotated[float, Gt(0)] | None = None
    """A particle this near to another of its item is the same one. Default: a quarter of the diameter."""

    coordinate_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixels in which the table counts coordinates. Default: worked out from the table."""

    shift_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixels in which the table counts shifts that are not in Å. Default: worked out from the table."""


def add_particles(params: AddParticlesParams) -> Iterator[str]:
    """Add particles and yield how many; the maps stay as they are until the next refinement."""
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_given import linked_particles
    from halfmap.jobs.population_species_files import commit_species, stage_particles
    from halfmap.multiparticle.linking import find_duplicates, joined
    from halfmap.multiparticle.poses import resampled

    if not params.particles.is_file():
        raise InputError(f"Particles must be a STAR file; got {params.particles}; name one that exists.")
    said: list[str] = []
    with changing(params.population, said.append) as opened:
        species = opened.find_species(params.species)
        sources = opened.chosen_sources(params.sources)
        link, _ = linked_particles(
            params.particles,
            sources,
            coordinate_pixel_size_angstrom=params.coordinate_pixel_size_angstrom,
            shift_pixel_size_angstrom=params.shift_pixel_size_angstrom,
            say=said.append,
        )
        present = species.particles()
        distance = params.duplicate_distance_angstrom or _DUPLICATE_SHARE * species.species.diameter_angstrom
        is_duplicate = find_duplicates(link.particles, present, distance_angstrom=distance)
        new = resampled(link.particles.take(~is_duplicate), present.n_samples)
        if not len(new):
            raise InputError(
                f"Particles to add must be new to {params.species}; got {len(link.particles)} within {distance:.3g} Å "
                "of ones that it has; give others, or a smaller --duplicate-distance."
            )
        if is_duplicate.any():
            said.append(
                f"{int(is_duplicate.sum())} are left out: within {distance:.3g} Å of another particle of their item."
            )
        used = {one.source.guid: one.source.version for one in sources}
        changed = replace(species.species, used_sources={**species.species.used_sources, **used})
        with species.versions.staging() as staged:
            stage_particles(staged, species.path.stem, joined(present, new), changed.symmetry)
            made = commit_species(species, staged, changed)
    assert made is not None  # its particles differ
    yield from said
    yield f"{params.species} has {len(present)} and {len(new)} more particles, version {made.version}."


COMMAND = ImmediateCommand(
    command="population add-particles",
    parameters=AddParticlesParams,
    run=add_particles,
    summary="Add particles to a species, each once",
    positional=("population", "species", "particles"),
)
