"""The tasks of `halfmap population refine`: one item refined, and its particles back-projected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.compute.allocator import give_back
from halfmap.compute.broadcast import Broadcast
from halfmap.compute.device import task_device
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SourceItem, Species, SpeciesParticles
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.jobs.per_micrograph import Rejected
from halfmap.jobs.population_images import images_of_item
from halfmap.jobs.population_members import OpenSource
from halfmap.jobs.population_tilt_movies import AlignedMovie, align_movies
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction import SeriesSums, accumulate
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.refine import FittedSpecies, SeriesProblem, SpeciesProblem, refine_series
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.shared_optics import OpticsQuadratic, with_optics
from halfmap.multiparticle.sub_iterations import Step


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTask:
    """An item with the particles of all species in it.

    Parameters
    ----------
    source, item : where it is.
    species : in the population's order.
    references : handles of `halfmap.multiparticle.references.ReferencePair`, one for each species.
    particles : of each species, those in the item.
    choice, schedule : of the fit.
    memory_bytes : for what is cut out of its images.
    refined : where its refined metadata are written, and read again.
    optics : fields of its optics that it begins with, where the items of its source share them.
    aligns_movies : whether the movies of its tilts are aligned, too.
    """

    source: OpenSource
    item: SourceItem
    species: tuple[Species, ...]
    references: tuple[Broadcast, ...]
    particles: tuple[SpeciesParticles, ...]
    choice: ParameterChoice
    schedule: Schedule
    memory_bytes: int
    refined: Path
    optics: Mapping[str, Any] | None = None
    aligns_movies: bool = False

    @property
    def averages(self) -> Path:
        """Where new averages of its tilts are written."""
        return self.refined.parent / "movies" / self.refined.stem

    @property
    def n_particles(self) -> int:
        """Of all species."""
        return sum(map(len, self.particles))

    @property
    def series(self) -> TiltSeries | FrameSeries:
        """The item's metadata: refined ones where there are some."""
        return self.source.read_item(self.item, self.refined if self.refined.is_file() else None)

    @property
    def start(self) -> TiltSeries | FrameSeries:
        """The metadata that its refinement begins with."""
        series = self.source.read_item(self.item)
        return series if self.optics is None else with_optics(series, self.optics)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemOutcome:
    """What became of an item; the refined series is in its file.

    Parameters
    ----------
    movies : of the tilts whose movies were aligned.
    others : as of `halfmap.multiparticle.refine.SeriesResult`.
    """

    is_changed: bool
    reason: str
    species: tuple[FittedSpecies | None, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    change: np.ndarray
    deviation: np.ndarray
    gauges: tuple[str, ...]
    concerns: tuple[str, ...]
    n_effective: float
    objective_before: float
    objective_after: float
    steps: tuple[Step, ...]
    optics: OpticsQuadratic | None
    movies: tuple[AlignedMovie, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class SumsTask:
    """The particles of one species in an item, to be back-projected at their refined poses."""

    item: ItemTask
    number: int
    particles: SpeciesParticles
    params: ReconstructionParams


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSums:
    """Sums of items, and those that could not be read."""

    sums: SeriesSums | None
    rejected: tuple[Rejected, ...]


def refine_item(task: ItemTask) -> ItemOutcome:
    """Refine an item and write its metadata."""
    series = task.start
    problem = SeriesProblem(
        series=series,
        images=images_of_item(task.source, task.item, series),
        species=tuple(
            SpeciesProblem(
                name=species.name,
                particles=particles,
                references=reference.load(),
                diameter_angstrom=species.diameter_angstrom,
            )
            for species, particles, reference in zip(task.species, task.particles, task.references, strict=True)
        ),
    )
    result = refine_series(
        problem,
        task.choice,
        schedule=task.schedule,
        memory_bytes=task.memory_bytes,
        device=str(task_device()),
    )
    assert isinstance(result.series, TiltSeries | FrameSeries)
    movies: tuple[AlignedMovie, ...] = ()
    if task.aligns_movies and isinstance(result.series, TiltSeries):
        movies = align_movies(
            task.source,
            task.item,
            result.series,
            [_refined(one, fitted) for one, fitted in zip(problem.species, result.species, strict=True)],
            task.averages,
            memory_bytes=task.memory_bytes,
            device=str(task_device()),
        )
    task.source.write_item(task.refined.parent, task.item, result.series)
    give_back()
    return ItemOutcome(
        is_changed=result.is_changed,
        reason=result.reason,
        species=result.species,
        names=result.names,
        units=result.units,
        change=result.change,
        deviation=result.deviation,
        gauges=result.gauges,
        concerns=result.concerns,
        n_effective=result.n_effective,
        objective_before=result.objective_before,
        objective_after=result.objective_after,
        steps=result.steps,
        optics=result.optics,
        movies=movies,
    )


def _refined(species: SpeciesProblem, fitted: FittedSpecies | None) -> SpeciesProblem:
    if fitted is None:
        return species
    return replace(species, particles=species.particles.with_poses(fitted.position_angstrom, fitted.rotation))


def is_written(task: ItemTask) -> bool:
    """Return whether the refined metadata of an item are there."""
    return task.refined.is_file()


def sum_item(task: SumsTask) -> ItemSums:
    """Back-project a species' particles in an item; an item whose images cannot be read has none."""
    item = task.item
    try:
        series = item.series
        images = images_of_item(item.source, item.item, series, item.averages)
        sums = accumulate(series, images, task.particles, item.species[task.number], task.params)
    except (FormatError, InputError, InconsistentDataError) as error:
        return ItemSums(sums=None, rejected=(Rejected(name=item.item.name, reason=str(error)),))
    return ItemSums(sums=sums, rejected=())


def add_sums(one: ItemSums, other: ItemSums) -> ItemSums:
    """Add the sums of items."""
    rejected = (*one.rejected, *other.rejected)
    if one.sums is None or other.sums is None:
        return ItemSums(sums=one.sums or other.sums, rejected=rejected)
    return ItemSums(sums=one.sums + other.sums, rejected=rejected)


def moved(particles: SpeciesParticles, rows: Sequence[np.ndarray], fitted: Sequence[FittedSpecies]) -> SpeciesParticles:
    """Return the particles of a species with the poses that their items have found.

    Parameters
    ----------
    rows, fitted : numbers of the particles in each item that was refined, and what became of them.
    """
    position, rotation = particles.position_angstrom.copy(), particles.rotation.copy()
    for mine, found in zip(rows, fitted, strict=True):
        position[mine], rotation[mine] = found.position_angstrom, found.rotation
    return particles.with_poses(position, rotation)
