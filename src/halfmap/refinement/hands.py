"""Halves of one hand: particles that look alike mirrored leave each half to choose its own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.refinement.state import Orientations

LEAST_FSC = 0.143
FEWEST_SHELLS = 3
LEAST_GAIN = 0.1
_HALF_TURN = np.diag([-1.0, -1.0, 1.0])


def are_of_opposite_hands(maps: Sequence[Tensor], grid: ImageGrid, join_shell: int) -> bool:
    """Return whether the second half-map is the mirror image of what the first shows.

    Parameters
    ----------
    maps : of both halves, unregularised, shape (z, y, x).
    grid : of the maps.
    join_shell : shells up to it are the same in both, and say nothing.
    """
    first, second = (grid.rfft(one.double()) for one in maps)
    direct, mirrored = (shells.fsc(first, other, grid) for other in (second, second.conj()))
    return is_mirrored(direct, mirrored, join_shell)


def turned_over(
    accumulator: SliceAccumulator, orientations: Orientations, rows: NDArray[np.int64]
) -> tuple[SliceAccumulator, Orientations]:
    """Return a half's sums as those of its mirror image, and the poses from which that shows the same.

    Parameters
    ----------
    accumulator : of the half.
    orientations : of all particles.
    rows : numbers of the half's.

    Notes
    -----
    Projections do not tell a map from its mirror image V(−x) seen from diag(−1, −1, 1) A: so a half loses nothing, and
    of the other one it learns a single bit. A reference without a hand, a hollow shell at 30 Å say, lets halves choose.
    """
    rotation = orientations.rotation.copy()
    rotation[rows] = _HALF_TURN @ rotation[rows]
    turned = replace(accumulator, data=accumulator.data.conj().resolve_conj())
    return turned, replace(orientations, rotation=rotation)


def is_mirrored(direct: Tensor, mirrored: Tensor, join_shell: int) -> bool:
    """Return whether a map agrees with the mirror image of another by more than chance would have it.

    Parameters
    ----------
    direct, mirrored : FSC with the other map, and with its mirror image, shape (n_shells,).
    join_shell : shells up to it say nothing.

    Notes
    -----
    At least three shells in a row reach 0.143 with the mirror image, and there its FSC is larger by 0.1 in the mean.
    """
    start = max(join_shell, 0) + 1
    below = torch.nonzero(~(mirrored[start:] >= LEAST_FSC)).flatten()
    end = start + (int(below[0]) if len(below) else len(mirrored) - start)
    if end - start < FEWEST_SHELLS:
        return False
    return float((mirrored[start:end] - direct[start:end]).mean()) > LEAST_GAIN
