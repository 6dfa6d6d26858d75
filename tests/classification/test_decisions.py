import math
from collections.abc import Sequence

import numpy as np
import pytest

from halfmap.classification import decisions
from halfmap.data.table import Table
from halfmap.errors import InputError
from halfmap.inference import vdam


@pytest.mark.parametrize(
    ("n_particles", "n_classes", "algorithm"),
    [
        (300, 10, "em"),
        (10_000, 50, "em"),
        (19_999, 50, "em"),
        (20_000, 50, "vdam"),
        (20_000, 300, "em"),
        (100_000, 300, "vdam"),
        (5_000_000, 200, "vdam"),
    ],
)
def test_few_particles_get_em_and_many_vdam(n_particles: int, n_classes: int, algorithm: str) -> None:
    chosen, reason = decisions.choose_algorithm(n_particles, "auto", n_classes)
    assert chosen == algorithm
    assert reason.startswith(algorithm.upper())
    assert "because" in reason


def test_em_is_chosen_where_it_looks_at_particles_less_often() -> None:
    chosen, reason = decisions.choose_algorithm(30_000, "auto", 50, iterations=5)
    assert chosen == "em"
    assert "5 iterations" in reason


def test_the_choice_goes_by_the_minibatches_that_are_asked_for() -> None:
    assert decisions.choose_algorithm(100_000, "auto", 50)[0] == "vdam"
    many = decisions.choose_algorithm(100_000, "auto", 50, sizes=vdam.Sizes(20_000, 40_000))
    few = decisions.choose_algorithm(100_000, "auto", 50, sizes=vdam.Sizes(first=49))
    assert (many[0], few[0]) == ("em", "em")
    assert "49 of 100,000" in few[1]


def test_what_is_asked_for_is_done() -> None:
    for asked in ("em", "vdam"):
        assert decisions.choose_algorithm(10**6, asked, 50)[0] == asked
    with pytest.raises(InputError, match="auto, em or vdam"):
        decisions.choose_algorithm(10, "sgd", 2)


def _history(changed: Sequence[float], likelihood: Sequence[float], resolution: Sequence[float]) -> Table:
    n = len(changed)
    return Table(
        columns={
            "iteration": np.arange(1, n + 1),
            "changed_share": np.asarray(changed, dtype=float),
            "log_likelihood": 500.0 * np.asarray(likelihood, dtype=float),
            "n_particles_used": np.full(n, 500),
            "resolution_angstrom": np.asarray(resolution, dtype=float),
        }
    )


SETTLED = (
    [0.9, 0.5, 0.3, 0.1, 0.05, 0.02, 0.008, 0.006, 0.007, 0.006],
    [-900, -700, -650, -640, -636, -635, -634.99, -634.98, -634.97, -634.97],
    [40, 30, 20, 15, 12, 12, 12, 12, 12, 12],
)


def test_a_settled_run_stops_and_not_a_row_earlier() -> None:
    done = [decisions.nothing_changes(_history(*(values[:n] for values in SETTLED))) for n in range(1, 11)]
    assert done == [False] * 9 + [True]


@pytest.mark.parametrize("length", range(1, 8))
def test_no_run_stops_before_its_eighth_iteration(length: int) -> None:
    assert not decisions.nothing_changes(_history([0.0] * length, [-1.0] * length, [10.0] * length))
    assert decisions.nothing_changes(_history([0.0] * 8, [-1.0] * 8, [10.0] * 8))


@pytest.mark.parametrize("row", [-1, -2, -3])
def test_a_band_that_grew_lately_keeps_a_run_going(row: int) -> None:
    changed, likelihood, resolution = SETTLED
    grown = list(resolution)
    grown[row:] = [11.5] * -row
    assert not decisions.nothing_changes(_history(changed, likelihood, grown))


@pytest.mark.parametrize(("row", "is_done"), [(-1, False), (-3, False), (-4, True)])
def test_a_class_revived_lately_keeps_a_run_going(row: int, is_done: bool) -> None:
    settled = _history(*SETTLED)
    revived = np.zeros(len(settled))
    revived[row] = 1
    history = Table(columns={**settled.columns, "revived_classes": revived})
    assert decisions.nothing_changes(history) == is_done


def test_resolution_that_goes_back_and_forth_does_not_keep_a_run_going() -> None:
    changed, likelihood, _ = SETTLED
    assert decisions.nothing_changes(_history(changed, likelihood, [40, 30, 12, 11.5, 12, 11.5, 12, 11.5, 12, 11.5]))


def test_slow_convergence_goes_on_while_changes_fall() -> None:
    changed = [0.5 * 0.93**i for i in range(20)]
    for n in range(8, 21):
        assert not decisions.nothing_changes(_history(changed[:n], [-600.0] * n, [10.0] * n))


def test_slow_convergence_goes_on_while_the_likelihood_rises() -> None:
    likelihood = [-600 + 0.03 * i for i in range(20)]
    for n in range(8, 21):
        assert not decisions.nothing_changes(_history([0.004] * n, likelihood[:n], [10.0] * n))


def test_particles_that_belong_to_two_classes_alike_do_not_keep_a_run_going() -> None:
    changed = [0.9, 0.5, 0.2, 0.1, 0.06, 0.051, 0.048, 0.052, 0.049, 0.051, 0.05, 0.049]
    wavering = [-900, -700, -650, -640, -636, -635, -634.2, -635.1, -634.3, -635.0, -634.2, -635.1]
    assert decisions.nothing_changes(_history(changed, wavering, [10.0] * 12))
    assert not decisions.nothing_changes(_history(changed[:7], wavering[:7], [10.0] * 7))


