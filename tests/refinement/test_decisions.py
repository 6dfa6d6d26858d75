import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations
from halfmap.geometry.symmetry import operators
from halfmap.refinement import decisions
from halfmap.refinement.state import PoseSampling, Progression

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("symmetry", "asked", "orders"),
    [
        ("C1", (None, None), (2, 4)),
        ("D7", (None, None), (2, 4)),
        ("T", (None, None), (3, 5)),
        ("o", (None, None), (3, 5)),
        ("I2", (None, None), (3, 5)),
        ("C1", (3, None), (3, 4)),
        ("I", (None, 4), (3, 4)),
        ("C4", (5, 3), (5, 3)),
    ],
)
def test_cubic_groups_begin_one_order_finer(
    symmetry: str, asked: tuple[int | None, int | None], orders: tuple[int, int]
) -> None:
    assert decisions.first_orders(symmetry, *asked) == orders


def test_steps_of_first_orders_are_relions() -> None:
    steps = [
        PoseSampling(
            healpix_order=order, is_local=False, offset_range_angstrom=5, offset_step_angstrom=1
        ).rotation_step_degrees
        for order in (2, 3, 4, 5)
    ]
    assert steps == pytest.approx([7.5, 3.75, 1.875, 0.9375])


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(InputError, match="symmetry must be one of"):
        decisions.first_orders("X3", None, None)


def _fsc(*stretches: tuple[float, int]) -> list[float]:
    """Return a curve: 1 at DC, then each value for so many shells."""
    return [1.0] + [value for value, n in stretches for _ in range(n)]


@pytest.mark.parametrize(
    ("fsc", "crossing", "resolved"),
    [
        (_fsc((0.9, 12), (0.3, 20)), 12, 12),
        (_fsc((0.9, 12)), 12, 12),  # never falls
        (_fsc((0.3, 12)), 0, 0),
        (_fsc((NAN, 12)), 0, 0),
        (_fsc((0.9, 5), (NAN, 1), (0.9, 3)), 5, 5),
        (_fsc((0.5, 7), (0.499, 3)), 7, 7),
        (_fsc((0.9, 8), (0.4, 2), (0.9, 6), (0.1, 10)), 8, 16),  # a zero of the CTF
        (_fsc((0.9, 8), (0.4, 2), (0.9, 3), (0.1, 10)), 8, 8),  # chance
        (_fsc((0.9, 8), (0.4, 2), (0.9, 4), (0.1, 10)), 8, 14),
        (_fsc((0.9, 8), (0.1, 10), (0.6, 6), (0.1, 10)), 8, 8),  # copies of particles
        (_fsc((0.9, 4), (0.3, 1), (0.9, 4), (0.3, 2), (0.7, 9)), 4, 20),
        (_fsc((0.9, 4), (0.3, 1), (0.9, 4), (0.3, 9), (0.7, 9)), 4, 9),
    ],
)
def test_resolved_is_what_comes_before_the_first_lasting_fall(fsc: list[float], crossing: int, resolved: int) -> None:
    assert decisions.crossing_shell(fsc, 0.5) == crossing
    assert decisions.resolution_shell(fsc) == resolved
    assert decisions.resolution_shell(torch.tensor(fsc)) == resolved


def test_thresholds_are_those_asked_for() -> None:
    fsc = np.concatenate([[0.0], np.linspace(1, 0, 101)])  # shell i has 1 − (i − 1) / 100
    assert decisions.resolution_shell(fsc) == 51
    assert decisions.crossing_shell(fsc) == 86
    assert decisions.resolution_shell(fsc, threshold=0.143) == 86


@pytest.mark.parametrize(
    ("shell_05", "shell_0143", "at_limit", "certainty", "side", "limit", "expected"),
    [
        (12, 14, 0.1, 0.9, 200, None, 22),
        (12, 20, 0.1, 0.9, 200, None, 25),
        (20, 12, 0.1, 0.9, 200, None, 30),  # a dip between, passed over
        (12, 14, 0.3, 0.9, 200, None, 37),  # a quarter of 100 shells
        (12, 14, 0.3, 0.1, 200, None, 22),  # poses uncertain
        (12, 14, 0.2, 0.9, 200, None, 22),
        (12, 14, NAN, 0.9, 200, None, 22),
        (12, 14, 0.3, NAN, 200, None, 22),
        (12, 50, 0.3, 0.9, 200, None, 55),
        (12, 14, 0.3, 0.9, 64, None, 22),  # a quarter of 32 shells is less than ten
        (90, 95, 0.3, 0.9, 200, None, 99),  # Nyquist does not belong to a band
        (28, 30, 0.1, 0.9, 63, None, 30),
        (12, 14, 0.1, 0.9, 200, 18, 18),
        (0, 0, 0.1, 0.9, 200, None, 10),
        (0, 0, 0.1, 0.9, 4, None, 1),
    ],
)
def test_the_band_reaches_beyond_what_is_resolved(
    shell_05: int, shell_0143: int, at_limit: float, certainty: float, side: int, limit: int | None, expected: int
) -> None:
    fsc = [1.0] * 20 + [at_limit] + [0.0] * 80
    assert decisions.next_shell(shell_05, shell_0143, 20, fsc, certainty, side, limit) == expected


