"""How well picks agree with positions known to be right."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts of a comparison; agreements of several micrographs add up.

    Parameters
    ----------
    n_picked, n_true : positions picked, and positions known.
    n_matched : pairs of one of each.
    """

    n_picked: int
    n_true: int
    n_matched: int

    @property
    def precision(self) -> float:
        """Share of the picks that are right; NaN without picks."""
        return self.n_matched / self.n_picked if self.n_picked else float("nan")

    @property
    def recall(self) -> float:
        """Share of the known positions that were picked; NaN where none is known."""
        return self.n_matched / self.n_true if self.n_true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where nothing is picked or known."""
        total = self.n_picked + self.n_true
        return 2 * self.n_matched / total if total else float("nan")

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            n_picked=self.n_picked + other.n_picked,
            n_true=self.n_true + other.n_true,
            n_matched=self.n_matched + other.n_matched,
        )


def matched(picked: np.ndarray, true: np.ndarray, *, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair picks with known positions, one to one, as many as possible.

    Parameters
    ----------
    picked, true : shape (n, 2) and (m, 2), in one unit.
    distance : greatest distance of a pair, in that unit.

    Returns
    -------
    Indices into ``picked``, rising, and into ``true``, int64, shape (k,) each.

    Notes
    -----
    A maximum matching by augmenting paths, pick after pick, the nearest position tried first. Once paired, a pick stays
    paired (its partner may change), so of any first picks as many are paired as if the others were not there.

    References
    ----------
    Kuhn 1955, Naval Research Logistics Quarterly 2, 83.
    """
    near = _by_distance(picked, true, distance)
    owner = np.full(len(true), -1, dtype=np.int64)
    partner = np.full(len(picked), -1, dtype=np.int64)
    for pick in range(len(picked)):
        _augment(pick, near, owner, partner)
    found = np.flatnonzero(partner >= 0)
    return found, partner[found]


def _by_distance(picked: np.ndarray, true: np.ndarray, distance: float) -> list[list[int]]:
    """Return for each pick the known positions in reach, the nearest first."""
    if len(picked) == 0 or len(true) == 0:
        return [[] for _ in picked]
    reached = cKDTree(true).query_ball_point(picked, distance)
    return [
        sorted(found, key=lambda index: float(np.hypot(*(true[index] - position))))
        for found, position in zip(reached, picked, strict=True)
    ]


def _augment(pick: int, near: list[list[int]], owner: np.ndarray, partner: np.ndarray) -> None:
    """Pair one more pick, others changing partners where they must; nothing changes where that is impossible."""
    reached: dict[int, int] = {}
    waiting = [pick]
    for one in waiting:
        for position in near[one]:
            if position in reached:
                continue
            reached[position] = one
            if owner[position] >= 0:
                waiting.append(int(owner[position]))
                continue
            while position >= 0:
                taker = reached[position]
                owner[position] = taker
                position, partner[taker] = int(partner[taker]), position
            return


def agreement(picked: np.ndarray, true: np.ndarray, *, distance: float) -> Agreement:
    """Count picks, known positions and their pairs; parameters as of `matched`."""
    pairs, _ = matched(picked, true, distance=distance)
    return Agreement(n_picked=len(picked), n_true=len(true), n_matched=len(pairs))
