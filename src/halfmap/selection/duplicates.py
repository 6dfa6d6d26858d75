"""Particles that were picked twice."""

import numpy as np
from scipy.spatial import cKDTree


def keep_best(
    group: np.ndarray, position_angstrom: np.ndarray, score: np.ndarray, *, distance_angstrom: float
) -> np.ndarray:
    """Return which particles stay when of every close pair the better one is kept.

    Parameters
    ----------
    group : shape (n,): micrograph of each particle; only particles of one micrograph can be duplicates.
    position_angstrom : float64, shape (n, 2).
    score : float64, shape (n,): larger is better; of equals the earlier row stays. NaN is worst.
    distance_angstrom : particles at this distance or nearer are duplicates.

    Returns
    -------
    bool, shape (n,).

    Notes
    -----
    Greedy from the best score down: a particle is removed only by a better one that stays itself, so of
    a chain A–B–C with the ends far apart A and C survive. RELION keeps the last row of each pair.
    """
    keep = np.ones(len(group), dtype=bool)
    ranked = np.lexsort((np.arange(len(group)), np.where(np.isnan(score), np.inf, -score)))
    rank = np.empty(len(group), dtype=np.int64)
    rank[ranked] = np.arange(len(group))
    _, label = np.unique(np.asarray(group), return_inverse=True)
    by_group = np.argsort(label, kind="stable")
    for rows in np.split(by_group, np.flatnonzero(np.diff(label[by_group])) + 1):
        pairs = cKDTree(position_angstrom[rows]).query_pairs(distance_angstrom, output_type="ndarray")
        if len(pairs) == 0:
            continue
        near = rows[pairs]
        first_better = rank[near[:, 0]] < rank[near[:, 1]]
        better = np.where(first_better, near[:, 0], near[:, 1])
        worse = np.where(first_better, near[:, 1], near[:, 0])
        for i in np.argsort(rank[better], kind="stable"):
            if keep[better[i]]:
                keep[worse[i]] = False
    return keep
