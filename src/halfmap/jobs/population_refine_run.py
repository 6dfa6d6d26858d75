"""The passes of `halfmap population refine`: items one by one, maps species by species, versions of all at the end."""

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfmap.compute.memory import memory_budget_bytes
from halfmap.data.half_sets import HALVES
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import Species, SpeciesParticles
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io.atomic import write_json
from halfmap.io.species_particles import as_written
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.jobs.population_files import OpenPopulation
from halfmap.jobs.population_members import OpenSpecies
from halfmap.jobs.population_refine_items import (
    ItemSums,
    ItemTask,
    SumsTask,
    add_sums,
    moved,
    sum_item,
)
from halfmap.jobs.population_refine_movies import bring_averages_into_use, with_movies
from halfmap.jobs.population_refine_series import Fitted, refined_path
from halfmap.jobs.population_sources import commit_source
from halfmap.jobs.population_species_files import (
    commit_species,
    grid_of,
    measured_maps,
    read_halves,
    read_species_mask,
    stage_maps,
    stage_particles,
)
from halfmap.multiparticle.cutting import binned_grid
from halfmap.multiparticle.fit import memory_bytes
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction import combine
from halfmap.multiparticle.references import ReferencePair, reference_pair
from halfmap.multiparticle.refine import windows_of
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.species import SpeciesMaps
from halfmap.multiparticle.species import memory_bytes as maps_memory_bytes
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.population_refine import RefinePopulationParams

_WINDOWS_SHARE = 0.5
_ARRAYS_OF_AN_IMAGE = 8
_BYTES_OF_SUMS = 24
"""A voxel of a half transform has data and weight, 12 bytes, of two halves; as much again where sums meet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What is to be done.

    Parameters
    ----------
    opened : the population.
    tasks : of all items that hold particles.
    rows : of each item, the numbers of its particles in each species.
    particles : of each species, as they are.
    resolution_angstrom : of each species when the job began; None before its first map.
    """

    opened: OpenPopulation
    tasks: tuple[ItemTask, ...]
    rows: tuple[tuple[NDArray[np.int64], ...], ...]
    particles: tuple[SpeciesParticles, ...]
    resolution_angstrom: tuple[float | None, ...]


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


def gather(context: JobContext, params: "RefinePopulationParams", opened: OpenPopulation) -> Work:
    """Find the particles of each item, make references, and say what it will take.

    Raises
    ------
    InputError
        No item holds a particle, or a species has no resolution yet.
    InconsistentDataError
        A half-set of a species has no particle in any item.
    """
    resolution = _resolution_at_start(context, opened)
    particles = tuple(one.particles() for one in opened.species)
    pairs = [references_of(one) for one in opened.species]
    references = tuple(context.executor.broadcast(pair) for pair in pairs)
    by_item = [_rows_by_item(one) for one in particles]
    n_workers = context.executor.n_workers
    budget = context.options.memory_bytes or memory_budget_bytes()
    choice = ParameterChoice(**{name: getattr(params, name) for name in ParameterChoice.__dataclass_fields__})
    schedule = Schedule(**{name: getattr(params, name) for name in Schedule.__dataclass_fields__})
    tasks, all_rows = [], []
    for source in opened.sources:
        for item in source.source.items:
            rows = tuple(found.get(item.hash, np.zeros(0, dtype=np.int64)) for found in by_item)
            if not any(map(len, rows)):
                continue
            task = ItemTask(
                source=source,
                item=item,
                species=tuple(one.species for one in opened.species),
                references=references,
                particles=tuple(one.take(mine) for one, mine in zip(particles, rows, strict=True)),
                choice=choice,
                schedule=schedule,
                memory_bytes=int(_WINDOWS_SHARE * budget / n_workers),
                refined=refined_path(context.folder, source, item),
                aligns_movies=params.tilt_movies,
            )
            tasks.append(task)
            all_rows.append(rows)
    if not tasks:
        raise InputError(
            f"Items of a population must hold particles to be refined; got none in those of {opened.path}; see "
            "`halfmap population status`, and add particles with `halfmap population add-particles`."
        )
    if params.tilt_movies:
        tasks = with_movies(context, tasks)
    _check_half_sets(opened, particles, all_rows)
    n_particles = sum(task.n_particles for task in tasks)
    context.log(f"{len(tasks)} items with {n_particles} particles of {len(particles)} species")
    largest = max(_memory_bytes(task, params.padding, pairs) for task in tasks)
    context.expect_memory(largest, "references, an item's windows and its sums", n_tasks=len(tasks))
    context.expect_memory(max(maps_memory_bytes(grid_of(one.species)) for one in opened.species), "maps of a species")
    return Work(
        opened=opened,
        tasks=tuple(tasks),
        rows=tuple(all_rows),
        particles=particles,
        resolution_angstrom=resolution,
    )


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
        for opened, staged, new in zip(work.opened.species, of_species, maps, strict=True):
            stage_maps(staged, opened.path.stem, new.maps)
            stage_particles(staged, opened.path.stem, new.particles, new.species.symmetry)
        bring_averages_into_use(work.tasks)
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
    shutil.rmtree(context.folder / "refined", ignore_errors=True)
    return versions


