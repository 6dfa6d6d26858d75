"""What a session shows."""

import numpy as np
import pytest

from halfmap.sessions import views
from halfmap.sessions.observation import Micrograph, Observation


def classes(*counts: int) -> list[dict[str, int]]:
    return [{"particles": count} for count in counts]


@pytest.mark.parametrize(
    ("counts", "hints"),
    [
        ((100,) * 20, False),
        ((1000, 1000, *(2,) * 18), True),
        ((1000, 1, 1), False),
        ((100,) * 20 + (0,) * 30, False),
        ((), False),
    ],
)
def test_a_hint_at_preferred_views_where_few_classes_hold_most_particles(counts: tuple[int, ...], hints: bool) -> None:
    assert (views.orientation_hint(classes(*counts)) is not None) == hints


def test_plots_of_many_micrographs_are_thinned_and_keep_their_ends() -> None:
    n = 3 * views.MOST_POINTS + 7
    rows = {f"m{k}": Micrograph(name=f"m{k}", time_s=1e9 + k, resolution_angstrom=3.0 + k) for k in range(n)}
    found = views.plots(Observation(micrographs=rows), [(float(k), k) for k in range(n)], [])
    time = found["ctf_resolution"]["t"]
    assert len(time) <= views.MOST_POINTS + 1
    assert (time[0], time[-1]) == (1e9, 1e9 + n - 1)
    assert found["particles"]["y"][-1] == n - 1
    assert found["defocus"]["y"] == [None] * len(time)


def test_a_micrograph_whose_number_is_not_known_does_not_pass_a_threshold() -> None:
    rows = {
        name: Micrograph(name=name, time_s=1.0, resolution_angstrom=value, picks=10)
        for name, value in (("known", 3.0), ("unknown", np.nan))
    }
    seen = Observation(micrographs=rows)
    assert views.thresholds(seen, {"max_resolution_angstrom": 5.0})["particles_lost"] == 10
    assert views.thresholds(seen, {})["micrographs_lost"] == 0
