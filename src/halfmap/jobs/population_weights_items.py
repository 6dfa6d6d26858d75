"""The tasks of `halfmap population estimate-weights`: how particles of one item agree with the other half's maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halfmap.compute.broadcast import Broadcast
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SourceItem, Species, SpeciesParticles
from halfmap.errors import InconsistentDataError
from halfmap.jobs.population_images import image_grid, images_of_item, why_broken
from halfmap.jobs.population_members import OpenSource
from halfmap.multiparticle.estimate_weights import (
    CorrelationSums,
    FittedWeights,
    correlation_sums,
    fit_weights,
    with_image_weights,
    with_series_weight,
    without_weights,
)
from halfmap.multiparticle.particle_windows import batch_bytes
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.weight_params import WeightParams

_BYTES_PER_IMAGE_PIXEL = 40  # padded, transformed, filtered
_MODELS_OF_WINDOWS = 0.25  # what models of a batch and their products take of its windows


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightTask:
    """An item with its particles of each species, and what these are compared with."""

    source: OpenSource
    item: SourceItem
    species: tuple[Species, ...]
    references: tuple[Broadcast, ...]
    particles: tuple[SpeciesParticles, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemCorrelations:
    """How an item's particles agree, for each species."""

    sums: tuple[CorrelationSums, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemWeights:
    """What an item gets.

    Parameters
    ----------
    scale, b_factor_angstrom2 : of the item, (1,), or of its images, (T,).
    is_of_images : which of both.
    """

    scale: np.ndarray
    b_factor_angstrom2: np.ndarray
    is_of_images: bool

    def put_into(self, series: TiltSeries | FrameSeries) -> TiltSeries | FrameSeries:
        """Return a series with these weights."""
        if self.is_of_images:
            known = np.ones(len(self.scale), dtype=bool)
            fitted = FittedWeights(scale=self.scale, b_factor_angstrom2=self.b_factor_angstrom2, is_seen=known)
            return with_image_weights(series, fitted)
        return with_series_weight(series, float(self.scale[0]), float(self.b_factor_angstrom2[0]))


def memory_bytes(task: WeightTask, references: Sequence[ReferencePair]) -> int:
    """Return the memory that an item takes: references, an image and a batch of windows; none if it cannot be read."""
    if why_broken(task.source, task.item) is not None:
        return 0
    series = task.source.read_item(task.item)
    grid = image_grid(series)
    batches = [
        batch_bytes(series, mine, species, grid, pair.resolution_angstrom)
        for species, mine, pair in zip(task.species, task.particles, references, strict=True)
        if len(mine)
    ]
    of_references = sum(half.values.nbytes for pair in references for half in pair.halves)
    return of_references + int((1 + _MODELS_OF_WINDOWS) * max(batches)) + _BYTES_PER_IMAGE_PIXEL * grid.n_pixels


def correlate_item(task: WeightTask) -> ItemCorrelations:
    """Correlate the particles of an item, as they are weighted by nothing."""
    series = without_weights(task.source.read_item(task.item))
    images = images_of_item(task.source, task.item, series)
    return ItemCorrelations(
        sums=tuple(
            correlation_sums(series, images, particles, species, reference.load())
            for species, reference, particles in zip(task.species, task.references, task.particles, strict=True)
        )
    )


def weights_of_items(found: Sequence[ItemCorrelations], params: WeightParams) -> list[ItemWeights]:
    """Fit the weights of the items of one source.

    Raises
    ------
    InconsistentDataError
        Nothing agrees with any map, or images are to share weights and items have unlike numbers of them.
    """
    by_species = [[item.sums[number] for item in found] for number in range(len(found[0].sums))]
    if params.resolve == "images":
        fitted = fit_weights([CorrelationSums.over_items(items) for items in by_species], params)
        one = ItemWeights(scale=fitted.scale, b_factor_angstrom2=fitted.b_factor_angstrom2, is_of_images=True)
        return [one] * len(found)
    if params.resolve == "items":
        by_species = [[item.over_images() for item in items] for items in by_species]
    fitted = fit_weights([CorrelationSums.one_after_another(items) for items in by_species], params)
    lengths = [len(item.cross) for item in by_species[0]]
    ends = np.cumsum(lengths)[:-1]
    return [
        ItemWeights(scale=scale, b_factor_angstrom2=b_factor, is_of_images=params.resolve != "items")
        for scale, b_factor in zip(np.split(fitted.scale, ends), np.split(fitted.b_factor_angstrom2, ends), strict=True)
    ]


def check_particles(tasks: Sequence[WeightTask], source: OpenSource) -> None:
    """Raise `InconsistentDataError` if a source has no particles to estimate by."""
    if not tasks:
        raise InconsistentDataError(
            f"Weights of {source.source.name} need particles in its items; got none; see `halfmap population items`, "
            "or name other --sources."
        )
