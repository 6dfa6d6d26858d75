"""Micrographs that a session leaves out: by limits on their figures, and by eye."""

from pathlib import Path

import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.io import relion
from halfmap.sessions.observation import Micrograph, Observation
from halfmap.sessions.sifting import LIMITS, is_kept
from support.live_folders import PER_MICROGRAPH, LiveFolder
from support.live_sessions import FAST, ChildHere, a_session, until_idle

GOOD = Micrograph(
    name="m", time_s=1.0, resolution_angstrom=4.0, defocus_angstrom=12_000.0, motion_angstrom=6.0, picks=50
)


@pytest.mark.parametrize("name", LIMITS)
def test_a_micrograph_at_a_limit_is_kept_and_one_beyond_or_unknown_is_not(name: str) -> None:
    value = float(getattr(GOOD, LIMITS[name][0]))
    beyond = value * (1.01 if name.startswith("min") else 0.99)
    unknown = Micrograph(name="unknown", time_s=2.0)
    assert is_kept([GOOD, unknown], {name: value}).tolist() == [True, False]
    assert is_kept([GOOD, unknown], {name: beyond}).tolist() == [False, False]


def test_what_was_said_by_eye_goes_before_limits() -> None:
    rows = [Micrograph(name=name, time_s=1.0, resolution_angstrom=4.0) for name in "abc"]
    judged = {"a": True, "b": False}
    assert is_kept(rows, {"max_resolution_angstrom": 3.0}, judged).tolist() == [True, False, False]
    assert is_kept(rows, {}, judged).tolist() == [True, False, True]


def test_limits_of_unknown_names_or_without_a_value_are_refused() -> None:
    with pytest.raises(InputError, match="must be one of max_resolution"):
        is_kept([GOOD], {"ice": 1.0})
    with pytest.raises(InputError, match="must be a finite number"):
        is_kept([GOOD], {"max_resolution_angstrom": np.nan})


def test_particles_are_counted_in_stacks_and_where_there_are_none_by_picks() -> None:
    assert Observation(micrographs={"m": GOOD}).particles_of == {"m": 50}


def test_limits_leave_particles_out_of_the_next_cycle_and_of_exports_until_they_are_undone(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)  # four micrographs with CTF to 3.5, 4.5, 5.5 and 3.5 Å
    whole = session.snapshot()["counts"]
    told = session.set_limits({"max_resolution_angstrom": 5.0})
    assert (told["micrographs_lost"], told["particles_lost"]) == (1, PER_MICROGRAPH)
    assert session.snapshot()["limits"] == {
        "values": {"max_resolution_angstrom": 5.0},
        "can_undo": True,
        "micrographs_out": 1,
        "particles_out": PER_MICROGRAPH,
    }
    session.start_now(FAST)
    assert until_idle(session) == "listening"
    assert session.cycle(4)["particles"] == 3 * PER_MICROGRAPH
    assert [one["left_out"] for one in session.micrographs()["micrographs"]] == [False, False, True, False]
    session.judge({"mic003": False})
    assert session.snapshot()["counts"]["since_last"] == 0
    kept = relion.read_particles(session.export("relion", tmp_path / "out"))
    assert {Path(name).stem for name in kept["micrograph_name"].tolist()} == {"mic000", "mic001"}
    session.judge({"mic002": True, "mic003": None})
    assert session.snapshot()["limits"]["micrographs_out"] == 0
    session.judge({"mic002": None})
    session.undo_limits()
    assert session.snapshot()["counts"]["since_last"] == 2 * PER_MICROGRAPH  # back again, and new to the next cycle
    assert session.thresholds({})["particles_kept"] == whole["since_last"] == 4 * PER_MICROGRAPH
    session.close()


def test_what_is_left_out_is_remembered_and_what_leaves_nothing_is_refused(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.set_limits({"min_picks": 1})
    session.set_limits({"max_resolution_angstrom": 4.0})
    session.judge({"mic000": False})
    with pytest.raises(InputError, match="leave some micrographs"):
        session.set_limits({"max_resolution_angstrom": 1.0})
    with pytest.raises(InputError, match="one of those listed"):
        session.judge({"nothing": False})
    session.close()
    again = a_session(tmp_path / "s", folder.path)
    assert again.course.left_out == {"mic000", "mic001", "mic002"}
    again.undo_limits()
    assert again.snapshot()["limits"]["values"] == {"min_picks": 1}
    assert again.course.n_particles == 3 * PER_MICROGRAPH
    again.close()
