"""``halfmap population rotate``, ``shift``, ``expand-symmetry``, ``resample-trajectories``: a species anew.

What a particle shows stays where it is; only the frame in which the species describes it changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.jobs.population_params import MeasuredSpeciesParams, SpeciesOfPopulation
from halfmap.project.job import ImmediateCommand, JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.population import SpeciesParticles
    from halfmap.data.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class RotateParams(MeasuredSpeciesParams):
    """Inputs and settings of ``halfmap population rotate``."""

    rot_degrees: float = 0.0
    """First of the Euler angles (ZYZ, RELION's) of the turn: what lies at v will lie at R v."""

    tilt_degrees: float = 0.0
    """Second angle."""

    psi_degrees: float = 0.0
    """Third angle."""

    def __post_init__(self) -> None:
        if not any((self.rot_degrees, self.tilt_degrees, self.psi_degrees)):
            raise InputError("A turn must be given; got none; give --rot, --tilt or --psi.")


@dataclass(frozen=True, kw_only=True)
class ShiftParams(MeasuredSpeciesParams):
    """Inputs and settings of ``halfmap population shift``."""

    x_angstrom: float = 0.0
    """The point of the maps that will be their centre: x."""

    y_angstrom: float = 0.0
    """Its y."""

    z_angstrom: float = 0.0
    """Its z."""

    def __post_init__(self) -> None:
        if not any((self.x_angstrom, self.y_angstrom, self.z_angstrom)):
            raise InputError("A shift must be given; got none; give --x, --y or --z.")


@dataclass(frozen=True, kw_only=True)
class ResampleMapsParams(MeasuredSpeciesParams):
    """Inputs and settings of ``halfmap population resample``."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size that the maps get. Default: the one they have."""

    diameter_angstrom: Annotated[int, Ge(1)] | None = None
    """Diameter that the species gets; boxes are twice as wide. Default: the one it has."""

    def __post_init__(self) -> None:
        if self.pixel_size_angstrom is None and self.diameter_angstrom is None:
            raise InputError("A pixel size or a diameter must be given; got neither; give --pixel-size or --diameter.")


@dataclass(frozen=True, kw_only=True)
class ExpandParams(SpeciesOfPopulation):
    """What `population expand-symmetry` takes."""

    remaining: str = "C1"
    """Point group that the species keeps, a part of its own."""


@dataclass(frozen=True, kw_only=True)
class ResampleParams(SpeciesOfPopulation):
    """What `population resample-trajectories` takes."""

    samples: Annotated[int, Ge(1), Le(10)]
    """Poses of a particle over the exposure."""


def _rotate(context: JobContext, params: RotateParams) -> Path:
    from halfmap.geometry.rotations import matrix_from_euler
    from halfmap.multiparticle.map_frames import turned_map
    from halfmap.multiparticle.poses import rotated

    turn = matrix_from_euler(params.rot_degrees, params.tilt_degrees, params.psi_degrees)
    return _with_changed_maps(
        context,
        params,
        lambda volume: turned_map(volume, turn),
        lambda particles: rotated(particles, turn.numpy()),
    )


def _shift(context: JobContext, params: ShiftParams) -> Path:
    import numpy as np
    import torch

    from halfmap.multiparticle.map_frames import moved_map
    from halfmap.multiparticle.poses import shifted

    centre = np.array([params.x_angstrom, params.y_angstrom, params.z_angstrom])
    return _with_changed_maps(
        context,
        params,
        lambda volume: moved_map(volume, torch.from_numpy(centre)),
        lambda particles: shifted(particles, centre),
    )


def _resample(context: JobContext, params: ResampleMapsParams) -> Path:
    from halfmap.jobs.population_files import open_population
    from halfmap.multiparticle.species import fitted, species_grid

    species = open_population(params.population).find_species(params.species).species
    fields: dict[str, Any] = {
        "pixel_size_angstrom": params.pixel_size_angstrom or species.pixel_size_angstrom,
        "diameter_angstrom": float(params.diameter_angstrom or species.diameter_angstrom),
    }
    grid = species_grid(fields["diameter_angstrom"], fields["pixel_size_angstrom"])
    return _with_changed_maps(context, params, lambda volume: fitted(volume, grid), lambda particles: particles, fields)


def _with_changed_maps(
    context: JobContext,
    params: MeasuredSpeciesParams,
    of_map: Callable[["Volume"], "Volume"],
    of_particles: Callable[["SpeciesParticles"], "SpeciesParticles"],
    fields: dict[str, Any] | None = None,
) -> Path:
    """Change half-maps, mask and poses alike, and make all maps again; ``fields`` of the species change with them."""
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_report import given_section, species_facts, species_sections
    from halfmap.jobs.population_species_files import (
        commit_species,
        measured_maps,
        read_halves,
        read_species_mask,
        stage_maps,
        stage_particles,
    )
    from halfmap.multiparticle.species import binary_mask, box_sphere
    from halfmap.report.blocks import Facts, Report

    with changing(params.population, context.progress.message) as opened:
        species = opened.find_species(params.species)
        halves = read_halves(species)
        half1, half2, mask = (of_map(volume) for volume in (*halves, read_species_mask(species)))
        grid = half1.grid
        if grid != halves[0].grid:  # a new box has a sphere of its own
            half1, half2 = (replace(half, values=half.values * box_sphere(grid)) for half in (half1, half2))
        moved = binary_mask(replace(mask, values=mask.values.clamp(0, 1)), grid, level=0.5)
        named = replace(species.species, **(fields or {}))
        known, maps = measured_maps(named, half1, half2, moved, context=context, seed=params.seed)
        particles = of_particles(species.particles())
        with species.versions.staging() as staged:
            stage_maps(staged, species.path.stem, maps)
            stage_particles(staged, species.path.stem, particles, known.symmetry)
            made = commit_species(species, staged, known)
    version = species.species.version if made is None else made.version
    note = f"{params.species} was changed as a whole, maps, mask and {len(particles)} poses alike: version {version}."
    context.progress.message(note)
    if known.symmetry != "C1" and not fields:
        context.progress.message(
            f"Its maps have the symmetry {known.symmetry}, whose axes must lie as RELION's: check that they still do."
        )
    context.report(
        Report(
            title=f"Species {params.species}",
            summary=note,
            facts=Facts(facts=species_facts(known, maps, len(particles))),
            sections=[given_section(half1, half2, moved, note=note), *species_sections(maps)],
        )
    )
    return species.path


def expand_symmetry(params: ExpandParams) -> Iterator[str]:
    """Copy each particle to all its equivalent views, and lower the symmetry of the species."""
    from halfmap.geometry.symmetry_names import canonical_name
    from halfmap.multiparticle.poses import expanded

    remaining = canonical_name(params.remaining)
    yield from _with_changed_particles(
        params,
        lambda particles, group: expanded(particles, group=group, remaining=remaining),
        {"symmetry": remaining},
    )


def resample_trajectories(params: ResampleParams) -> Iterator[str]:
    """Give the particles of a species another number of poses over the exposure."""
    from halfmap.multiparticle.poses import resampled

    yield from _with_changed_particles(
        params,
        lambda particles, group: resampled(particles, params.samples),
        {"n_temporal_samples": params.samples},
    )


def _with_changed_particles(
    params: SpeciesOfPopulation,
    change: Callable[["SpeciesParticles", str], "SpeciesParticles"],
    fields: dict[str, Any],
) -> Iterator[str]:
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_species_files import commit_species, stage_particles

    said: list[str] = []
    with changing(params.population, said.append) as opened:
        species = opened.find_species(params.species)
        before = species.particles()
        particles = change(before, species.species.symmetry)
        known = replace(species.species, **fields)
        with species.versions.staging() as staged:
            stage_particles(staged, species.path.stem, particles, known.symmetry)
            made = commit_species(species, staged, known)
    yield from said
    if made is None:
        yield f"{params.species} has not changed."
    else:
        yield (
            f"{params.species} has {len(particles)} particles of {particles.n_samples} poses, {len(before)} of "
            f"{before.n_samples} before; symmetry {made.symmetry}, version {made.version}."
        )


ROTATE = JobType(
    command="population rotate",
    folder="Population",
    parameters=RotateParams,
    run=_rotate,
    summary="Turn the maps of a species, and all poses with them",
    inputs=("population",),
)
SHIFT = JobType(
    command="population shift",
    folder="Population",
    parameters=ShiftParams,
    run=_shift,
    summary="Move the centre of a species, and all positions with it",
    inputs=("population",),
)
RESAMPLE_MAPS = JobType(
    command="population resample",
    folder="Population",
    parameters=ResampleMapsParams,
    run=_resample,
    summary="Bring the maps of a species to another pixel size or box",
    inputs=("population",),
)
EXPAND = ImmediateCommand(
    command="population expand-symmetry",
    parameters=ExpandParams,
    run=expand_symmetry,
    summary="Copy particles of a species to all their equivalent views, and lower its symmetry",
    positional=("population", "species"),
)
RESAMPLE = ImmediateCommand(
    command="population resample-trajectories",
    parameters=ResampleParams,
    run=resample_trajectories,
    summary="Give the particles of a species another number of poses over the exposure",
    positional=("population", "species", "samples"),
)
