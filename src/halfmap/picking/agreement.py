"""How well picks agree with positions known to be right."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
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
    Indices into ``picked`` and into ``true``, int64, shape (k,) each.

    Notes
    -----
    A maximum matching (Hopcroft and Karp 1973): no choice of pairs has more of them.
    """
    if len(picked) == 0 or len(true) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    near = cKDTree(picked).query_ball_point(true, distance)
    rows = np.concatenate([np.full(len(found), i, dtype=np.int64) for i, found in enumerate(near)])
    columns = np.array([j for found in near for j in found], dtype=np.int64)
    graph = csr_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(true), len(picked)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    found = np.flatnonzero(partner >= 0)
    return partner[found].astype(np.int64), found


def agreement(picked: np.ndarray, true: np.ndarray, *, distance: float) -> Agreement:
    """Count picks, known positions and their pairs; parameters as of `matched`."""
    pairs, _ = matched(picked, true, distance=distance)
    return Agreement(n_picked=len(picked), n_true=len(true), n_matched=len(pairs))
