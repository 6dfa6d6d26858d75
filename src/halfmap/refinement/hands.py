"""Halves of one hand: particles that look alike mirrored leave each half to choose its own."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier import shells
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.refinement.state import Orientations

LEAST_FSC = 0.143
FEWEST_SHELLS = 3
LEAST_GAIN = 0.1
_HALF_TURN = np.diag([-1.0, -1.0, 1.0])


def of_one_hand(
    accumulators: list[SliceAccumulator], orientations: Orientations, rows: NDArray[np.int64], join_shell: int
) -> tuple[list[SliceAccumulator], Orientations, bool]:
    """Turn the second half over where its mirror image is what the first half shows.

    Parameters
    ----------
    accumulators : of both halves.
    orientations : of all particles.
    rows : numbers of the second half's.
    join_shell : shells up to it are the same in both.

    Returns
    -------
    accumulators, orientations, and whether the second half was turned over.

    Notes
    -----
    Projections do not tell a map from its mirror image V(−x) seen from diag(−1, −1, 1) A: so a half loses nothing, and
    of the other one it learns a single bit. A reference without a hand, a hollow shell at 30 Å say, lets halves choose.
    """
    grid = accumulators[0].grid.grid
    first, second = (grid.rfft(one.volume().double()) for one in accumulators)
    direct, mirrored = (shells.fsc(first, other, grid) for other in (second, second.conj()))
    if not is_mirrored(direct, mirrored, join_shell):
        return accumulators, orientations, False
    rotation = orientations.rotation.copy()
    rotation[rows] = _HALF_TURN @ rotation[rows]
    turned = replace(accumulators[1], data=accumulators[1].data.conj().resolve_conj())
    return [accumulators[0], turned], replace(orientations, rotation=rotation), True


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