def _resolution_at_start(context: JobContext, opened: OpenPopulation) -> tuple[float | None, ...]:
    """Return what the job began from, which a continued one finds as it was, unless something else has changed it."""
    path = context.folder / "state" / "start.json"
    members = [one.species if isinstance(one, OpenSpecies) else one.source for one in opened.members]
    if not path.is_file():
        start = {
            "versions": {one.guid: one.version for one in members},
            "resolutions": [one.species.resolution_angstrom for one in opened.species],
        }
        path.parent.mkdir(exist_ok=True)
        write_json(path, start)
    start = json.loads(path.read_text())
    for one in members:
        began = start["versions"].get(one.guid)
        if began not in (one.version, one.previous_version):
            raise InconsistentDataError(
                f"A refinement must go on from the version it began with; {one.name} was at {began} and is at "
                f"{one.version} now; check that version out, or begin a new refinement."
            )
    return tuple(start["resolutions"])


def _check_half_sets(
    opened: OpenPopulation, particles: Sequence[SpeciesParticles], rows: Sequence[tuple[NDArray[np.int64], ...]]
) -> None:
    for number, (one, mine) in enumerate(zip(opened.species, particles, strict=True)):
        subsets = mine.random_subset[np.concatenate([of_item[number] for of_item in rows])]
        missing = [str(half) for half in HALVES if half not in subsets]
        if missing:
            raise InconsistentDataError(
                f"Items of the population's sources must hold particles of both half-sets of {one.species.name}; got "
                f"none of {' and '.join(missing)}; add particles, or the source that they are in."
            )


def references_of(opened: OpenSpecies) -> ReferencePair:
    """Return what particles of a species are compared with: its half-maps at their resolution."""
    species = opened.species
    resolution = species.resolution_angstrom
    if resolution is None or not math.isfinite(resolution):
        raise InputError(
            f"A species must have a resolution before it is refined; {species.name} has none; measure its maps with "
            "`halfmap population update-mask`, or add it again."
        )
    half1, half2 = read_halves(opened)
    finest = 2 * species.pixel_size_angstrom
    return reference_pair(
        half1,
        half2,
        max(resolution, finest),
        diameter_angstrom=species.diameter_angstrom,
        mask=read_species_mask(opened),
    )


def _rows_by_item(particles: SpeciesParticles) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of the particles in each item, by its hash."""
    hashes, group = np.unique(particles.source_hash.astype(str), return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=len(hashes)))
    return dict(zip(hashes.tolist(), np.split(order, ends[:-1]), strict=True))


def _memory_bytes(task: ItemTask, padding: int, references: Sequence[ReferencePair]) -> int:
    """Return a bound on what an item takes: references, an image, windows, and the larger of fit and sums.

    Where the windows of all images do not fit into what they may take, there are those of one image at a time.
    """
    series = task.series
    grid = _image_grid(series)
    present = [
        (species, mine, pair.resolution_angstrom)
        for species, mine, pair in zip(task.species, task.particles, references, strict=True)
        if len(mine)
    ]
    sums = _BYTES_OF_SUMS * (padding * max(species.box_pixel for species, _, _ in present)) ** 3
    binned = binned_grid(grid, min(resolution for _, _, resolution in present))
    of_image = sum(
        8 * len(mine) * len(windows_of(series, mine, binned, resolution, species.diameter_angstrom).band)
        for species, mine, resolution in present
    )
    cut = of_image * len(series)
    layouts = [Layout(series, len(mine), mine.n_samples, task.choice) for _, mine, _ in present]
    fit = memory_bytes(series, layouts) + (cut if cut <= task.memory_bytes else of_image)
    of_references = sum(half.values.nbytes for pair in references for half in pair.halves)
    return of_references + 4 * _ARRAYS_OF_AN_IMAGE * grid.n_pixels + max(sums, fit)


def _image_grid(series: TiltSeries | FrameSeries) -> ImageGrid:
    pixel = series.optics.pixel_size_angstrom
    x, y = (round(size / pixel) for size in series.image_size_angstrom)
    return ImageGrid(shape=(y, x), pixel_size_angstrom=pixel)
