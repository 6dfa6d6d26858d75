"""Fit the mixture of two normal populations to numbers, by expectation maximisation."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def fit_two_normals(
    values: NDArray[np.float64],
    share: NDArray[np.float64],
    mean: NDArray[np.float64],
    spread: NDArray[np.float64],
    least_spread: float,
    fewest: float,
    rounds: int,
    settled: float,
) -> bool:
    """Fit in place, from a first guess.

    Parameters
    ----------
    values : shape (n,).
    share, mean, spread : shape (2,): first guess of each population's share, mean and standard deviation; overwritten.
    least_spread : no standard deviation falls below it.
    fewest : a population of fewer members has died out.
    rounds : most repetitions.
    settled : the end is reached when no mean moves by more.

    Returns
    -------
    Whether both populations are alive.
    """
    n = len(values)
    second = np.empty(n)
    for _ in range(rounds):
        constant = np.log(share / spread)
        members, total = 0.0, 0.0
        for i in range(n):
            first_deviation = (values[i] - mean[0]) / spread[0]
            second_deviation = (values[i] - mean[1]) / spread[1]
            odds = constant[0] - constant[1] - 0.5 * (first_deviation**2 - second_deviation**2)
            second[i] = 1.0 / (1.0 + np.exp(min(max(odds, -500.0), 500.0)))
            members += second[i]
            total += second[i] * values[i]
        if min(members, n - members) < fewest:
            return False
        before_0, before_1 = mean[0], mean[1]
        mean[0] = (values.sum() - total) / (n - members)
        mean[1] = total / members
        squares_0, squares_1 = 0.0, 0.0
        for i in range(n):
            squares_0 += (1.0 - second[i]) * (values[i] - mean[0]) ** 2
            squares_1 += second[i] * (values[i] - mean[1]) ** 2
        share[0], share[1] = (n - members) / n, members / n
        spread[0] = max(np.sqrt(squares_0 / (n - members)), least_spread)
        spread[1] = max(np.sqrt(squares_1 / members), least_spread)
        if max(abs(mean[0] - before_0), abs(mean[1] - before_1)) < settled:
            return True
    return True
