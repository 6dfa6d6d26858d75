"""A session from its first particles on: jobs, cycles, selection, failures, and what is there after a restart."""

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfmap.errors import InputError, ProjectError
from halfmap.io import relion, states
from halfmap.io.mrc import map_data
from halfmap.sessions import course, plan, store
from halfmap.sessions import session as session_module
from halfmap.sessions.carrying import LiveState
from halfmap.sessions.observation import Observation
from halfmap.sessions.session import Session
from support.live_folders import PER_MICROGRAPH, LiveFolder
from support.live_sessions import FAST, ChildHere, a_session, looked, until_idle

Finished = Callable[[], tuple[Session, LiveFolder]]


def classified(session: Session, **values: object) -> Session:
    session.start_now(FAST | values)
    assert until_idle(session) == "listening"
    return session


def test_a_job_leaves_its_cycles_and_ab_initio_becomes_seeded(tmp_path: Path, finished: Finished) -> None:
    session, _ = finished()
    seen = session.snapshot()
    assert [one["kind"] for one in seen["cycles"]] == ["seed", "startup", "startup", "refinement"]
    assert [one["resolution_angstrom"] for one in seen["cycles"]] == [30, 30, 14, 14]
    assert seen["settings"]["classification_type"] == "seeded"
    json.dumps(seen, allow_nan=False)
    session.close()


def test_counts_of_classes_hold_every_particle(tmp_path: Path, finished: Finished) -> None:
    """Live2D took the first particle for a caption."""
    session, _ = finished()
    last = session.cycle(4)
    assert sum(one["particles"] for one in last["classes"]) == last["particles"] == 4 * PER_MICROGRAPH
    assert last["unassigned"] == 0
    table = relion.read_particles(store.folder_of(tmp_path / "s", 4) / store.DATA)
    counts = np.bincount(table["class_number"], minlength=4)[1:]
    assert counts.tolist() == [one["particles"] for one in last["classes"]]
    session.close()


def test_every_cycle_tells_how_it_converges_and_with_which_settings_it_was_made(
    tmp_path: Path, finished: Finished
) -> None:
    """Live2D showed the last settings for all cycles, and no figure of convergence."""
    session, _ = finished()
    classified(session, classification_type="refine", mask_radius_angstrom=50.0)
    assert {session.cycle(k)["settings"]["mask_radius_angstrom"] for k in range(1, 5)} == {60.0}
    assert {session.cycle(k)["settings"]["mask_radius_angstrom"] for k in (5,)} == {50.0}
    curves = session.snapshot()["plots"]["convergence"]
    assert curves["cycle"] == [2, 3, 4, 5]
    assert all(np.isfinite(value) for value in curves["log_likelihood"])
    session.close()


