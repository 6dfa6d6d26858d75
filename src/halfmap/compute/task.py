"""One run of a task: what surrounds the function, and what comes back from wherever it ran."""

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from halfmap.compute import broadcast
from halfmap.compute.device import working_on
from halfmap.compute.progress import NOTHING_TOLD, Progress, TaskReport, reporting_to
from halfmap.errors import ComputeError, InputError

LARGEST_SENT_BYTES = 1 << 20


def check_task(fn: Callable[..., Any]) -> None:
    """See that a function can be found again by a worker.

    Raises
    ------
    InputError
        It is a lambda, or defined inside a function or in a script.
    """
    inner: Any = fn
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    module = getattr(inner, "__module__", type(inner).__module__)
    if "<" in name or module == "__main__":
        raise InputError(
            f"A task must be a function that a worker can import; got {name} of {module}; "
            "define it at the top of a module that is imported, not in the script that is run."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A result that stays where the work is done: in this object if small, else in a file."""

    value: Any = None
    path: Path | None = None

    def load(self) -> Any:
        """Return the result, mapped into memory if it lies in a file."""
        return self.value if self.path is None else broadcast.read(self.path)

    def discard(self) -> None:
        """Remove the file; what is mapped from it stays valid."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """How one run of a task ended: with a value or with an error, and what it told.

    Parameters
    ----------
    report : the whole of its progress.
    value : what the function returned.
    error : what it raised instead.
    trace : the traceback of that error, where it was raised in another process.
    """

    report: TaskReport = NOTHING_TOLD
    value: Any = None
    error: BaseException | None = None
    trace: str = ""

    def result(self) -> Any:
        """Return the value, or raise the error with its traceback as a note."""
        if self.error is None:
            return self.value
        if self.trace:
            self.error.add_note(f"In the worker:\n{self.trace}")
        raise self.error


def run_here(fn: Callable[..., Any], arguments: tuple[Any, ...], *, progress: Progress, device: str) -> Any:
    """Call a task with its surroundings: the progress it may tell, the device it shall use."""
    with reporting_to(progress), working_on(device):
        return fn(*arguments)


def keep(value: Any, path: Path) -> Kept:
    """Leave a result with the workers: in a file at ``path`` unless it is small."""
    parts = broadcast.parts_of(value)
    if sum(len(part) for part in parts) <= LARGEST_SENT_BYTES:
        return Kept(value=value)
    broadcast.write(parts, path)
    return Kept(path=path)


def add_kept(add: Callable[[Any, Any], Any], left: Kept, right: Kept) -> Any:
    """Add two kept results."""
    return add(left.load(), right.load())


def failure(error: BaseException, report: TaskReport) -> Outcome:
    """Describe how a task failed, for the way to another process.

    An error that would not survive the way is replaced by a `ComputeError` that tells its type and message.
    """
    trace = "".join(traceback.format_exception(error)).rstrip()
    if not _is_portable(error):
        error = ComputeError(f"A task must end with a result; got {type(error).__name__}: {error}; see its traceback.")
    return Outcome(report=report, error=error, trace=trace)


def _is_portable(error: BaseException) -> bool:
    if not isinstance(error, Exception):
        return False
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever hinders pickling
        return False
    return type(copy) is type(error) and str(copy) == str(error)
