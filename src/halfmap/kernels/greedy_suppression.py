"""Choose points in their order, each far enough from those chosen before."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def keep_apart(
    position: NDArray[np.float64], sign: NDArray[np.float64], same: float, opposite: float
) -> NDArray[np.bool_]:
    """Return which points are chosen.

    Parameters
    ----------
    position : shape (n, 2), the best first.
    sign : shape (n,), 1 or -1.
    same, opposite : a point at this distance or nearer to a chosen one, of the same or of the other sign, is not.

    Returns
    -------
    bool, shape (n,).
    """
    n = len(position)
    keep = np.zeros(n, dtype=np.bool_)
    chosen = np.empty(n, dtype=np.int64)
    n_chosen = 0
    for i in range(n):
        free = True
        for c in range(n_chosen):
            j = chosen[c]
            reach = same if sign[i] == sign[j] else opposite
            if (position[i, 0] - position[j, 0]) ** 2 + (position[i, 1] - position[j, 1]) ** 2 <= reach * reach:
                free = False
                break
        if free:
            keep[i] = True
            chosen[n_chosen] = i
            n_chosen += 1
    return keep
