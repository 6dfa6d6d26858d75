"""What `halfmap population refine` has to do: which items, with which particles, against which references."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfmap.compute.memory import memory_budget_bytes
from halfmap.data.half_sets import HALVES
from halfmap.data.population import SourceItem, SpeciesParticles
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io.atomic import write_json
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.jobs.population_files import OpenPopulation
from halfmap.jobs.population_images import image_grid, why_broken
from halfmap.jobs.population_members import OpenSource, OpenSpecies
from halfmap.jobs.population_refine_items import (
    ItemTask,
)
from halfmap.jobs.population_refine_movies import with_movies
from halfmap.jobs.population_refine_series import refined_path
from halfmap.jobs.population_species_files import (
    grid_of,
    read_halves,
    read_species_mask,
)
from halfmap.multiparticle.cutting import binned_grid
from halfmap.multiparticle.cutting import memory_bytes as windows_memory_bytes
from halfmap.multiparticle.fit import memory_bytes
from halfmap.multiparticle.linking import root_name
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.reconstruction import memory_bytes as sums_memory_bytes
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.references import ReferencePair, reference_pair
from halfmap.multiparticle.refine import windows_of
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.species import memory_bytes as maps_memory_bytes
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.population_refine import RefinePopulationParams

_WINDOWS_SHARE = 0.5
_ARRAYS_OF_AN_IMAGE = 8


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
    set_aside : items with particles that cannot be used: neither refined nor in the maps.
    """

    opened: OpenPopulation
    tasks: tuple[ItemTask, ...]
    rows: tuple[tuple[NDArray[np.int64], ...], ...]
    particles: tuple[SpeciesParticles, ...]
    resolution_angstrom: tuple[float | None, ...]
    set_aside: tuple[Rejected, ...]


def gather(context: JobContext, params: "RefinePopulationParams", opened: OpenPopulation) -> Work:
    """Find the particles of each item, make references, and say what it will take.

    Raises
    ------
    InputError
        No item holds a particle, or a species has no resolution yet.
    InconsistentDataError
        A half-set of a species has no particle in any item.
    JobFailed
        More than a tenth of the items with particles are broken.
    """
    particles = tuple(one.particles() for one in opened.species)
    pairs = [references_of(one) for one in opened.species]
    references = tuple(context.executor.broadcast(pair) for pair in pairs)
    by_item = [_rows_by_item(one) for one in particles]
    n_workers = context.executor.n_workers
    budget = context.options.memory_bytes or memory_budget_bytes()
    choice = ParameterChoice(**{name: getattr(params, name) for name in ParameterChoice.__dataclass_fields__})
    schedule = Schedule(**{name: getattr(params, name) for name in Schedule.__dataclass_fields__})
    tasks, all_rows, set_aside = [], [], list[Rejected]()
    for source in opened.sources:
        for item in source.source.items:
            rows = tuple(found.get(item.hash, np.zeros(0, dtype=np.int64)) for found in by_item)
            if not any(map(len, rows)):
                continue
            if (reason := why_broken(source, item)) is not None:
                set_aside.append(_set_aside(context, opened, source, item, reason))
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
    check_rejections(set_aside, len(tasks) + len(set_aside), "series")
    if not tasks:
        raise InputError(
            f"Items of a population must hold particles to be refined; got none in those of {opened.path}; see "
            "`halfmap population status`, and add particles with `halfmap population add-particles`."
        )
    for name in _without_effect(choice, tasks):
        context.progress.message(f"Warning: --{name.replace('_', '-')} has no effect, as no series here has it.")
    resolution = _resolution_at_start(context, opened, tasks)
    if params.tilt_movies:
        tasks = with_movies(context, tasks)
    _check_half_sets(opened, particles, all_rows)
    n_particles = sum(task.n_particles for task in tasks)
    context.log(f"{len(tasks)} items with {n_particles} particles of {len(particles)} species")
    largest = max(_memory_bytes(task, params, pairs) for task in tasks)
    context.expect_memory(largest, "references, an item's windows and its sums", n_tasks=len(tasks))
    context.expect_memory(max(maps_memory_bytes(grid_of(one.species)) for one in opened.species), "maps of a species")
    return Work(
        opened=opened,
        tasks=tuple(tasks),
        rows=tuple(all_rows),
        particles=particles,
        resolution_angstrom=resolution,
        set_aside=tuple(set_aside),
    )


def _without_effect(choice: ParameterChoice, tasks: Sequence[ItemTask]) -> list[str]:
    """Return the names of what is to be fitted and no series has: tilt series have no doming, frames no volume."""
    of_each_kind = [task.start for task in {task.source.source.is_of_tilt_series: task for task in tasks}.values()]
    found = []
    for name in ParameterChoice.__dataclass_fields__:
        if value := getattr(choice, name):
            alone = ParameterChoice(**{name: value})
            if not any(Layout(series, 1, 1, alone).n_parameters for series in of_each_kind):
                found.append(name)
    return found


def _set_aside(
    context: JobContext, opened: OpenPopulation, source: OpenSource, item: SourceItem, reason: str
) -> Rejected:
    context.progress.message(
        f"Set aside {item.name}: {reason.rstrip('.')}. It stays as it is and its particles do not count; mend it, or "
        f"leave it out by `halfmap population items {opened.path.parent.name} exclude {source.source.name} "
        f"{root_name(item.name)}`."
    )
    return Rejected(name=item.name, reason=reason)


def _resolution_at_start(
    context: JobContext, opened: OpenPopulation, tasks: Sequence[ItemTask]
) -> tuple[float | None, ...]:
    """Return what the job began from, which a continued one finds as it was, unless something else has changed it."""
    path = context.folder / "state" / "start.json"
    members = [one.species if isinstance(one, OpenSpecies) else one.source for one in opened.members]
    if not path.is_file():
        start = {
            "versions": {one.guid: one.version for one in members},
            "resolutions": [one.species.resolution_angstrom for one in opened.species],
            "items": [task.item.hash for task in tasks],
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
    if start["items"] != [task.item.hash for task in tasks]:
        raise InconsistentDataError(
            f"A refinement must go on with the {len(start['items'])} items it began with; got {len(tasks)}, as some "
            "were broken or mended meanwhile; make them as they were, or begin a new refinement."
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


def _memory_bytes(task: ItemTask, params: ReconstructionParams, references: Sequence[ReferencePair]) -> int:
    """Return a bound on what an item takes: references, an image, windows, and the larger of fit and sums."""
    series = task.series
    grid = image_grid(series)
    present = [
        (species, mine, pair.resolution_angstrom)
        for species, mine, pair in zip(task.species, task.particles, references, strict=True)
        if len(mine)
    ]
    binned = binned_grid(grid, min(resolution for _, _, resolution in present))
    windows = [
        windows_of(series, mine, binned, resolution, species.diameter_angstrom) for species, mine, resolution in present
    ]
    n_particles = [len(mine) for _, mine, _ in present]
    cut = windows_memory_bytes(windows, n_particles, len(series), may_keep_bytes=task.memory_bytes)
    layouts = [Layout(series, len(mine), mine.n_samples, task.choice) for _, mine, _ in present]
    fit = cut + memory_bytes(series, layouts) + 4 * _ARRAYS_OF_AN_IMAGE * grid.n_pixels
    sums = max(sums_memory_bytes(series, mine, species, params, grid) for species, mine, _ in present)
    return sum(half.values.nbytes for pair in references for half in pair.halves) + max(sums, fit)