def test_a_falling_likelihood_is_a_change() -> None:
    changed, _, resolution = SETTLED
    falling = [-600 - 0.5 * i for i in range(10)]
    assert not decisions.nothing_changes(_history(changed, falling, resolution))


def test_a_missing_value_is_a_change() -> None:
    for column in range(3):
        rows = [list(values) for values in SETTLED]
        rows[column][-1] = math.nan
        assert not decisions.nothing_changes(_history(*rows))


def test_minibatches_stop_only_in_their_last_phase() -> None:
    rng = np.random.default_rng(3)
    n = 200
    table = _history([0.3] * n, -600 + 0.2 * rng.normal(size=n), [10.0] * n)
    done = [i for i in range(1, n + 1) if decisions.minibatches_change_nothing(table.take(np.arange(i)), n)]
    assert done[0] >= 177
    assert done[0] < 185


def test_minibatches_whose_likelihood_rises_go_on() -> None:
    rng = np.random.default_rng(3)
    n = 200
    table = _history([0.3] * n, np.arange(n) * 0.1 + 0.2 * rng.normal(size=n), [10.0] * n)
    assert not any(decisions.minibatches_change_nothing(table.take(np.arange(i)), n) for i in range(170, n + 1))


@pytest.mark.parametrize(
    ("ssnr", "shell"),
    [
        ([9, 9, 5, 2, 1, 0.5, 0.1], 4),
        ([9, 9, 5, 2, 1, 0.5, 3.0], 4),
        ([9, 0.9, 5, 2], 0),
        ([0, 9, 5, 2], 3),
        ([9, 9, math.nan, 9], 1),
        ([math.inf, math.inf], 1),
    ],
)
def test_resolved_is_what_comes_before_the_first_fall_below_one(ssnr: list[float], shell: int) -> None:
    assert decisions.resolved_shell(ssnr) == shell


def test_resolved_shells_of_several_classes() -> None:
    assert decisions.resolved_shell([[9, 9, 9, 0.1], [9, 0.1, 9, 9]]).tolist() == [2, 0]


def _curve(shell: int, n_shells: int = 33) -> list[float]:
    return [2.0] * (shell + 1) + [0.5] * (n_shells - shell - 1)


@pytest.mark.parametrize(
    ("classes", "side", "increment", "expected"),
    [
        ([12, 7], 64, 10, 22),
        ([7, 12], 64, 10, 22),
        ([2, 3], 64, 10, 15),  # at least five shells count as resolved
        ([25, 3], 64, 10, 31),  # Nyquist does not belong to a band
        ([25, 3], 63, 10, 30),
        ([12, 7], 64, 3, 15),
        ([0, 0], 8, 10, 3),
    ],
)
def test_the_band_reaches_beyond_the_best_class(classes: list[int], side: int, increment: int, expected: int) -> None:
    assert decisions.current_shell([_curve(shell) for shell in classes], side, increment) == expected


@pytest.mark.parametrize(
    ("step", "diameter", "field", "current", "shell"),
    [
        (12.0, 200.0, 226.56, 30, 17),  # 2/3 of an arc of 20.9 Å is 13.96 Å
        (12.0, 200.0, 226.56, 10, 10),
        (24.0, 200.0, 226.56, 30, 9),
        (180 / math.pi * 1.5, 200.0, 300.0, 99, 3),  # exactly 100 Å
        (90.0, 2000.0, 226.56, 30, 1),
    ],
)
def test_a_first_pass_stops_at_what_one_step_of_angle_can_tell(
    step: float, diameter: float, field: float, current: int, shell: int
) -> None:
    assert decisions.coarse_shell(step, diameter, field, current) == shell


@pytest.mark.parametrize(
    ("finest", "coarsest", "shells"),
    [(None, None, (1, 20)), (15.0, None, (1, 16)), (5.0, None, (1, 20)), (None, 60.0, (4, 20)), (15.0, 60.0, (4, 16))],
)
def test_limits_narrow_the_band(finest: float | None, coarsest: float | None, shells: tuple[int, int]) -> None:
    assert decisions.limits(20, 240.0, finest_angstrom=finest, coarsest_angstrom=coarsest) == shells


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"one shell, of 240 Å to 12\.0 Å; got --max-alignment-resolution 500; widen the limits"
    ):
        decisions.limits(20, 240.0, finest_angstrom=500.0)
    with pytest.raises(InputError, match="at least one shell"):
        decisions.limits(20, 240.0, coarsest_angstrom=8.0)


@pytest.mark.parametrize(
    ("rotation", "offset", "steps"),
    [
        (3.0, 1.0, (6.0, 2.0)),  # finer than asked is never taken
        (10.0, 4.0, (8.0, 3.2)),
        (30.0, 100.0, (24.0, 4.75)),
        (math.nan, math.nan, (6.0, 2.0)),
        (math.inf, 4.0, (6.0, 3.2)),
    ],
)
def test_steps_grow_with_the_errors_of_poses(rotation: float, offset: float, steps: tuple[float, float]) -> None:
    found = decisions.coarser_sampling(
        rotation_accuracy_degrees=rotation,
        offset_accuracy_angstrom=offset,
        psi_step_degrees=6.0,
        offset_step_angstrom=2.0,
        offset_range_angstrom=10.0,
    )
    assert found == pytest.approx(steps)
