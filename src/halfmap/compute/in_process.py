"""The executor that works in this process, one task after the other."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from halfmap.compute.addition_tree import AdditionTree
from halfmap.compute.broadcast import Broadcast, store
from halfmap.compute.progress import Progress, ReportingProgress, ReportLedger, SilentProgress, TaskReport
from halfmap.compute.scheduling import cancelled, n_items, no_items
from halfmap.compute.scratch import ScratchFolder
from halfmap.compute.task import check_task, run_here
from halfmap.compute.threads import limited_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class InProcessExecutor:
    """An `halfmap.compute.executor.Executor` without workers: tasks run when their result is asked for.

    Parameters
    ----------
    device : what `task_device` gives to tasks.
    n_threads : threads of torch and numba within the ``with`` block; None leaves them as they are.
    scratch : folder for broadcast values; None for the system's temporary folder.
    """

    n_workers = 1

    def __init__(self, *, device: str = "cpu", n_threads: int | None = None, scratch: Path | None = None) -> None:
        self._device = device
        self._n_threads = n_threads
        self._scratch_parent = scratch
        self._scratch: ScratchFolder | None = None
        self._block = ExitStack()
        self._is_cancelled = False

    def submit(self, fn: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run the task now; see `Executor.submit`."""
        check_task(fn)
        future: Future[Result] = Future()
        try:
            future.set_result(self._run(fn, arguments, SilentProgress()))
        except Exception as error:  # noqa: BLE001 - the future raises it
            future.set_exception(error)
        return future

    def map(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Iterator[Result]:
        """Yield ``fn(item)`` in the order of the items; see `Executor.map`."""
        check_task(fn)
        return self._map(fn, items, progress or SilentProgress(), label)

    def _map(
        self, fn: Callable[[Item], Result], items: Iterable[Item], progress: Progress, label: str | None
    ) -> Iterator[Result]:
        if label is not None:
            progress.start(label, n_items(items))
        for item in items:
            value = self._run(fn, (item,), progress)
            if label is not None:
                progress.advance(1)
            yield value

    def reduce(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        add: Callable[[Result, Result], Result],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Result:
        """Return the sum of ``fn(item)``; see `Executor.reduce`."""
        check_task(add)
        tree: AdditionTree[Result] = AdditionTree()
        for number, value in enumerate(self.map(fn, items, progress=progress, label=label)):
            addition = tree.put(0, number, value)
            while addition is not None:
                total = self._run(add, (addition.left, addition.right), SilentProgress())
                addition = tree.put(addition.level, addition.number, total)
        rest = tree.leftovers()
        if not rest:
            raise no_items()
        while len(rest) > 1:
            right, left = rest.pop(), rest.pop()
            rest.append(self._run(add, (left, right), SilentProgress()))
        return rest[0]

    def broadcast(self, value: object) -> Broadcast:
        """Write a value once; see `Executor.broadcast`."""
        if self._scratch is None:
            self._scratch = ScratchFolder(self._scratch_parent)
        return store(value, self._scratch.path)

    def cancel(self) -> None:
        """Let no further task begin; see `Executor.cancel`."""
        self._is_cancelled = True

    def __enter__(self) -> Self:
        """Set the number of threads and return the executor."""
        if self._n_threads is not None:
            self._block.enter_context(limited_threads(self._n_threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Reset the number of threads and remove the scratch folder."""
        self._block.close()
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    def _run(self, fn: Callable[..., Result], arguments: tuple[Any, ...], progress: Progress) -> Result:
        if self._is_cancelled:
            raise cancelled()
        ledger = ReportLedger()

        def pass_on(report: TaskReport) -> None:
            ledger.pass_on(report, progress)

        told = ReportingProgress(send=pass_on)
        try:
            value: Result = run_here(fn, arguments, progress=told, device=self._device)
        finally:
            pass_on(told.report())
        return value
