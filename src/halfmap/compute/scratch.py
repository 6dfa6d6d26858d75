"""A folder for what only this run needs, removed when the run ends, or by a later one if it was killed."""

import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path

from halfmap.errors import ComputeError

_PREFIX = "halfmap-scratch-"


class ScratchFolder:
    """A fresh folder below ``parent`` that `remove` deletes.

    A lock marks the folder as in use. Folders of runs that ended without removing theirs, known by their
    lock being free, are removed when a new one is made.

    Parameters
    ----------
    parent : the folder to make it in, made if missing; None for the system's temporary folder.

    Raises
    ------
    ComputeError
        ``parent`` cannot be written to.
    """

    def __init__(self, parent: Path | None = None) -> None:
        above = Path(tempfile.gettempdir()) if parent is None else Path(parent)
        try:
            above.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(above)
            fresh = Path(tempfile.mkdtemp(prefix=".halfmap-", dir=above))
            self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.path = above / (
                _PREFIX + f"{socket.gethostname()}-{os.getpid()}-" + fresh.name.removeprefix(".halfmap-")
            )
            fresh.rename(self.path)
        except OSError as error:
            raise ComputeError(
                f"The scratch folder {above} must be writable; got '{error.strerror or error}'; "
                "choose another one with --scratch."
            ) from error

    def remove(self) -> None:
        """Delete the folder and all in it; a second call does nothing."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(above: Path) -> None:
    for folder in above.glob(_PREFIX + "*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # in use, or a file system without locks: leave it alone
        finally:
            os.close(lock)
