"""What all tests of sessions share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halfmap.sessions import course
from halfmap.sessions.session import Session
from support.live_folders import LiveFolder
from support.live_sessions import FAST, ChildHere, a_session, until_idle
from support.quick_processes import Forking


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out the waiting for the disk, which no test can tell from its absence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    """Return what starts servers and processes that compute, at once."""
    found = Forking(tmp_path_factory.mktemp("forking"))
    yield found
    found.close()


@pytest.fixture
def child_here(monkeypatch: pytest.MonkeyPatch) -> type[ChildHere]:
    """Let sessions compute in the test's process; the class's fields say how it goes wrong."""
    kind = type("ChildOfTest", (ChildHere,), {})
    monkeypatch.setattr(course, "Child", kind)
    return kind


@pytest.fixture
def folder(tmp_path: Path) -> LiveFolder:
    """Return an acquisition folder of 80 particles, to which 40 more may come."""
    found = LiveFolder(tmp_path / "acquisition", n_micrographs=6)
    found.arrive(range(4))
    return found


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LiveFolder]:
    """Return the work folder of a session that has done its first job, and its acquisition folder."""
    root = tmp_path_factory.mktemp("finished")
    folder = LiveFolder(root / "acquisition", n_micrographs=6)
    folder.arrive(range(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "Child", ChildHere)
        session = a_session(root / "s", folder.path)
        session.start_now(FAST)
        assert until_idle(session) == "listening"
        session.stop()
        session.close()
    return root / "s", folder


@pytest.fixture
def finished(
    tmp_path: Path, finished_once: tuple[Path, LiveFolder], child_here: type[ChildHere]
) -> Callable[[], tuple[Session, LiveFolder]]:
    """Return what opens a copy of a session that has done its first job, and of its acquisition folder."""

    def opened() -> tuple[Session, LiveFolder]:
        work, folder = finished_once
        shutil.copytree(work, tmp_path / "s")
        copy = folder.copied(tmp_path / "acquisition")
        return a_session(tmp_path / "s", copy.path), copy

    return opened
