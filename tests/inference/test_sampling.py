"""What every search decides alike."""

import math

import numpy as np
import pytest

from halfmap.inference import sampling


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_perturbations_stay_in_range_and_never_stand_still(factor: float) -> None:
    values = [0.0]
    for iteration in range(1, 400):
        values.append(sampling.perturbation(5, iteration, values[-1], factor))
    steps = np.mod(np.diff(values), 2 * factor)
    assert min(values) >= -factor
    assert max(values) < factor
    assert (steps >= factor / 2 - 1e-12).all()
    assert (steps <= factor + 1e-12).all()
    assert abs(np.mean(values)) < 0.1 * factor
    assert np.std(values) == pytest.approx(factor / math.sqrt(3), rel=0.1)  # of a uniform distribution


def test_perturbation_can_be_switched_off_and_follows_the_seed() -> None:
    assert sampling.perturbation(5, 1, 0.3, 0.0) == 0.0
    assert sampling.perturbation(5, 1, 0.0) == sampling.perturbation(5, 1, 0.0)
    assert sampling.perturbation(5, 1, 0.0) != sampling.perturbation(6, 1, 0.0)


@pytest.mark.parametrize(("divisor", "shell"), [(1.0, 10), (1.2, 12), (1.5, 15), (30.0, 40)])
def test_a_shell_grows_with_the_share_of_the_arc_that_details_may_measure(divisor: float, shell: int) -> None:
    # 100 Å from the centre, 0.1 rad are 10 Å: shell 10 of a field of 100 Å
    assert sampling.shell_of_arc(math.degrees(0.1), 200.0, 100.0, 40, divisor=divisor) == shell


def test_a_shell_is_never_that_of_the_mean() -> None:
    assert sampling.shell_of_arc(90.0, 2000.0, 100.0, 40, divisor=1.2) == 1