def test_the_large_step_is_not_sticky() -> None:
    high = decisions.next_shell(30, 34, 40, [1.0] * 41 + [0.0] * 60, 0.9, 200)
    assert high == 55
    assert decisions.next_shell(30, 34, high, [1.0] * 41 + [0.0] * 60, 0.9, 200) == 40


def test_a_band_beyond_the_curve_takes_the_small_step() -> None:
    assert decisions.next_shell(5, 6, 50, [1.0] * 10, 0.9, 200) == 15


@pytest.mark.parametrize(
    ("reached", "in_mask", "band", "side", "expected"),
    [
        (50, 60, 70, 200, 90),
        (90, 95, 99, 200, 99),
        (50, 40, 70, 200, 75),  # a mask that misses the particle
        (20, 22, 30, 200, 33),
        (0, 0, 10, 200, 10),
        (51, 60, 61, 400, 90),
        (51, 61, 61, 400, 199),  # above 0.143 to the end of the band: how far it goes is not known
    ],
)
def test_the_last_iteration_sees_both_curves_fall_to_zero(
    reached: int, in_mask: int, band: int, side: int, expected: int
) -> None:
    plain, masked = (_fsc((0.2, shell), (0.1, side // 2 - shell)) for shell in (reached, in_mask))
    assert decisions.last_shell(plain, masked, band, side) == expected


@pytest.mark.parametrize(
    ("step", "diameter", "field", "fine", "shell"),
    [
        (15.0, 200.0, 400.0, 99, 19),  # an arc of 26.2 Å, 21.8 Å after the division
        (15.0, 200.0, 400.0, 12, 12),
        (3.75, 200.0, 400.0, 99, 74),
        (90.0, 2000.0, 400.0, 99, 1),
    ],
)
def test_a_first_pass_stops_at_what_one_step_can_tell(
    step: float, diameter: float, field: float, fine: int, shell: int
) -> None:
    assert decisions.coarse_shell(step, diameter, field, fine) == shell


@pytest.mark.parametrize(("resolution", "shell"), [(60.0, 7), (40.0, 10), (20.0, 10), (400.0, 1), (INF, 0), (399.0, 2)])
def test_halves_are_joined_to_the_coarser_of_both_resolutions(resolution: float, shell: int) -> None:
    assert decisions.join_shell(40.0, resolution, 400.0) == shell


def a_sampling(order: int = 2, *, step: float = 1.0, reach: float = 5.0, is_local: bool = False) -> PoseSampling:
    return PoseSampling(
        healpix_order=order, is_local=is_local, offset_step_angstrom=step, offset_range_angstrom=reach, perturbation=0.3
    )


STALLED = Progression(
    resolution_angstrom=10.0,
    iterations_without_gain=1,
    iterations_without_large_changes=1,
    smallest_rotation_change_degrees=3.0,
    smallest_offset_change_angstrom=0.5,
)
SETTINGS = {
    "rotation_accuracy_degrees": 2.0,
    "offset_accuracy_angstrom": 1.0,
    "offset_change_angstrom": 0.5,
    "resolution_angstrom": 10.0,
    "mask_diameter_angstrom": 200.0,
    "local_from_order": 4,
}


@pytest.mark.parametrize(
    ("gain", "change", "is_finer"), [(0, 0, False), (1, 0, False), (0, 3, False), (1, 1, True), (4, 2, True)]
)
def test_steps_become_finer_once_map_and_poses_have_stalled(gain: int, change: int, is_finer: bool) -> None:
    before = a_sampling()
    progression = Progression(
        resolution_angstrom=10.0, iterations_without_gain=gain, iterations_without_large_changes=change
    )
    sampling, after = decisions.next_sampling(before, progression, **SETTINGS)
    assert (sampling.healpix_order == 3) == is_finer
    assert (sampling is before) == (after is progression) == (not is_finer)


def test_a_new_sampling_forgets_all_but_the_resolution() -> None:
    sampling, after = decisions.next_sampling(a_sampling(), STALLED, **SETTINGS)
    assert vars(after) == vars(Progression(resolution_angstrom=10.0))
    assert sampling.perturbation == 0.3


@pytest.mark.parametrize(
    ("order", "local_from", "is_local"), [(2, 4, False), (3, 4, True), (4, 4, True), (3, 5, False), (5, 3, True)]
)
def test_searches_are_local_from_an_order_on(order: int, local_from: int, is_local: bool) -> None:
    settings = {**SETTINGS, "rotation_accuracy_degrees": 0.1, "local_from_order": local_from}
    sampling, _ = decisions.next_sampling(a_sampling(order), STALLED, **settings)
    assert (sampling.healpix_order, sampling.is_local) == (order + 1, is_local)


@pytest.mark.parametrize(
    ("order", "accuracy", "is_enough"),
    [(2, 9.9, False), (2, 10.1, True), (4, 2.4, False), (4, 2.6, True), (4, NAN, False), (10, 0.001, True)],
)
def test_steps_below_three_quarters_of_the_error_are_fine_enough(order: int, accuracy: float, is_enough: bool) -> None:
    before = a_sampling(order)
    sampling, after = decisions.next_sampling(before, STALLED, **{**SETTINGS, "rotation_accuracy_degrees": accuracy})
    assert after.is_fine_enough == is_enough
    assert (sampling is before) == is_enough
    if is_enough:
        assert after.iterations_without_gain == 1
        assert after.smallest_rotation_change_degrees == 3.0


@pytest.mark.parametrize(
    ("present", "accuracy", "change", "expected"),
    [
        # step, range; accuracy; change; step, range
        ((1.0, 5.0), 1.0, 0.5, (0.75, 2.5)),  # 0.75 of the error, five times the change
        ((1.0, 5.0), 1.0, 0.1, (0.75, 2.25)),  # at least 1.5 coarse steps of 1.5 Å
        ((1.0, 5.0), 1.0, 2.0, (0.75, 3.25)),  # 10 Å → 1.3 · 5 = 6.5 Å, more than 6 Å → half of it
        ((2.0, 20.0), 1.0, 4.0, (1.25, 10.0)),  # half of 20 Å is still more: a coarse step of 2.5 Å
        ((3.0, 9.0), 5.0, 1.0, (1.5, 5.0)),  # at most 1.5 Å
        ((1.0, 5.0), 1.5, 0.2, (1.0, 5.0)),  # would grow: all stays
        ((0.75, 30.0), 0.2, 6.0, (0.75, 30.0)),  # would grow to 1.875 Å
        ((2.0, 8.0), NAN, 1.0, (1.5, 5.0)),
        ((2.0, 8.0), 1.0, NAN, (0.75, 5.2)),
        ((1.0, 0.0), 0.5, 0.0, (1.0, 0.0)),  # offsets are not searched
    ],
)
def test_offsets_follow_their_errors_and_changes(
    present: tuple[float, float], accuracy: float, change: float, expected: tuple[float, float]
) -> None:
    settings = {**SETTINGS, "offset_accuracy_angstrom": accuracy, "offset_change_angstrom": change}
    sampling, _ = decisions.next_sampling(a_sampling(step=present[0], reach=present[1]), STALLED, **settings)
    assert (sampling.offset_step_angstrom, sampling.offset_range_angstrom) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("order", "gain", "resolution", "is_finer"),
    [
        (2, 1, 40.0, True),  # poses may still change
        (2, 0, 10.0, True),  # 360° / 63 < 7.5°
        (2, 0, 20.0, False),  # 360° / 32 > 7.5°
        (2, 0, INF, False),
        (3, 0, 5.0, False),  # the next order is local: both must have been tried
        (3, 1, 5.0, True),
    ],
)
def test_finer_faster_goes_by_the_resolution(order: int, gain: int, resolution: float, is_finer: bool) -> None:
    progression = Progression(resolution_angstrom=resolution, iterations_without_gain=gain, tells_poses=True)
    settings = {**SETTINGS, "resolution_angstrom": resolution, "finer_faster": True}
    sampling, _ = decisions.next_sampling(a_sampling(order), progression, **settings)
    assert (sampling.healpix_order > order) == is_finer


@pytest.mark.parametrize(
    ("best", "resolution", "without"),
    [(INF, 20.0, 0), (20.0, 19.0, 0), (20.0, 20.0, 3), (20.0, 25.0, 3), (INF, INF, 3)],
)
def test_a_gain_is_one_over_the_best_so_far(best: float, resolution: float, without: int) -> None:
    progression = Progression(resolution_angstrom=best, iterations_without_gain=2, tells_poses=True)
    after = decisions.progressed(
        progression,
        resolution_angstrom=resolution,
        rotation_change_degrees=9.0,
        offset_change_angstrom=9.0,
        rotation_accuracy_degrees=5.0,
        log_likelihood_growth=1.0,
        sampling=a_sampling(),
    )
    assert after.iterations_without_gain == without
    assert after.resolution_angstrom == min(best, resolution)


@pytest.mark.parametrize(
    ("rotation", "offset", "is_settled"),
    [
        (2.9, 0.39, True),  # below 0.4 of 7.5° and 1 Å
        (3.1, 0.39, False),  # and falling from 4°
        (2.9, 0.41, False),  # and falling from 0.6 Å
        (3.9, 0.39, True),  # no longer falling: within 3 % of 4°
        (8.0, 5.0, True),
        (3.9, 0.59, True),
        (3.1, 5.0, False),
        (NAN, 0.1, False),
        (0.1, NAN, False),
    ],
)
def test_poses_settle_where_changes_are_small_or_no_longer_fall(
    rotation: float, offset: float, is_settled: bool
) -> None:
    progression = Progression(
        iterations_without_large_changes=1, smallest_rotation_change_degrees=4.0, smallest_offset_change_angstrom=0.6
    )
    after = decisions.progressed(
        progression,
        resolution_angstrom=20.0,
        rotation_change_degrees=rotation,
        offset_change_angstrom=offset,
        rotation_accuracy_degrees=5.0,
        log_likelihood_growth=NAN,
        sampling=a_sampling(),
    )
    assert after.iterations_without_large_changes == (2 if is_settled else 0)
    assert after.smallest_rotation_change_degrees == np.fmin(4.0, rotation)
    assert after.smallest_offset_change_angstrom == np.fmin(0.6, offset)


def test_first_changes_are_large_unless_small_against_the_steps() -> None:
    after = decisions.progressed(
        Progression(),
        resolution_angstrom=20.0,
        rotation_change_degrees=30.0,
        offset_change_angstrom=3.0,
        rotation_accuracy_degrees=5.0,
        log_likelihood_growth=NAN,
        sampling=a_sampling(),
    )
    assert after.iterations_without_large_changes == 0


@pytest.mark.parametrize(
    ("accuracy", "growth", "without"),
    [(20.0, 0.5, 0), (20.0, 0.05, 3), (20.0, -1.0, 3), (20.0, NAN, 3), (5.0, 0.5, 3), (NAN, 0.5, 3)],
)
def test_while_poses_are_unknown_a_growing_likelihood_is_a_gain(accuracy: float, growth: float, without: int) -> None:
    after = decisions.progressed(
        Progression(resolution_angstrom=20.0, iterations_without_gain=2, tells_poses=True),
        resolution_angstrom=20.0,
        rotation_change_degrees=9.0,
        offset_change_angstrom=9.0,
        rotation_accuracy_degrees=accuracy,
        log_likelihood_growth=growth,
        sampling=a_sampling(),
    )
    assert after.iterations_without_gain == without


@pytest.mark.parametrize(
    ("fine", "gain", "change", "faster", "done"),
    [
        (True, 1, 1, False, True),
        (False, 5, 5, False, False),
        (True, 0, 1, False, False),
        (True, 1, 0, False, False),
        (True, 1, 0, True, True),
        (True, 0, 0, True, False),
    ],
)
def test_a_refinement_ends_where_nothing_gains(fine: bool, gain: int, change: int, faster: bool, done: bool) -> None:
    progression = Progression(
        is_fine_enough=fine, iterations_without_gain=gain, iterations_without_large_changes=change
    )
    assert decisions.has_converged(progression, faster) == done


@pytest.mark.parametrize(("accuracy", "power"), [(NAN, 1.0), (30.0, 2.0), (10.1, 2.0), (9.9, 1.0), (0.5, 1.0)])
def test_likelihoods_are_sharper_only_while_poses_are_unknown(accuracy: float, power: float) -> None:
    assert decisions.likelihood_power(accuracy, tells_poses=False) == power
    assert decisions.likelihood_power(accuracy, tells_poses=True) == 1.0  # once they have been known


@pytest.mark.parametrize(
    ("accuracy", "before", "tells", "without_gain"),
    [
        (9.9, False, True, 0),
        (9.9, True, True, 1),
        (10.1, False, False, 1),
        (10.1, True, True, 1),
        (NAN, False, False, 1),
    ],
)
def test_a_refinement_does_not_end_where_its_maps_first_tell_poses(
    accuracy: float, before: bool, tells: bool, without_gain: int
) -> None:
    after = decisions.progressed(
        Progression(resolution_angstrom=10.0, tells_poses=before),
        resolution_angstrom=10.0,
        rotation_change_degrees=1.0,
        offset_change_angstrom=1.0,
        rotation_accuracy_degrees=accuracy,
        log_likelihood_growth=0.0,
        sampling=a_sampling(),
    )
    assert (after.tells_poses, after.iterations_without_gain) == (tells, without_gain)
    _, at_finer_steps = decisions.next_sampling(a_sampling(), replace(STALLED, tells_poses=tells), **SETTINGS)
    assert at_finer_steps.tells_poses == tells


def test_a_run_of_good_poses_goes_through_all_orders_and_converges() -> None:
    sampling, progression, orders = a_sampling(), Progression(), []
    for iteration in range(1, 60):
        error = 0.3 * sampling.rotation_step_degrees
        progression = decisions.progressed(
            progression,
            resolution_angstrom=max(4.0, 60 / iteration),
            rotation_change_degrees=error,
            offset_change_angstrom=0.2,
            rotation_accuracy_degrees=1.0,
            log_likelihood_growth=0.5,
            sampling=sampling,
        )
        sampling, progression = decisions.next_sampling(
            sampling, progression, **{**SETTINGS, "rotation_accuracy_degrees": 1.0}
        )
        orders.append(sampling.healpix_order)
        if decisions.has_converged(progression):
            break
    assert orders[:15] == [2] * 15  # while the resolution grows
    assert sorted(set(orders)) == [2, 3, 4, 5, 6]  # 0.47° is less than 0.75°
    assert len(orders) < 30
    assert sampling.is_local


def test_a_local_search_reaches_six_fine_steps() -> None:
    sampling = a_sampling(4)
    assert decisions.local_sigma_degrees(sampling) == pytest.approx(3.75)
    reach = decisions.LOCAL_CUTOFF_SIGMAS * decisions.local_sigma_degrees(sampling)
    assert reach == pytest.approx(6 * sampling.rotation_step_degrees)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turn_about_one_axis_moves_the_two_others(axis: int) -> None:
    before = random_rotations(1, "poses", range(50))
    turn = matrix_from_rotation_vector(math.radians(9.0) * torch.eye(3, dtype=torch.float64)[axis])
    still = np.zeros((50, 2))
    rotation, offset = decisions.changes(before.numpy(), (turn @ before).numpy(), still, still)
    assert rotation == pytest.approx(6.0)
    assert offset == 0.0


@pytest.mark.parametrize("symmetry", ["C1", "C5", "D3", "T", "O", "I2"])
def test_equivalent_poses_are_no_change(symmetry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_MOST_ROTATIONS_AT_ONCE", 500)  # several parts
    before, group = random_rotations(1, "poses", range(70)), operators(symmetry)
    equivalent = before @ group[torch.arange(70) % len(group)]
    turn = matrix_from_rotation_vector(torch.tensor([0.0, 0.0, math.radians(3.0)], dtype=torch.float64))
    still = np.zeros((70, 2))
    found = [
        decisions.changes(before.numpy(), after.numpy(), still, still, symmetry)[0]
        for after in (equivalent, turn @ equivalent)
    ]
    assert found == pytest.approx([0.0, 2.0], abs=1e-5)


def test_a_change_of_offsets_is_that_along_one_axis() -> None:
    moves = 1.7 * keyed_random.normal(1, "moves", np.arange(20_000), size=2)
    rotation = np.broadcast_to(np.eye(3), (20_000, 3, 3))
    found = decisions.changes(rotation, rotation, np.zeros_like(moves), moves)
    assert found == pytest.approx((0.0, 1.7), rel=0.02)


def test_no_particles_have_no_change() -> None:
    found = decisions.changes(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2)), np.zeros((0, 2)))
    assert all(math.isnan(value) for value in found)
