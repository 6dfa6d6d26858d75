"""The lock of a folder: who works in it, and whether that process still lives."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from halfmap.errors import ProjectError

NAME = ".lock"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock.

    Parameters
    ----------
    host : name of the machine.
    pid : process number.
    start_time : when the process was started, in seconds since 1970; tells it from a later one of the same number.
    """

    host: str
    pid: int
    start_time: float

    @classmethod
    def this_process(cls) -> "Holder":
        """Return the process that asks."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, start_time=psutil.Process(pid).create_time())

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; never known of another machine's."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.start_time) > 2.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {datetime.fromtimestamp(self.start_time):%Y-%m-%d %H:%M:%S}"


def holder(folder: Path) -> Holder | None:
    """Return who holds a folder's lock, None where nobody does."""
    try:
        return _parsed((folder / NAME).read_text())
    except FileNotFoundError:
        return None


def acquire(folder: Path, name: str = "The job folder") -> Holder | None:
    """Take the lock of a folder.

    Parameters
    ----------
    name : what the folder is, for the message.

    Returns
    -------
    The holder from whom it was taken over because that process is gone, else None.

    Raises
    ------
    ProjectError
        A living process, or one on another machine, holds it.
    """
    with _opened(folder / NAME) as descriptor:
        before = _parsed(os.read(descriptor, 4096).decode(errors="replace"))
        if before is not None and not before.is_gone:
            raise ProjectError(
                f"{name} {folder} must be free; got a lock held by {before}; wait for it or stop it; "
                f"if that machine is gone, remove {folder / NAME}."
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(Holder.this_process())).encode(), 0)
        os.fsync(descriptor)
    return before


def release(folder: Path) -> None:
    """Give the lock back, if this process holds it."""
    path = folder / NAME
    if path.exists():
        with _opened(path) as descriptor:
            if _parsed(os.read(descriptor, 4096).decode(errors="replace")) == Holder.this_process():
                path.unlink()


def _parsed(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Yield the lock file's descriptor while no other process looks at it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.fstat(descriptor).st_ino == os.stat(path).st_ino
            except FileNotFoundError:
                same = False
            if same:
                yield descriptor
                return
        finally:
            os.close(descriptor)
