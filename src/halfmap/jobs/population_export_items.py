"""The tasks of `halfmap population export`: the particles of one item, cut out and written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SourceItem, Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.jobs.population_files import OpenPopulation
from halfmap.jobs.population_images import image_grid, images_of_item, why_broken
from halfmap.jobs.population_members import OpenSource, OpenSpecies
from halfmap.multiparticle.export import export_grid, exported_images, image_table
from halfmap.multiparticle.export import memory_bytes as images_memory_bytes
from halfmap.multiparticle.linking import root_name
from halfmap.multiparticle.sub_tomograms import sub_tomograms
from halfmap.report.blocks import Block, Gallery

if TYPE_CHECKING:
    from halfmap.jobs.population_export import ExportPopulationParams

_SUMS_BYTES = 1 << 30
_SHOWN = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportTask:
    """An item with the particles of a species in it.

    Parameters
    ----------
    source, item, species, particles : what to cut.
    params : of the job.
    folder : of the job.
    """

    source: OpenSource
    item: SourceItem
    species: Species
    particles: SpeciesParticles
    params: "ExportPopulationParams"
    folder: Path

    @property
    def root(self) -> str:
        """Name of the item without ending."""
        return root_name(self.item.name)

    @property
    def stack(self) -> Path:
        """All images of the item, in the order of its table; taken apart again where each particle gets its own."""
        kept = self.params.kind == "images"
        return self.folder / ("Images" if kept else "Particles") / f"{self.root}.mrcs"

    def file_of_particle(self, row: int, ending: str) -> Path:
        """Return the file of one particle, counted from 1."""
        return self.folder / "Particles" / self.root / f"{row + 1:06d}{ending}"

    @property
    def series(self) -> TiltSeries | FrameSeries:
        """The item's metadata."""
        return self.source.read_item(self.item)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedItem:
    """How many images or sub-tomograms of an item were written."""

    n_images: int


def tasks_of(
    opened: OpenPopulation, species: OpenSpecies, params: "ExportPopulationParams", folder: Path
) -> list[ExportTask]:
    """Return a task for each item that holds particles.

    Raises
    ------
    InputError
        No item does, or RELION 5's files are asked for of frame series.
    InconsistentDataError
        They are asked for of copies by symmetry.
    """
    particles = species.particles()
    if params.kind != "images" and len(np.unique(particles.uid)) < len(particles):
        raise InconsistentDataError(
            f"Particles for --kind {params.kind} must be objects of their own; got copies of {species.species.name} by "
            "symmetry; check out the version before expand-symmetry, or use --kind images."
        )
    tasks = []
    for source in opened.chosen_sources(params.sources):
        if params.kind != "images" and not source.source.is_of_tilt_series:
            raise InputError(
                f"--kind {params.kind} must be of tilt series; got the frame series of {source.source.name}; use "
                "--kind images, or name other --sources."
            )
        for item in source.source.items:
            mine = particles.take(particles.source_hash == item.hash)
            if len(mine):
                tasks.append(
                    ExportTask(
                        source=source, item=item, species=species.species, particles=mine, params=params, folder=folder
                    )
                )
    if not tasks:
        raise InputError(
            f"{species.species.name} must have particles in the sources to export; got none; see "
            "`halfmap population items`."
        )
    return tasks


def grid_of(species: Species, params: "ExportPopulationParams") -> ImageGrid:
    """Return the grid of the images."""
    return export_grid(species, params)


def memory_bytes(task: ExportTask) -> int:
    """Return the memory that an item takes, sums of sub-tomograms included; none where it cannot be read."""
    if why_broken(task.source, task.item) is not None:
        return 0
    series = task.series
    found = images_memory_bytes(series, task.particles, task.species, task.params, image_grid(series))
    if task.params.kind == "sub-tomograms":
        found += _SUMS_BYTES + 40 * export_grid(task.species, task.params).side ** 3
    return found


def export_item(task: ExportTask) -> ExportedItem:
    """Cut out and write the particles of an item."""
    series = task.series
    images = images_of_item(task.source, task.item, series)
    if task.params.kind == "sub-tomograms":
        n = 0
        for one in sub_tomograms(
            series, images, task.particles, task.species, task.params, memory_bytes=float(_SUMS_BYTES)
        ):
            mrc.write_volume(task.file_of_particle(one.row, "_data.mrc"), one.data)
            mrc.write_volume(task.file_of_particle(one.row, "_weight.mrc"), _weight_volume(one.weight, one.data.grid))
            n += 1
        return ExportedItem(n_images=n)
    table = image_table(series, task.particles, task.species, task.params)
    if not len(table):
        return ExportedItem(n_images=0)
    with mrc.StackWriter(task.stack, export_grid(task.species, task.params), len(table)) as writer:
        for cut in exported_images(series, images, task.particles, task.species, task.params):
            if len(cut.rows):
                writer.write(cut.images.numpy())
    if task.params.kind == "relion5":
        _split(task, rows_of_table(task, table.columns["uid"]))
    return ExportedItem(n_images=len(table))


def rows_of_table(task: ExportTask, uid: np.ndarray) -> np.ndarray:
    """Return which particle each image of a table is of."""
    of_uid = {int(one): row for row, one in enumerate(task.particles.uid)}
    return np.array([of_uid[int(one)] for one in uid], dtype=np.int64)


def pictures(task: ExportTask, params: "ExportPopulationParams") -> Iterator[Block]:
    """Yield some of the images of an item."""
    if params.kind == "sub-tomograms":
        paths = sorted((task.folder / "Particles" / task.root).glob("*_data.mrc"))[:_SHOWN]
        middle = [mrc.read_volume(path).values for path in paths]
        images = np.stack([one[len(one) // 2].numpy() for one in middle])
        yield Gallery.of(images, title="Middle slices of sub-tomograms", contrast="each")
        return
    path = task.stack if params.kind == "images" else sorted((task.folder / "Particles" / task.root).glob("*.mrcs"))[0]
    source = _images_of(path)
    shown = np.linspace(0, len(source) - 1, min(_SHOWN, len(source))).astype(int)
    yield Gallery.of(np.asarray(source.read(shown)), title=f"Images of {task.item.name}", contrast="each")


def _split(task: ExportTask, rows: np.ndarray) -> None:
    """Write the stack of each particle from the item's, and remove that one."""
    stack = _images_of(task.stack)
    for row in np.unique(rows):
        mine = np.flatnonzero(rows == row)
        with mrc.StackWriter(task.file_of_particle(int(row), ".mrcs"), stack.grid, len(mine)) as writer:
            writer.write(np.asarray(stack.read(mine)))
    task.stack.unlink()


def _images_of(stack: Path) -> mrc.StackSource:
    return mrc.StackSource([f"{number + 1}@{stack}" for number in range(mrc.read_header(stack).shape[0])])


def _weight_volume(weight: torch.Tensor, grid: ImageGrid) -> Volume:
    """Return weights as a volume with frequency 0 in its middle, as programs keep CTF volumes."""
    side = grid.side
    negative = -torch.arange(side) % side
    beyond = weight[negative][:, negative][..., 1 : (side - 1) // 2 + 1].flip(-1)
    whole = torch.fft.fftshift(torch.cat([weight, beyond], dim=-1), dim=(0, 1, 2))
    return Volume(values=whole, grid=grid)
