"""Running tasks: one interface for this process, for several processes, and for a cluster."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.progress import Progress
from halfmap.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_PER_WORKER_BYTES = 1 << 30


class Executor(Protocol):
    """Runs tasks, and gives the same results wherever they run.

    A task is a function at the top of a module, or a `functools.partial` of one, with picklable arguments and
    result; a chunk of work takes seconds to minutes. Within it `halfmap.compute.device.task_device` tells
    where to compute, and `halfmap.compute.progress.task_progress` takes what it has to tell.

    - An exception in a task is raised to the caller with its type and message; what else runs for the same call
      is stopped.
    - A task whose worker is lost is tried twice more; then the call raises `ComputeError` and names the chunk.
    - Interrupting the caller, leaving the ``with`` block, or the caller's death stops all workers.
    - An executor is used by one thread at a time; only `cancel` may come from another one.
    """

    @property
    def n_workers(self) -> int:
        """How many tasks run at one time."""

    def submit(self, fn: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run one task; its future gives the result. What the task tells of its progress is not heard."""

    def map(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Iterator[Result]:
        """Yield ``fn(item)`` for every item, in the order of the items.

        Items are drawn and results held only a few per worker ahead of the caller, so a generator of any
        length streams at bounded memory. An exception is raised when its item's turn comes.

        Parameters
        ----------
        fn : the task.
        items : its arguments, one for each call.
        progress : hears what the tasks tell.
        label : with it ``progress`` is started under this name and advances by one with every item;
            without, it is started by the caller and advances by what the tasks themselves tell.
        """

    def reduce(
        self,
        fn: Callable[[Item], Result],
        items: Iterable[Item],
        add: Callable[[Result, Result], Result],
        *,
        progress: Progress | None = None,
        label: str | None = None,
    ) -> Result:
        """Return the sum of ``fn(item)`` over all items, bit for bit the same on any number of workers.

        Parameters
        ----------
        fn : the task.
        items : its arguments; at least one.
        add : a function as a task is; it may change its first argument and return it, so ``fn`` must return
            a new object at every call.
        progress, label : as in `map`.

        Raises
        ------
        InputError
            There are no items.

        Notes
        -----
        Results are added by the workers in a fixed binary tree over the number of the item
        (`halfmap.compute.addition_tree`).
        """

    def broadcast(self, value: object) -> Broadcast:
        """Write a value once for all workers; tasks are given the handle and call its ``load()``.

        Parameters
        ----------
        value : anything picklable, or the `Path` of a file that all workers see.
        """

    def cancel(self) -> None:
        """Stop all work; calls under way raise `ComputeError`, and the executor takes no more."""

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all workers and remove what they left in the scratch folder."""


def open_executor(
    *,
    devices: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    memory_bytes: int | None = None,
    scratch: Path | None = None,
    cluster: Path | None = None,
) -> Executor:
    """Return the executor that a job's run options ask for.

    Parameters
    ----------
    devices : as `halfmap.compute.device.select_devices` reads it.
    workers : number of workers; None: one for each GPU, or one for each group of ``threads`` cores as far
        as memory allows 1 GiB for each. One worker works in this process.
    threads : threads of each worker; None: the cores shared out among the workers, no more than OMP_NUM_THREADS.
    memory_bytes : memory that all workers together may plan with; None: what is free.
    scratch : folder for broadcast values and sums, seen by all workers; None: the system's temporary folder.
    cluster : a cluster file; the work then goes to Dask (``docs/how-to/run-on-a-cluster.md``).

    Raises
    ------
    InputError
        An option is outside its domain.
    ComputeError
        A device asked for is not there.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1; got {workers}; choose 1 to work in one process.")
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be at least 1; got {threads}; choose 1 or more.")
    if cluster is not None:
        from halfmap.compute.dask_cluster import DaskExecutor

        return DaskExecutor.from_file(cluster, n_workers=workers, n_threads=threads or 1, scratch=scratch)

    from halfmap.compute.memory import available_memory_bytes
    from halfmap.compute.threads import threads_of_each, usable_cores

    names = _device_names(devices)
    cores = usable_cores()
    if workers is None and names[0] == "cpu":
        memory = available_memory_bytes() if memory_bytes is None else memory_bytes
        workers = max(1, min(cores // (threads or 1), memory // MEMORY_PER_WORKER_BYTES))
    elif workers is None:
        workers = len(names)
    n_threads = threads or threads_of_each(workers)
    if workers == 1:
        from halfmap.compute.in_process import InProcessExecutor

        return InProcessExecutor(device=names[0], n_threads=n_threads, scratch=scratch)
    from halfmap.compute.processes import ProcessExecutor

    return ProcessExecutor(n_workers=workers, devices=tuple(names), n_threads=n_threads, scratch=scratch)


def _device_names(devices: str) -> list[str]:
    if devices == "cpu":
        return ["cpu"]
    from halfmap.compute.device import select_devices

    return [str(device) for device in select_devices(devices)]
