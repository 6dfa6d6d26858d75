"""One list of picks held against another, over many micrographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halfmap.learning.measures import PrecisionRecall, precision_recall
from halfmap.picking.agreement import Agreement, matched


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """Positions in one micrograph.

    Parameters
    ----------
    position_angstrom : float64, shape (n, 2).
    figure_of_merit : float64, shape (n,).
    """

    position_angstrom: np.ndarray
    figure_of_merit: np.ndarray

    def __len__(self) -> int:
        return len(self.figure_of_merit)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Picks held against positions taken as right.

    Parameters
    ----------
    counts : of each micrograph.
    pairs : of each micrograph, indices into picks and into right positions, int64, shape (k,) each.
    curve : precision and recall at every threshold of the figure of merit, all micrographs together.
    offset_angstrom : float64, shape (n, 2): pick minus right position, of all pairs.
    """

    counts: tuple[Agreement, ...]
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    curve: PrecisionRecall
    offset_angstrom: np.ndarray

    @property
    def total(self) -> Agreement:
        """Counts of all micrographs."""
        return sum(self.counts, Agreement(n_picked=0, n_true=0, n_matched=0))

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall at every threshold; 0 where nothing is right or known."""
        precision, recall = self.curve.precision, np.nan_to_num(self.curve.recall)
        return np.asarray(2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny))

    @property
    def best(self) -> int | None:
        """Index of the threshold with the highest F1; None without picks."""
        return int(self.f1.argmax()) if len(self.f1) else None


def compare(picked: Sequence[Positions], right: Sequence[Positions], *, distance_angstrom: float) -> Comparison:
    """Hold picks against right positions, micrograph by micrograph.

    Parameters
    ----------
    picked, right : of each micrograph, in the same order.
    distance_angstrom : greatest distance of a pair.
    """
    pairs, counts, offsets, merits, is_right = [], [], [], [], []
    for mine, known in zip(picked, right, strict=True):
        order = np.argsort(-mine.figure_of_merit, kind="stable")
        first, second = matched(mine.position_angstrom[order], known.position_angstrom, distance=distance_angstrom)
        first = order[first]
        pairs.append((first, second))
        counts.append(Agreement(n_picked=len(mine), n_true=len(known), n_matched=len(first)))
        offsets.append(mine.position_angstrom[first] - known.position_angstrom[second])
        merits.append(mine.figure_of_merit)
        is_right.append(np.isin(np.arange(len(mine)), first))
    n_right = sum(count.n_true for count in counts)
    curve = precision_recall(np.concatenate(merits), np.concatenate(is_right), n_positive=n_right)
    return Comparison(
        counts=tuple(counts), pairs=tuple(pairs), curve=curve, offset_angstrom=np.concatenate(offsets).reshape(-1, 2)
    )
