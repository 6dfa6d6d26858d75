"""`CheckpointedExecutor`: an executor that keeps the result of each chunk, so that a killed cycle goes on from them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress, task_progress
from halfmap.errors import FormatError
from halfmap.inference.sums import Sums
from halfmap.io import states

Item = TypeVar("Item")
Result = TypeVar("Result")

CHECKPOINTS = "chunks"


class CheckpointedExecutor:
    """An executor whose sums of an E-step are kept chunk by chunk until they are removed.

    Parameters
    ----------
    executor : does the work.
    folder : for the results, seen by all workers. The work must be the same each time: calls and chunks are told by
        their numbers.
    """

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor = executor
        self._folder = folder
        self._calls = 0

    @property
    def n_workers(self) -> int:
        """How many tasks run at one time."""
        return self._executor.n_workers

    def submit(self, fn: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run one task; see `Executor.submit`."""
        return self._executor.submit(fn, *arguments)

    def map(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Iterator[Result]:
        """Yield ``fn(item)`` for every item; see `Executor.map`."""
        return self._executor.map(fn, items, progress=progress, label=label)

    def reduce(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        add: Callable[[Result, Result], Result],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Result:
        """Return the sum of ``fn(item)``; what was kept of an earlier try is not computed again."""
        self._calls += 1
        self._folder.mkdir(exist_ok=True)
        task: Any = partial(_kept, fn, str(self._folder), self._calls)
        total: Result = self._executor.reduce(task, list(enumerate(items)), add, progress=progress, label=label)
        return total

    def broadcast(self, value: object) -> Broadcast:
        """Write a value once; see `Executor.broadcast`."""
        return self._executor.broadcast(value)

    def cancel(self) -> None:
        """Stop all work; see `Executor.cancel`."""
        self._executor.cancel()

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the executor within as it is: it is used for the next cycle."""


def _kept(fn: Callable[[Any], Any], folder: str, call: int, numbered: tuple[int, Any]) -> Any:
    """Return a chunk's result, read where it is kept and whole."""
    number, item = numbered
    path = Path(folder) / f"{call:02d}_{number:06d}.safetensors"
    if path.exists():
        try:
            result = states.load(path, Sums)
            task_progress().advance(len(item))
            return result
        except FormatError:
            path.unlink()
    result = fn(item)
    states.save(path, result)
    return result