def test_settings_are_staged_checked_and_used_by_the_next_job(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.stage({"classes": 4, "final_resolution_angstrom": 14.5})
    assert session.snapshot()["settings"]["classes"] == 50
    for wrong in ({"classes": 0}, {"clases": 4}, {"mask_radius_angstrom": "wide"}, {"mask_radius_angstrom": math.inf}):
        with pytest.raises(InputError):
            session.stage(wrong)
    session.start_now({name: FAST[name] for name in ("startup_cycles", "refinement_cycles")})
    assert session.snapshot()["staged"] == {}
    until_idle(session)
    assert session.cycle(4)["settings"]["final_resolution_angstrom"] == 14.5
    assert len(session.cycle(4)["classes"]) == 4
    session.close()


def test_staged_settings_of_a_version_that_took_more_are_dropped(tmp_path: Path, folder: LiveFolder) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.course.note({"event": "staged", "values": {"classes": 0}})
    session.close()
    session = a_session(tmp_path / "s", folder.path)
    assert session.snapshot()["staged"] == {}
    assert "are dropped: `--classes` must be" in session.snapshot()["source"]["notices"][-1]
    session.close()


def test_automatic_jobs_start_at_the_thresholds(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.start_automatic(FAST | {"first_threshold": 100, "next_threshold": 20})
    looked(session, 3)
    assert session.snapshot()["state"] == "listening"
    assert "100 particles; 80 are there" in session.snapshot()["why_idle"]
    folder.arrive(range(4, 5))
    looked(session, 2)
    assert session.snapshot()["state"] == "running"
    until_idle(session)
    assert session.cycle(4)["particles"] == 5 * PER_MICROGRAPH
    folder.arrive(range(5, 6))
    looked(session, 3)
    assert session.snapshot()["state"] == "running"
    until_idle(session)
    assert session.cycle(len(session.cycles()))["particles"] == 6 * PER_MICROGRAPH
    session.close()


def test_new_particles_join_between_cycles(tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    while len(session.cycles()) < 2:
        session.tick()
    folder.arrive(range(4, 6))
    until_idle(session)
    particles = [one["particles"] for one in session.cycles()]
    assert particles[0] == 80
    assert particles[-1] >= 100  # the newest stack is taken at the second look
    session.close()


def test_acts_that_the_state_does_not_allow_are_refused(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    with pytest.raises(InputError, match="as many particles as classes"):
        session.start_now({"classes": 500})
    session.start_now(FAST)
    with pytest.raises(InputError, match="state running"):
        session.start_now(FAST)
    with pytest.raises(InputError, match="state running"):
        session.start_automatic(FAST)
    session.stop()
    assert until_idle(session) == "stopped"
    assert len(session.cycles()) <= 1
    session.close()


def test_a_changed_box_network_or_threshold_begins_ab_initio(tmp_path: Path, finished: Finished) -> None:
    session, folder = finished()
    session.start_automatic({})
    folder.write_settings(score=0.5)
    looked(session, 1)
    assert "ab initio" in session.snapshot()["source"]["notices"][-1]
    assert until_idle(session) == "listening"
    assert session.cycle(5)["kind"] == "seed"
    before = {one["track"] for one in session.cycle(4)["classes"]}
    assert not before & {one["track"] for one in session.cycle(5)["classes"]}
    session.close()


def test_a_selection_survives_the_next_cycles_and_can_be_undone(tmp_path: Path, finished: Finished) -> None:
    session, _ = finished()
    session.select(4, [1, 3], True)
    session.select(4, [3], False)
    session.select(4, [2], True)
    classified(session, classification_type="refine")
    chosen = [one["index"] for one in session.cycle(5)["classes"] if one["selected"]]
    assert set(chosen) >= {1, 2} - {one for pair in session.cycle(5)["born"] for one in pair}
    assert [len(session.undo()) for _ in range(4)] == [1, 2, 0, 0]
    with pytest.raises(InputError, match="1 to 3"):
        session.select(4, [4], True)
    session.close()


def test_a_failure_is_told_tried_again_three_times_and_no_more(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live2D fell back to listening and began the failing job again for ever."""
    monkeypatch.setattr(plan, "FIRST_PAUSE_SECONDS", 0.0)
    child_here.fails = "no memory"
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    looked(session, 40)
    seen = session.snapshot()
    assert (seen["state"], seen["why_idle"]) == ("failed", "Failed: no memory")
    failures = [event for event in session.course.journal.replay() if event["event"] == "failed"]
    assert len(failures) == 1 + plan.RETRIES
    child_here.fails = ""
    session.start_now(FAST)
    assert until_idle(session) == "listening"
    session.close()


def test_a_child_that_dies_is_a_failure_and_the_cycle_is_made_again(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_PAUSE_SECONDS", 0.0)
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    while len(session.cycles()) < 2:
        session.tick()
    child_here.dies = True
    looked(session, 2)
    child_here.dies = False
    looked(session, 60)
    assert "signal 9" in str(session.log()[0])
    assert len(session.cycles()) == 4
    session.close()


def test_a_session_goes_on_where_it_was_closed_and_with_the_same_result(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    whole = classified(a_session(tmp_path / "whole", folder.path))
    whole.close()
    cut = a_session(tmp_path / "cut", folder.path)
    cut.start_now(FAST)
    while len(cut.cycles()) < 2:
        cut.tick()
    cut.select(2, [1], True)
    cut.close()
    again = a_session(tmp_path / "cut", folder.path)
    assert again.snapshot()["state"] == "running"
    assert until_idle(again) == "listening"
    assert again.snapshot()["selection"]["tracks"] == [1]
    again.close()
    for number in range(1, 5):
        first, second = (store.folder_of(tmp_path / name, number) / store.CLASSES for name in ("whole", "cut"))
        np.testing.assert_array_equal(map_data(first), map_data(second))


def test_a_cycle_published_before_a_kill_is_found_by_the_next_process(tmp_path: Path, finished: Finished) -> None:
    session, folder = finished()
    session.close()
    lines = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)
    last = max(k for k, line in enumerate(lines) if json.loads(line)["event"] == "cycle")
    (tmp_path / "s/journal.jsonl").write_bytes(b"".join(lines[:last]))
    for name in ("snapshot.json", "snapshot.previous.json"):
        (tmp_path / "s" / name).unlink(missing_ok=True)
    again = a_session(tmp_path / "s", folder.path)
    assert again.course.record.last_cycle == 4
    assert until_idle(again) == "listening"
    assert len(again.cycles()) == 4
    again.close()


def test_a_corrupted_snapshot_and_a_torn_journal_do_not_hinder(tmp_path: Path, finished: Finished) -> None:
    session, folder = finished()
    session.select(4, [2], True)
    session.close()
    (tmp_path / "s/snapshot.json").write_bytes(b"\0" * 100)
    with open(tmp_path / "s/journal.jsonl", "ab") as stream:
        stream.write(b'{"seq": 10000, "event": "sel')
    again = a_session(tmp_path / "s", folder.path)
    assert len(again.snapshot()["selection"]["tracks"]) == 1
    assert again.snapshot()["state"] == "stopped"
    again.close()


def test_a_share_that_vanishes_and_comes_back_loses_nothing(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_PAUSE_SECONDS", 0.0)
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    while len(session.cycles()) < 2:
        session.tick()
    folder.path.rename(tmp_path / "away")
    looked(session, 10)
    assert session.snapshot()["source"]["particles"] == 80
    said = session.snapshot()["source"]["notices"]
    assert "is not there" in said[-1]
    assert len(said) == len(set(said))  # that it cannot be read either is no reason to say both again and again
    (tmp_path / "away").rename(folder.path)
    looked(session, 60)
    assert len(session.cycles()) == 4
    session.close()


def test_a_stack_replaced_during_a_job_is_set_aside_until_it_is_read_anew(
    tmp_path: Path, child_here: type[ChildHere]
) -> None:
    folder = LiveFolder(tmp_path / "acquisition", n_micrographs=5)
    folder.arrive(range(5))
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    session.tick()
    while len(session.cycles()) < 2:
        session.tick()
    folder.process(3, keep=10, moved=1.0)  # the stack is there, the table not yet
    session.tick()
    folder.write_table()
    until_idle(session)
    assert session.cycle(4)["particles"] == 4 * PER_MICROGRAPH
    classified(session, classification_type="refine")
    last = session.cycle(5)
    assert last["particles"] == 4 * PER_MICROGRAPH + 10
    assert last["unassigned"] == 0
    session.close()


def test_a_hard_stop_keeps_all_published_cycles_and_nothing_else(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    session.start_now(FAST)
    while len(session.cycles()) < 2:
        session.tick()
    session.stop_hard()
    n = len(session.cycles())
    assert session.snapshot()["state"] == "stopped"
    assert not list((tmp_path / "s/cycles").glob("*.part"))
    looked(session, 3)
    assert len(session.cycles()) == n
    classified(session)
    session.close()


def test_the_disk_holds_small_files_of_all_cycles_and_large_ones_of_the_newest(
    tmp_path: Path, finished: Finished
) -> None:
    session, _ = finished()
    session.close()
    has = {name: [(store.folder_of(tmp_path / "s", k) / name).exists() for k in range(1, 5)] for name in
           (store.CLASSES, store.ATLAS, store.CYCLE, store.DATA, store.STATE)}  # fmt: skip
    assert all(all(has[name]) for name in (store.CLASSES, store.ATLAS, store.CYCLE))
    assert has[store.DATA] == has[store.STATE] == [False] + [True] * 3


def test_two_processes_do_not_work_in_one_session(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    with pytest.raises(ProjectError, match="lock held by"):
        Session(tmp_path / "s", folder.path)
    session.close()
    a_session(tmp_path / "s", folder.path).close()


def test_the_work_folder_must_lie_outside_the_acquisition_folder(tmp_path: Path, folder: LiveFolder) -> None:
    with pytest.raises(InputError, match="outside the acquisition folder"):
        Session(folder.path / "live", folder.path)
    assert not (folder.path / "live").exists()


def test_a_project_that_is_watched_keeps_its_sessions_in_live(tmp_path: Path, folder: LiveFolder) -> None:
    (folder.path / "default_pipeline.star").write_text("data_pipeline_general\n_rlnPipeLineJobCounter 2\n")
    a_session(folder.path / "Live" / "s", folder.path).close()
    with pytest.raises(InputError, match="outside the acquisition folder"):
        a_session(folder.path / "Extract" / "s", folder.path)


def test_dark_particles_give_bright_averages(tmp_path: Path, child_here: type[ChildHere]) -> None:
    folder = LiveFolder(tmp_path / "acquisition", n_micrographs=4, bright=False)
    folder.arrive(range(4))
    session = classified(a_session(tmp_path / "s", folder.path))
    averages = np.array(map_data(store.folder_of(tmp_path / "s", 4) / store.CLASSES))
    assert averages[:, 12:20, 12:20].mean() > 3 * abs(averages[:, :4].mean())
    session.close()


def test_thresholds_say_what_would_be_lost(tmp_path: Path, folder: LiveFolder) -> None:
    session = a_session(tmp_path / "s", folder.path)
    found = session.thresholds({"max_resolution_angstrom": 4.0})
    assert (found["micrographs_kept"], found["micrographs_lost"]) == (2, 2)
    assert (found["particles_kept"], found["particles_lost"]) == (40, 40)
    assert session.micrographs(0, 2, {"max_resolution_angstrom": 4.0})["passing"] == 2
    with pytest.raises(InputError, match="must be one of"):
        session.thresholds({"max_ice": 1.0})
    session.close()


def test_whoever_watches_hears_of_changes_or_is_told_to_ask_anew(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = a_session(tmp_path / "s", folder.path)
    start = session.snapshot()["seq"]
    classified(session)
    kinds = [event["type"] for event in session.events(start) or []]
    assert kinds.count("cycle") == 4
    assert session.events(session.snapshot()["seq"]) == []
    assert session.events(0) is None
    for number in range(3000):
        session.course.events.publish("x", number=number)
    assert session.events(start) is None
    session.close()


def test_a_session_goes_on_by_itself_and_survives_what_should_not_happen(
    tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "TICK_SECONDS", 0.005)
    session, folder = finished()

    def broken(previous: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(session.course.watch.source, "poll", broken)
    session.run()
    seen = session.snapshot()["seq"]
    assert session.wait(seen, 20.0)
    assert "a bug" in session.snapshot()["source"]["notices"][-1]
    monkeypatch.undo()
    folder.arrive(range(4, 6))
    deadline = time.monotonic() + 20
    while session.snapshot()["source"]["particles"] < 120 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert session.snapshot()["source"]["particles"] == 120
    session.close()


def test_nothing_waits_for_a_folder_that_is_slow_to_read(tmp_path: Path, finished: Finished) -> None:
    """Live2D's server stood still while it stopped a job."""
    session, _ = finished()
    reading, done = threading.Event(), threading.Event()

    def slow(previous: Observation) -> Observation:
        reading.set()
        done.wait(20.0)
        return previous

    session.course.watch.source.poll = slow  # type: ignore[method-assign]
    session.run()
    assert reading.wait(20.0)
    began = time.monotonic()
    session.snapshot()
    session.stage({"classes": 4})
    session.select(4, [1], True)
    session.stop_hard()
    elapsed = time.monotonic() - began
    done.set()
    session.close()
    assert elapsed < 10.0


def test_no_second_stack_is_made(tmp_path: Path, finished: Finished) -> None:
    """Live2D copied every image into one of its own."""
    session, folder = finished()
    session.close()
    images = sum(path.stat().st_size for path in (folder.path / "particles").iterdir())
    own = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert {path.name for path in own if path.suffix == ".mrcs"} == {store.CLASSES}
    assert max(path.stat().st_size for path in own) < images / 3


def test_no_shell_is_ever_asked() -> None:
    """Live2D put paths into a command line of the shell."""
    for path in Path(course.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text
        assert "os.system" not in text
        assert "popen(" not in text.replace("Popen(", "")


def test_a_class_that_lost_its_particles_comes_back(tmp_path: Path, finished: Finished) -> None:
    """Programs that drop empty references lose them for good."""
    session, _ = finished()
    path = store.folder_of(tmp_path / "s", 4) / store.STATE
    live = states.load(path, LiveState)
    references, found = live.state.references, live.state.assignments
    empty = {name: getattr(references, name).clone() for name in ("masked", "unmasked", "plain", "fractions")}
    for values in empty.values():
        values[2] = 0.0
    moved = replace(found, class_index=np.where(found.class_index == 2, 0, found.class_index))
    state = replace(live.state, references=replace(references, **empty), assignments=moved)
    states.save(path, replace(live, state=state))
    classified(session, classification_type="refine", refinement_cycles=4)
    assert session.cycle(5)["born"] or session.cycle(6)["born"]
    assert all(one["particles"] > 0 for one in session.cycle(8)["classes"])
    session.close()


def test_the_process_that_computes_waits_for_the_next_job_and_ends_when_all_are_stopped(
    tmp_path: Path, folder: LiveFolder, child_here: type[ChildHere]
) -> None:
    session = classified(a_session(tmp_path / "s", folder.path))
    child = session.course._child
    assert child is not None
    assert child.is_alive
    classified(session, classification_type="refine")
    assert session.course._child is child
    session.stop()
    looked(session)
    assert session.course._child is None
    assert not child.is_alive
    session.close()
