"""What a sub-iteration descends by: the likelihood in Gauss-Newton steps, or M's score by L-BFGS."""

from collections.abc import Callable
from typing import Protocol

import torch

from halfmap.multiparticle.fit import Comparison, Parameters, Visited, descend, visit
from halfmap.multiparticle.joint import descend_jointly
from halfmap.multiparticle.m_ncc import MObjective, m_score
from halfmap.multiparticle.schedule import Schedule

_ITERATIONS_OF_M = 10
"M gives a group of parameters ten gradients in a sub-iteration."


class Descent(Protocol):
    """How parameters are bettered, and by which number that is judged; the smaller, the better.

    Attributes
    ----------
    sets_aside : whether particles that make their images less likely lose their say.
    worse : why a series stays as it was, where nothing got better.
    """

    sets_aside: bool
    worse: str

    def descended(self, comparison: Comparison, here: Visited, report: Callable[[Visited], None]) -> Visited:
        """Return where a sub-iteration ends."""

    def values(self, comparison: Comparison, start: Parameters, end: Visited) -> tuple[float, float]:
        """Return the objective where a refinement began and where it ended, in one comparison."""


class LikelihoodDescent:
    """Half of χ² and the priors, by Gauss-Newton steps.

    Parameters
    ----------
    n_steps : at most.
    """

    sets_aside = True
    worse = "no step made the images likelier"

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps

    def descended(self, comparison: Comparison, here: Visited, report: Callable[[Visited], None]) -> Visited:
        """Return where steps lead that better the likelihood."""
        return descend(comparison, here, self._n_steps, report)

    def values(self, comparison: Comparison, start: Parameters, end: Visited) -> tuple[float, float]:
        """Return half of χ² and the priors of both."""
        return comparison.objective(start, comparison.looked_at(start)), end.objective


class ScoreDescent:
    """Minus M's score, without priors, by L-BFGS over all parameters together."""

    sets_aside = False
    worse = "no step raised M's score"

    def descended(self, comparison: Comparison, here: Visited, report: Callable[[Visited], None]) -> Visited:
        """Return where the score is higher, or the start where that is nowhere."""
        objective = MObjective(comparison, here.parameters)
        n = len(objective.units)
        vector, value = descend_jointly(objective, n, max_iterations=_ITERATIONS_OF_M)
        if value >= float(objective(torch.zeros(n, dtype=torch.float64))):
            return here
        there = visit(comparison, objective.place(vector))
        report(there)
        return there

    def values(self, comparison: Comparison, start: Parameters, end: Visited) -> tuple[float, float]:
        """Return minus the scores of both."""
        return -m_score(comparison, start).value, -m_score(comparison, end.parameters).value


def descent_of(schedule: Schedule) -> Descent:
    """Return how a schedule descends."""
    return ScoreDescent() if schedule.objective == "m_ncc" else LikelihoodDescent(schedule.steps)
