"""`LaunchingExecutor`: `map` and `reduce` over tasks that run elsewhere, in order and at bounded memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from halfmap.compute.addition_tree import Addition, AdditionTree
from halfmap.compute.broadcast import Broadcast, store
from halfmap.compute.progress import Progress, ReportLedger, SilentProgress, TaskReport
from halfmap.compute.scratch import ScratchFolder
from halfmap.compute.task import Outcome, check_task
from halfmap.errors import ComputeError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

RESULTS_PER_WORKER = 3
N_TRIES = 3
LOOK_FOR_WORKERS_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One task to run.

    Parameters
    ----------
    name : how an error names it.
    fn, arguments : what to call.
    is_addition : it adds two kept results, and comes before chunks.
    is_kept : its result stays with the workers.
    """

    name: str
    fn: Callable[..., Any]
    arguments: tuple[Any, ...]
    is_addition: bool = False
    is_kept: bool = False


class LaunchingExecutor(ABC):
    """What executors share whose tasks run elsewhere. Each launched call ends in one `Outcome`, unless abandoned.

    Parameters
    ----------
    scratch : folder for broadcast values and sums; None for the system's temporary folder.
    """

    def __init__(self, scratch: Path | None) -> None:
        self._scratch_parent = scratch
        self._scratch: ScratchFolder | None = None
        self._is_cancelled = False

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """How many tasks run at one time."""

    @property
    @abstractmethod
    def n_launched_at_most(self) -> int:
        """How many calls may be launched and unfinished at one time."""

    @abstractmethod
    def launch(self, call: Call, notify: Callable[[TaskReport | Outcome], None]) -> Any:
        """Start a call; ``notify`` hears of it from any thread. Returns a ticket."""

    @abstractmethod
    def abandon(self, tickets: list[Any]) -> None:
        """Forget these calls, and stop those that run."""

    @abstractmethod
    def fetch(self, kept: Any) -> Any:
        """Return a result that was kept with the workers."""

    @abstractmethod
    def release(self, kept: Any) -> None:
        """Forget a result that was kept with the workers."""

    def submit(self, fn: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run one task in a worker; see `halfmap.compute.executor.Executor.submit`."""
        check_task(fn)
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()

        def settle(event: TaskReport | Outcome) -> None:
            if isinstance(event, Outcome):
                try:
                    future.set_result(event.result())
                except Exception as error:  # noqa: BLE001 - the future raises it
                    future.set_exception(error)

        self.launch(Call(name=f"Task {getattr(fn, '__name__', 'given')!r}", fn=fn, arguments=arguments), settle)
        return future

    def map(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Iterator[Result]:
        """Yield ``fn(item)`` in the order of the items; see `halfmap.compute.executor.Executor.map`."""
        check_task(fn)
        return _map_in_order(self, fn, items, progress, label)

    def reduce(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        add: Callable[[Result, Result], Result],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Result:
        """Return the sum of ``fn(item)``; see `halfmap.compute.executor.Executor.reduce`."""
        check_task(fn)
        check_task(add)
        total: Result = _reduce_in_tree(self, fn, items, add, progress, label)
        return total

    def broadcast(self, value: object) -> Broadcast:
        """Write a value once for all workers; see `halfmap.compute.executor.Executor.broadcast`."""
        return store(value, self._folder())

    def _folder(self) -> Path:
        if self._scratch is None:
            self._scratch = ScratchFolder(self._scratch_parent)
        return self._scratch.path

    def _remove_folder(self) -> None:
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None


class _Flow:
    """Calls under way, and what is heard of them, in the caller's thread."""

    def __init__(self, launcher: LaunchingExecutor, progress: Progress) -> None:
        self._launcher = launcher
        self._progress = progress
        self._events: SimpleQueue[tuple[Any, TaskReport | Outcome]] = SimpleQueue()
        self._tickets: dict[Any, Any] = {}
        self._ledgers: dict[Any, ReportLedger] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def launch(self, key: Any, call: Call) -> None:
        self._ledgers[key] = ReportLedger()
        self._tickets[key] = self._launcher.launch(call, partial(self._hear, key))

    def _hear(self, key: Any, event: TaskReport | Outcome) -> None:
        self._events.put((key, event))

    def next_outcome(self) -> tuple[Any, Outcome] | None:
        """Wait for a call to end; return None from time to time, since workers may have joined that could do more."""
        while True:
            try:
                key, event = self._events.get(timeout=LOOK_FOR_WORKERS_SECONDS)
            except Empty:
                return None
            report = event.report if isinstance(event, Outcome) else event
            self._ledgers[key].pass_on(report, self._progress)
            if isinstance(event, Outcome):
                del self._tickets[key], self._ledgers[key]
                return key, event

    def stop(self) -> None:
        self._launcher.abandon(list(self._tickets.values()))


def n_items(items: Iterable[Any]) -> int | None:
    """Return the number of items where it is known."""
    return len(items) if isinstance(items, Sized) else None


def chunk_name(number: int, label: str | None, fn: Callable[..., Any]) -> str:
    """Return how an error names a chunk."""
    inner = fn.func if isinstance(fn, partial) else fn
    return f"Chunk {number} of {label or getattr(inner, '__name__', 'a task')!r}"


def _map_in_order(
    launcher: LaunchingExecutor,
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    progress: Progress | None,
    label: str | None,
) -> Iterator[Any]:
    """Yield ``fn(item)`` in the order of the items, with a bounded number of results under way."""
    progress = progress or SilentProgress()
    if label is not None:
        progress.start(label, n_items(items))
    flow = _Flow(launcher, progress)
    finished: dict[int, Outcome] = {}
    source = enumerate(items)
    is_open = True
    turn = 0
    try:
        while True:
            while (
                is_open
                and len(flow) < launcher.n_launched_at_most
                and len(flow) + len(finished) < RESULTS_PER_WORKER * launcher.n_workers
            ):
                entry = next(source, None)
                if entry is None:
                    is_open = False
                else:
                    number, item = entry
                    flow.launch(number, Call(name=chunk_name(number, label, fn), fn=fn, arguments=(item,)))
            if turn in finished:
                value = finished.pop(turn).result()
                turn += 1
                if label is not None:
                    progress.advance(1)
                yield value
            elif len(flow):
                ended = flow.next_outcome()
                if ended is not None:
                    finished[ended[0]] = ended[1]
                    is_open = is_open and ended[1].error is None
            else:
                return
    finally:
        flow.stop()


def _reduce_in_tree(
    launcher: LaunchingExecutor,
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    add: Callable[[Any, Any], Any],
    progress: Progress | None,
    label: str | None,
) -> Any:
    """Return the sum of ``fn(item)`` over all items, added by the workers in the order of an `AdditionTree`."""
    progress = progress or SilentProgress()
    if label is not None:
        progress.start(label, n_items(items))
    flow = _Flow(launcher, progress)
    tree: AdditionTree[Any] = AdditionTree()
    operands: dict[Any, tuple[Any, Any]] = {}
    source = enumerate(items)
    is_open = True

    def launch_addition(key: Any, left: Any, right: Any) -> None:
        operands[key] = (left, right)
        call = Call(
            name=f"A sum of {chunk_name(0, label, fn).split(' of ', 1)[1]}",
            fn=add,
            arguments=(left, right),
            is_addition=True,
            is_kept=True,
        )
        flow.launch(key, call)

    def release_operands(key: Any) -> None:
        for operand in operands.pop(key, ()):
            launcher.release(operand)

    try:
        while is_open or len(flow):
            while is_open and len(flow) < launcher.n_launched_at_most:
                entry = next(source, None)
                if entry is None:
                    is_open = False
                else:
                    number, item = entry
                    name = chunk_name(number, label, fn)
                    flow.launch((0, number), Call(name=name, fn=fn, arguments=(item,), is_kept=True))
            if not len(flow):
                break
            ended = flow.next_outcome()
            if ended is None:
                continue
            key, outcome = ended
            node = outcome.result()
            release_operands(key)
            if label is not None and key[0] == 0:
                progress.advance(1)
            addition: Addition[Any] | None = tree.put(key[0], key[1], node)
            if addition is not None:
                launch_addition((addition.level, addition.number), addition.left, addition.right)
        rest = tree.leftovers()
        if not rest:
            raise no_items()
        while len(rest) > 1:
            right, left = rest.pop(), rest.pop()
            launch_addition("rest", left, right)
            while (ended := flow.next_outcome()) is None:
                pass
            rest.append(ended[1].result())
            release_operands("rest")
        value = launcher.fetch(rest[0])
        launcher.release(rest[0])
        return value
    finally:
        flow.stop()


def no_items() -> InputError:
    """Return the error of a sum over nothing."""
    return InputError("A sum must have at least one chunk; got none; check that the input is not empty.")


def cancelled() -> ComputeError:
    """Return the error of work that was cancelled."""
    return ComputeError(
        "The work must not be cancelled before its end; got a cancellation; start it again, or continue it."
    )
