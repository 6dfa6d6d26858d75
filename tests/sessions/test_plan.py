"""What a session does next, as tables."""

import pytest

from halfmap.errors import InputError
from halfmap.sessions import plan
from halfmap.sessions.settings import LiveSettings


def kinds(cycles: tuple[plan.CyclePlan, ...]) -> list[str]:
    return [one.kind for one in cycles]


def test_an_ab_initio_job_is_a_seed_a_ramp_and_refinement_with_the_defaults_of_live2d() -> None:
    cycles = plan.cycles_of(LiveSettings(), 50_000, kind="abinit")
    assert kinds(cycles) == ["seed"] + ["startup"] * 15 + ["refinement"] * 5
    assert [one.resolution_angstrom for one in cycles[1:16]] == pytest.approx([40 - 32 * c / 14 for c in range(15)])
    assert {one.fraction for one in cycles[1:16]} == {300 * 50 / 50_000}
    assert {(one.resolution_angstrom, one.fraction) for one in cycles[16:]} == {(8.0, 1.0)}


def test_seeded_start_up_looks_at_all_particles_and_refinement_has_no_start_up() -> None:
    seeded = plan.cycles_of(LiveSettings(), 100_000, kind="seeded")
    assert kinds(seeded) == ["startup"] * 15 + ["refinement"] * 5
    assert {one.fraction for one in seeded} == {1.0}
    assert kinds(plan.cycles_of(LiveSettings(), 100_000, kind="refine")) == ["refinement"] * 5


def test_a_single_startup_cycle_has_the_final_resolution() -> None:
    """Live2D divides by the number of startup cycles less one."""
    cycles = plan.cycles_of(LiveSettings(startup_cycles=1), 50_000, kind="abinit")
    assert cycles[1].resolution_angstrom == 8.0


@pytest.mark.parametrize(("n", "expected"), [(0, 1.0), (15_000, 1.0), (30_000, 0.5), (150_000, 0.1)])
def test_the_fraction_of_startup_is_particles_per_class_times_classes_over_particles(n: int, expected: float) -> None:
    assert plan.fraction_of_startup(LiveSettings(), n) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "rises"), [(150, False), (199, False), (200, True), (500, True)])
def test_an_incremental_job_lowers_the_resolution_again_where_particles_have_doubled(n: int, rises: bool) -> None:
    cycles = plan.cycles_of(LiveSettings(), n, kind="incremental", n_when_risen=100)
    assert ("startup" in kinds(cycles)) == rises
    assert kinds(cycles)[-5:] == ["incremental"] * 5


def test_no_class_is_revived_in_the_last_cycles_of_a_job() -> None:
    cycles = plan.cycles_of(LiveSettings(), 1000, kind="abinit")
    assert [one.revives for one in cycles] == [True] * 19 + [False] * 2


@pytest.mark.parametrize(
    ("state", "n", "classified", "has_classes", "expected"),
    [
        ("listening", 49_999, 0, False, False),
        ("listening", 50_000, 0, False, True),
        ("listening", 99_999, 50_000, True, False),
        ("listening", 100_000, 50_000, True, True),
        ("stopped", 100_000, 0, False, False),
        ("running", 100_000, 0, False, False),
        ("failed", 100_000, 0, False, False),
    ],
)
def test_an_automatic_job_starts_at_its_threshold(
    state: plan.State, n: int, classified: int, has_classes: bool, expected: bool
) -> None:
    settings = LiveSettings()
    found = plan.should_start(settings, state, n_particles=n, n_classified=classified, has_classes=has_classes)
    assert found == expected


@pytest.mark.parametrize(
    ("state", "act", "expected"),
    [
        ("stopped", "start", "running"),
        ("listening", "start", "running"),
        ("running", "start", None),
        ("stopping", "start", None),
        ("stopped", "listen", "listening"),
        ("listening", "listen", None),
        ("running", "finish", "listening"),
        ("running", "stop", "stopping"),
        ("stopping", "finish", "stopped"),
        ("running", "stop hard", "stopped"),
        ("running", "fail", "failed"),
        ("stopping", "fail", "stopped"),
        ("failed", "retry", "running"),
        ("failed", "stop", "stopped"),
    ],
)
def test_states_follow_from_acts(state: plan.State, act: str, expected: plan.State | None) -> None:
    assert plan.after(state, act) == expected


def test_failures_are_tried_again_three_times_each_after_a_longer_pause() -> None:
    pauses = [plan.pause_seconds(attempt) for attempt in (1, 2, 3, 4, 5)]
    assert pauses == [5.0, 20.0, 80.0, None, None]


def test_what_comes_after_ab_initio_is_seeded_and_nothing_else_changes() -> None:
    types = ("abinit", "seeded", "refine", "incremental")
    after = [plan.type_after(LiveSettings(classification_type=kind)) for kind in types]
    assert after == ["seeded", "seeded", "refine", "incremental"]


def test_without_classes_or_when_forced_a_job_is_ab_initio() -> None:
    refine = LiveSettings(classification_type="refine")
    assert plan.job_type(refine, has_classes=False, forced=False) == "abinit"
    assert plan.job_type(refine, has_classes=True, forced=True) == "abinit"
    assert plan.job_type(refine, has_classes=True, forced=False) == "refine"


def test_the_page_says_why_nothing_runs() -> None:
    def said(state: plan.State, **values: object) -> str:
        numbers = {"n_particles": 1200, "n_classified": 1000, "has_classes": True} | values
        return plan.why_idle(LiveSettings(next_threshold=500), state, **numbers)  # type: ignore[arg-type]

    assert said("running") == ""
    assert said("listening") == "Listening: a job starts at 500 new particles; 200 are there."
    assert "3 micrographs" in said("listening", pending=3)
    assert "out of memory" in said("failed", reason="out of memory")


def test_a_resolution_that_would_fall_is_refused() -> None:
    with pytest.raises(InputError, match="no finer"):
        LiveSettings(initial_resolution_angstrom=8.0, final_resolution_angstrom=20.0)
