"""References that images are compared with: class averages, or volumes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.compute.memory import plan_chunks
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid, PaddedTransform
from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues, Rotations

SLICE_BYTES = 1 << 28
"""Memory for the fine slices of some rows and the sums over them."""

_BYTES_OF_COEFFICIENT = 20
"""Of a slice, and of what is summed into it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """References of which slices are taken, all classes at the same rotations.

    Parameters
    ----------
    transforms : one of C images, or one of each of C volumes.
    band : of the images; its prefixes are those of the passes.
    transfer_power : mean s² C² / σ² of images, float32, shape (K,) of the band: where the signal's power lies; None:
        unknown, and the coarse pass scores all shells at once.
    slice_power : Σ s² C² |P|² / σ² that each slice is scaled to have for such a mean image; None: slices stay as they
        are. Scores then rank poses by correlation, whatever scale the references are on.
    """

    transforms: tuple[PaddedTransform, ...]
    band: FourierBand
    transfer_power: Tensor | None = None
    slice_power: float | None = None

    @classmethod
    def of(
        cls,
        values: Tensor,
        grid: ImageGrid,
        padding: int,
        *,
        transfer_power: Tensor | None = None,
        slice_power: float | None = None,
    ) -> "References":
        """Transform class averages, shape (C, side, side), or volumes, shape (C, side, side, side).

        Parameters
        ----------
        grid : of the images.
        padding : of the transforms.
        """
        band = FourierBand(grid).to(values.device)
        transforms: tuple[PaddedTransform, ...]
        if values.ndim == 3:
            transforms = (slices.prepare(values, grid, padding=padding),)
        else:
            cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
            transforms = tuple(slices.prepare(one, cubic, padding=padding) for one in values)
        return cls(transforms=transforms, band=band, transfer_power=transfer_power, slice_power=slice_power)

    @property
    def are_volumes(self) -> bool:
        """Whether references are volumes, not images."""
        return self.padded_grid.grid.ndim == 3

    @property
    def padded_grid(self) -> PaddedGrid:
        """Sampling of the transforms."""
        return self.transforms[0].grid

    @property
    def n_classes(self) -> int:
        """Number C of references."""
        return len(self.transforms) if self.are_volumes else self.transforms[0].values.shape[0]

    def take(self, classes: slice, rotations: Rotations, shell: int) -> BandValues:
        """Return slices of some classes up to a shell, complex64, shape (classes · R, K), class by class."""
        band = self.band.head(shell)
        if self.are_volumes:
            parts = [slices.extract(one, rotations, band) for one in self.transforms[classes]]
            found = parts[0] if len(parts) == 1 else torch.cat(parts)
        else:
            whole = self.transforms[0]
            some = PaddedTransform(values=whole.values[classes], grid=whole.grid)
            found = slices.extract(some, rotations, band).reshape(-1, len(band))
        if self.slice_power is None or self.transfer_power is None:
            return found
        power = found.abs().square() @ self.transfer_power[: len(band)]
        return found * (self.slice_power / power.clamp(min=1e-30)).sqrt()[:, None]

    def blocks(self, rotations: Rotations, rows: Tensor, group: int, shell: int) -> Iterator["SliceBlock"]:
        """Yield the slices of rows, as many at a time as memory allows.

        Parameters
        ----------
        rotations : float64, shape (R, 3, 3); row c · R + r is class c at rotation r.
        rows : int64, shape (S,): groups of rows that are needed, of ``group`` consecutive rows each, in any order.
        group : rows of a group.
        shell : last one of the slices.

        Notes
        -----
        Of images all rotations of a class come in one block: extraction shares its interpolation among classes. Of
        volumes only the rows that are needed come.
        """
        R, K = len(rotations), len(self.band.head(shell))
        at_once = max(1, SLICE_BYTES // (_BYTES_OF_COEFFICIENT * K))
        if not self.are_volumes:
            for classes in plan_chunks(self.n_classes, max(1, at_once // R)):
                first, last = classes.start * R // group, classes.stop * R // group
                yield SliceBlock(
                    groups=torch.arange(first, last, device=rows.device),
                    classes=classes,
                    rotations=rotations,
                    values=self.take(classes, rotations, shell),
                )
            return
        groups_of_class = R // group
        used = rows.unique()
        for c in range(self.n_classes):
            low, high = torch.searchsorted(
                used, torch.tensor([c, c + 1], device=used.device) * groups_of_class
            ).tolist()
            mine = used[low:high]
            for part in plan_chunks(len(mine), max(1, at_once // group)) if len(mine) else ():
                some = mine[part]
                first = (some - c * groups_of_class) * group
                turns = rotations[
                    (first[:, None] + torch.arange(group, device=first.device)).flatten().to(rotations.device)
                ]
                classes = slice(c, c + 1)
                yield SliceBlock(groups=some, classes=classes, rotations=turns, values=self.take(classes, turns, shell))


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceBlock:
    """Slices of some rows.

    Parameters
    ----------
    groups : int64, shape (B,), ascending: of the rows.
    classes : that they belong to.
    rotations : of one class, float64, shape (R, 3, 3).
    values : complex64, shape (B · rows of a group, K): class by class.
    """

    groups: Tensor
    classes: slice
    rotations: Rotations
    values: BandValues

    def place(self, groups: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return where groups stand in the block, and which of them are in it; None: all are."""
        first, last = int(self.groups[0]), int(self.groups[-1])
        if last - first + 1 == len(self.groups):  # without gaps, as those of images always are
            place = groups - first
            inside = (place >= 0) & (place < len(self.groups))
        else:
            place = torch.searchsorted(self.groups, groups).clamp(max=len(self.groups) - 1)
            inside = self.groups[place] == groups
        return place, None if bool(inside.all()) else inside
