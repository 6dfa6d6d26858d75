"""Sessions whose cycles are computed in the test's own process, when the session is asked to go on."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.progress import SilentProgress
from halfmap.errors import HalfmapError
from halfmap.sessions.cycle import run_cycle
from halfmap.sessions.session import Session

FAST = {
    "classes": 3,
    "startup_cycles": 2,
    "refinement_cycles": 1,
    "initial_resolution_angstrom": 30.0,
    "final_resolution_angstrom": 14.0,
    "particles_per_class": 40,
    "first_threshold": 60,
    "next_threshold": 60,
}


class ChildHere:
    """What a session takes for its child: it computes when it is asked for its messages."""

    fails: str = ""
    dies = False

    def __init__(self, work: Path, arguments: Sequence[str], heard: Callable[[], None]) -> None:
        self.work = work
        self.asked: list[int] = []
        self.process = type("Process", (), {"pid": 2**22 + 1})()
        self.is_alive = True

    def send(self, request: dict[str, Any]) -> None:
        self.asked.append(request["cycle"])

    def messages(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        if type(self).dies:
            self.is_alive = False
            return said
        for number in self.asked:
            if type(self).fails:
                said.append({"event": "failed", "cycle": number, "reason": type(self).fails})
                continue
            try:
                with InProcessExecutor() as executor:
                    run_cycle(self.work, number, executor, SilentProgress(), partial(_say_phase, said, number))
            except HalfmapError as error:
                said.append({"event": "failed", "cycle": number, "reason": str(error)})
            else:
                said.append({"event": "published", "cycle": number})
        self.asked = []
        return said

    def last_words(self) -> str:
        return "signal 9"

    def end(self) -> None:
        self.is_alive = False


def _say_phase(said: list[dict[str, Any]], number: int, name: str) -> None:
    said.append({"event": "phase", "cycle": number, "phase": name})


def a_session(work: Path, folder: Path, **options: Any) -> Session:
    """Open a session that looks whenever it is asked to go on, and let it see what there is."""
    session = Session(work, folder, devices="cpu", workers=1, poll_seconds=0.0, **options)
    looked(session)
    return session


def looked(session: Session, times: int = 2) -> None:
    """Let a session look some times."""
    for _ in range(times):
        session.tick()


def until_idle(session: Session, most: int = 200) -> str:
    """Let a session go on until no job runs; return its state."""
    for _ in range(most):
        session.tick()
        state = str(session.snapshot()["state"])
        if state not in ("running", "stopping"):
            return state
    raise AssertionError("the session still runs")
