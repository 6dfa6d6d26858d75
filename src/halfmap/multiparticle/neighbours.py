"""Windows without the other particles in them, as far as these are known."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from halfmap.multiparticle.series_model import SpeciesModel
from halfmap.tensors import BandValues


class OverlappingWindows(Protocol):
    """Windows cut out of whole images, in which particles lie that others are cut out around."""

    @property
    def keeps(self) -> bool:
        """Whether there is memory for windows, twice over."""

    @property
    def share_recorded(self) -> list[Tensor]:
        """Which share of each window lies within its image, (P, T), of each species."""

    def of_neighbours(self, t: int, shown: Sequence[BandValues]) -> list[BandValues]:
        """Return what windows of an image hold of all other particles, of each species."""

    def __iter__(self) -> Iterator[tuple[int, list[BandValues]]]:
        """Yield the number of each used image, and of each species what was cut out, (P, K)."""


class WithoutNeighbours:
    """What windows show once the models of all other particles are taken off.

    A neighbour is the same in all images of a series, and so is no noise that averages out, nor one that error bars
    know of.

    Parameters
    ----------
    images : as they were cut.
    models : of each species, where its particles lie now.
    scale : of each species in each image, (T,).
    is_there : of each species, bool, (P,): which particles to take off.
    """

    def __init__(
        self,
        images: OverlappingWindows,
        models: Sequence[SpeciesModel],
        scale: Sequence[Tensor],
        is_there: Sequence[Tensor],
    ) -> None:
        self._images, self._models, self._scale = images, models, scale
        self._rows = [torch.nonzero(which).flatten() for which in is_there]
        self._kept: dict[int, list[BandValues]] | None = {} if images.keeps else None

    def __iter__(self) -> Iterator[tuple[int, list[BandValues]]]:
        """Yield the number of each used image, and of each species its windows, (P, K), as far as the models reach."""
        for t, observed in self._images:
            if self._kept is not None and t in self._kept:
                yield t, self._kept[t]
                continue
            shown = [self._shown(t, number, len(windows)) for number, windows in enumerate(observed)]
            others = self._images.of_neighbours(t, shown)
            found = [windows[:, : other.shape[1]] - other for windows, other in zip(observed, others, strict=True)]
            if self._kept is not None:
                self._kept[t] = found
            yield t, found

    def _shown(self, t: int, number: int, n_particles: int) -> BandValues:
        """Return what each particle of a species shows in an image, (P, K)."""
        model, scale = self._models[number], float(self._scale[number][t])
        values = torch.zeros((n_particles, len(model.band)), dtype=torch.complex64)
        for rows in model.split(self._rows[number], 0):
            found = scale * model.modelled(t, rows, ())[:, 0]
            values = values.to(found.device)
            values[rows.to(found.device)] = found
        return values
