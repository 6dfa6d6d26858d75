"""Micrographs with labelled particles, and the crops of them that a detector is taught with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from halfmap import keyed_random
from halfmap.picking.network.model import REACH
from halfmap.picking.network.preparation import DIAMETER_PIXEL, PreparedMicrograph

POSITIVE_RADIUS = DIAMETER_PIXEL / 8
"""A pixel so near to a labelled centre counts as labelled."""

OUTPUT = 24
"""Side of the part of a crop that is judged: one and a half diameters."""

MARGIN = OUTPUT // 2 + REACH


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledMicrograph:
    """A micrograph, or a part of one, to be taught with.

    Parameters
    ----------
    name : of the micrograph.
    values : float32, shape (y, x), as a detector sees it.
    usable : bool, shape (y, x): where there is something to learn from.
    pickable : bool, shape (y, x): usable, and half a diameter away from the edge, where particles are not whole.
    position_pixel : float64, shape (n, 2): (x, y) of the labelled particles in pixels of ``values``.
    part : of the micrograph's area that this is.
    """

    name: str
    values: Tensor
    usable: Tensor
    pickable: Tensor
    position_pixel: NDArray[np.float64]
    part: float = 1.0

    @classmethod
    def of(cls, name: str, prepared: PreparedMicrograph, position_pixel: NDArray[np.float64]) -> "LabelledMicrograph":
        """Join a prepared micrograph with positions (x, y) in micrograph pixels; those left out of it are dropped."""
        usable = prepared.usable.cpu()
        pickable = prepared.pickable(prepared.diameter_angstrom / 2).cpu()
        position = np.asarray(position_pixel, dtype=np.float64).reshape(-1, 2) / prepared.work.step_pixel
        x, y = np.rint(position).astype(np.int64).T
        inside = (x >= 0) & (y >= 0) & (x < usable.shape[1]) & (y < usable.shape[0])
        inside[inside] = usable.numpy()[y[inside], x[inside]]
        return cls(
            name=name,
            values=prepared.values.cpu(),
            usable=usable,
            pickable=pickable,
            position_pixel=position[inside],
        )

    def halved(self, share: float) -> "tuple[LabelledMicrograph, LabelledMicrograph]":
        """Cut the micrograph along a column; the second part has that share of the area."""
        width = self.values.shape[1]
        cut = round(width * (1 - share))
        left = self.position_pixel[:, 0] < cut
        pickable = self.pickable.clone()
        pickable[:, max(cut - DIAMETER_PIXEL // 2, 0) : cut + DIAMETER_PIXEL // 2] = False
        parts = []
        for columns, rows, part in ((slice(0, cut), left, 1 - share), (slice(cut, width), ~left, share)):
            parts.append(
                LabelledMicrograph(
                    name=self.name,
                    values=self.values[:, columns].contiguous(),
                    usable=self.usable[:, columns].contiguous(),
                    pickable=pickable[:, columns].contiguous(),
                    position_pixel=self.position_pixel[rows] - np.array([columns.start, 0]),
                    part=part,
                )
            )
        return parts[0], parts[1]

    def labelled(self) -> Tensor:
        """Return where a labelled centre is near, bool, shape (y, x)."""
        mask = torch.zeros(self.values.shape, dtype=torch.bool)
        reach = math.ceil(POSITIVE_RADIUS)
        for x, y in self.position_pixel:
            left, top = max(round(x) - reach, 0), max(round(y) - reach, 0)
            rows = torch.arange(top, min(round(y) + reach + 1, mask.shape[0]))
            columns = torch.arange(left, min(round(x) + reach + 1, mask.shape[1]))
            near = (rows[:, None] - y) ** 2 + (columns - x) ** 2 <= POSITIVE_RADIUS**2
            mask[top : top + len(rows), left : left + len(columns)] |= near
        return mask & self.usable


def split(
    micrographs: Sequence[LabelledMicrograph], *, held_out_fraction: float, seed: int
) -> tuple[list[LabelledMicrograph], list[LabelledMicrograph]]:
    """Return the micrographs to teach with and those held out, with that share of the labels at least.

    Micrographs are taken whole in random order; a single one is cut in two.
    """
    if len(micrographs) == 1:
        left, right = micrographs[0].halved(max(held_out_fraction, 0.25))
        return [left], [right]
    wanted = held_out_fraction * sum(len(one.position_pixel) for one in micrographs)
    held_out: set[int] = set()
    n_labels = 0
    for index in keyed_random.permutation(seed, "held-out micrographs", len(micrographs)).tolist():
        if len(held_out) == len(micrographs) - 1 or (held_out and n_labels >= wanted):
            break
        if len(micrographs[index].position_pixel):
            held_out.add(index)
            n_labels += len(micrographs[index].position_pixel)
    taught = [one for index, one in enumerate(micrographs) if index not in held_out]
    return taught, [micrographs[index] for index in sorted(held_out)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Crops:
    """Crops and what is known of their middle.

    Parameters
    ----------
    images : float32, shape (n, OUTPUT + 2 REACH, the same).
    labelled, usable : bool, shape (n, OUTPUT, OUTPUT).
    """

    images: Tensor
    labelled: Tensor
    usable: Tensor


class CropSource:
    """Cuts crops out of micrographs.

    Parameters
    ----------
    micrographs : to be taught with.
    """

    def __init__(self, micrographs: Sequence[LabelledMicrograph]) -> None:
        frame = (MARGIN,) * 4
        masks = [one.labelled() for one in micrographs]
        self._values = [pad(one.values, frame) for one in micrographs]
        self._labelled = [pad(mask, frame) for mask in masks]
        self._usable = [pad(one.usable, frame) for one in micrographs]
        self._shapes = np.array([one.values.shape for one in micrographs], dtype=np.int64)
        self._centres = np.concatenate(
            [
                np.column_stack([np.full(len(one.position_pixel), index), np.rint(one.position_pixel[:, ::-1])])
                for index, one in enumerate(micrographs)
            ]
        ).astype(np.int64)
        self.n_usable = sum(int(one.usable.sum()) for one in micrographs)
        self.n_labelled = sum(int(mask.sum()) for mask in masks)

    def around_particles(self, uids: NDArray[np.int64], *, seed: int, epoch: int) -> Crops:
        """Cut crops that hold a labelled particle, anywhere in their middle."""
        drawn = keyed_random.uniform(seed, "crops around particles", uids, iteration=epoch, size=3)
        chosen = self._centres[(drawn[:, 0] * len(self._centres)).astype(np.int64)]
        jitter = np.rint((drawn[:, 1:] - 0.5) * (OUTPUT - 2 * POSITIVE_RADIUS)).astype(np.int64)
        place = np.clip(chosen[:, 1:] + jitter, 0, self._shapes[chosen[:, 0]] - 1)
        return self._cut(chosen[:, 0], place)

    def anywhere(self, uids: NDArray[np.int64], *, seed: int, epoch: int) -> Crops:
        """Cut crops evenly from all of the area."""
        drawn = keyed_random.uniform(seed, "crops anywhere", uids, iteration=epoch, size=3)
        ends = np.cumsum(self._shapes.prod(axis=1))
        index = np.searchsorted(ends, drawn[:, 0] * ends[-1], side="right")
        return self._cut(index, (drawn[:, 1:] * self._shapes[index]).astype(np.int64))

    def _cut(self, index: NDArray[np.int64], place: NDArray[np.int64]) -> Crops:
        images, labelled, usable = [], [], []
        for number, (y, x) in zip(index.tolist(), place.tolist(), strict=True):
            whole = (slice(y, y + 2 * MARGIN), slice(x, x + 2 * MARGIN))
            middle = (slice(y + REACH, y + REACH + OUTPUT), slice(x + REACH, x + REACH + OUTPUT))
            images.append(self._values[number][whole])
            labelled.append(self._labelled[number][middle])
            usable.append(self._usable[number][middle])
        return Crops(images=torch.stack(images), labelled=torch.stack(labelled), usable=torch.stack(usable))
