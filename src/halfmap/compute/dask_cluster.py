"""The executor that works on a cluster, through Dask.distributed."""

import asyncio
import logging
import pickle
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import distributed
import yaml

from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.broadcast import dumps
from halfmap.compute.progress import ReportingProgress, TaskReport
from halfmap.compute.scheduling import N_TRIES, Call, LaunchingExecutor, cancelled
from halfmap.compute.scratch import ScratchFolder
from halfmap.compute.task import Outcome, failure, run_here
from halfmap.compute.threads import set_threads, thread_environment
from halfmap.errors import ComputeError, InputError

_TOPIC = "halfmap-progress"
_SCHEDULER_TOPIC = "all"  # where Dask's scheduler tells, among little else, of workers that it lost
_WORKER_COUNT_SECONDS = 2.0
_FILE_KEYS = {"scheduler", "slurm", "workers", "scratch"}


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """What a cluster file says.

    Parameters
    ----------
    scheduler : address of a running Dask scheduler; or
    slurm : options of ``dask_jobqueue.SLURMCluster``, for workers that are Slurm jobs.
    workers : number of Slurm jobs, one worker each.
    scratch : folder that all machines share.
    """

    scheduler: str | None
    slurm: dict[str, Any] | None
    workers: int
    scratch: Path | None


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises
    ------
    InputError
        The file is missing, no YAML, or does not name exactly one of ``scheduler`` and ``slurm``.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"The cluster file {path} must be readable YAML; got '{error}'; see docs/how-to/run-on-a-cluster.md."
        ) from error
    keys = set(content) if isinstance(content, dict) else set()
    if len(keys & {"scheduler", "slurm"}) != 1 or keys - _FILE_KEYS:
        raise InputError(
            f"The cluster file {path} must hold either 'scheduler: ADDRESS' or 'slurm: ...', and may hold "
            f"'workers' and 'scratch'; got {sorted(keys) or content!r}; see docs/how-to/run-on-a-cluster.md."
        )
    workers, slurm = content.get("workers", 1), content.get("slurm")
    if not isinstance(workers, int) or workers < 1 or not isinstance(slurm, dict | None):
        raise InputError(
            f"The cluster file {path} must give 'workers' as a number of at least 1 and 'slurm' as a table; "
            f"got {workers!r} and {slurm!r}; mend these lines."
        )
    scratch = content.get("scratch")
    return ClusterFile(
        scheduler=content.get("scheduler"),
        slurm=slurm,
        workers=workers,
        scratch=None if scratch is None else Path(scratch).expanduser(),
    )


class DaskExecutor(LaunchingExecutor):
    """An `halfmap.compute.executor.Executor` over the workers of a Dask scheduler, each with one task at a time.

    Made by `local`, `from_file` or around a client. Workers may join late and leave early. What a task told of
    its progress, sums and their order are as in every other executor; sums stay with the workers until the last one.

    Parameters
    ----------
    client : connected to the scheduler.
    cluster : what to close with the executor.
    devices : handed out to a local cluster's workers in turn; ``auto`` lets each take the first it sees.
    n_threads : threads of each worker.
    scratch : folder for broadcast values that all workers see.

    Notes
    -----
    Dask cannot stop a task that runs. A call that ends early forgets such tasks; they end with their result unheard,
    or with their worker when the executor closes its cluster.
    """

    def __init__(
        self,
        client: "distributed.Client",
        *,
        cluster: Any = None,
        devices: tuple[str, ...] = ("auto",),
        n_threads: int = 1,
        scratch: Path | None = None,
    ) -> None:
        super().__init__(scratch)
        self._client = client
        self._cluster = cluster
        self._devices = devices
        self._listeners: dict[str, _Listener] = {}
        self._counted = 0
        self._counted_at = float("-inf")
        client.register_plugin(_WorkerSetup(n_threads))
        client.run_on_scheduler(_allow_failures, N_TRIES - 1)
        client.subscribe_topic(_TOPIC, self._hear)
        client.subscribe_topic(_SCHEDULER_TOPIC, self._hear_of_losses)

    @classmethod
    def local(
        cls, *, n_workers: int, devices: tuple[str, ...] = ("cpu",), n_threads: int = 1, scratch: Path | None = None
    ) -> Self:
        """Start a scheduler and workers on this machine."""
        folder = ScratchFolder(scratch)
        cluster = distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            local_directory=str(folder.path),
            env=thread_environment(n_threads),
        )
        client = distributed.Client(cluster)
        executor = cls(client, cluster=cluster, devices=devices, n_threads=n_threads)
        executor._scratch = folder
        return executor

    @classmethod
    def from_file(
        cls, path: Path, *, n_workers: int | None = None, n_threads: int = 1, scratch: Path | None = None
    ) -> Self:
        """Connect to the scheduler, or submit the Slurm jobs, that a cluster file names.

        Raises
        ------
        InputError
            The file does not say how.
        ComputeError
            The scheduler cannot be reached, or Slurm's options are refused.
        """
        told = read_cluster_file(path)
        scratch = scratch or told.scratch
        cluster = None
        try:
            if told.slurm is not None:
                cluster = slurm_cluster(told.slurm, n_threads=n_threads)
                cluster.scale(n_workers or told.workers)
            client = distributed.Client(cluster if cluster is not None else told.scheduler)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            where = "Slurm" if told.slurm is not None else f"The scheduler {told.scheduler}"
            raise ComputeError(
                f"{where} must take the work as {path} describes it; got '{error}'; "
                "mend the file or start the scheduler."
            ) from error
        return cls(client, cluster=cluster, n_threads=n_threads, scratch=scratch)

    @property
    def n_workers(self) -> int:
        """How many workers there are at present, at least 1."""
        now = time.monotonic()
        if now - self._counted_at > _WORKER_COUNT_SECONDS:
            self._counted, self._counted_at = len(self._client.nthreads()), now
        return max(1, self._counted)

    @property
    def n_launched_at_most(self) -> int:
        """One call per worker: Dask blames a lost worker on every call that waits there."""
        return self.n_workers

    def cancel(self) -> None:
        """Stop all work; see `Executor.cancel`."""
        self._is_cancelled = True
        for listener in list(self._listeners.values()):
            listener.notify(Outcome(error=cancelled()))
        self._listeners.clear()

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, end the workers of a cluster that this executor started, and remove the scratch folder."""
        if isinstance(self._cluster, distributed.LocalCluster):
            self._cluster.sync(_kill_workers, self._cluster)
        self._client.unsubscribe_topic(_SCHEDULER_TOPIC)  # or the scheduler tells a client that has left of its leaving
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._remove_folder()

    def launch(self, call: Call, notify: Callable[[TaskReport | Outcome], None]) -> "distributed.Future":
        """Submit a call; see `halfmap.compute.scheduling.LaunchingExecutor`."""
        if self._is_cancelled:
            raise cancelled()
        key = f"{'sum' if call.is_addition else 'chunk'}-{uuid.uuid4().hex}"
        self._listeners[key] = _Listener(name=call.name, notify=notify)
        if call.is_addition:
            task, operands = dumps((call.fn, ())), call.arguments
        else:
            task, operands = dumps((call.fn, call.arguments)), ()
        future = self._client.submit(
            _run_on_worker, key, self._devices, task, *operands, key=key, pure=False, priority=int(call.is_addition)
        )

        def settle(done: "distributed.Future") -> None:
            listener = self._listeners.pop(key, None)
            if listener is not None:
                listener.notify(_outcome(done, call))

        future.add_done_callback(settle)
        return future

    def abandon(self, tickets: "list[distributed.Future]") -> None:
        """Forget calls; those that run end unheard."""
        if tickets:
            for ticket in tickets:
                self._listeners.pop(str(ticket.key), None)
            self._client.cancel(tickets, force=True)

    def fetch(self, kept: "distributed.Future") -> Any:
        """Bring a result from its worker."""
        return kept.result()

    def release(self, kept: "distributed.Future") -> None:
        """Let the worker forget a result."""
        kept.release()

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        listener = self._listeners.get(told["key"])
        if listener is not None:
            listener.notify(TaskReport(advanced=told["advanced"], messages=tuple(told["messages"])))

    def _hear_of_losses(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        if told.get("action") == "remove-worker":
            for key in told["processing-tasks"]:
                listener = self._listeners.get(key)
                if listener is not None:
                    listener.lose(told["worker"])


@dataclass(kw_only=True)
class _Listener:
    """Who hears of a call, and what it has lost so far."""

    name: str
    notify: Callable[[TaskReport | Outcome], None]
    losses: list[str] = field(default_factory=list)

    def lose(self, worker: str) -> None:
        if len(self.losses) < N_TRIES - 1:  # the last loss is told by the call's error
            self.losses.append(f"{self.name} lost its worker ({worker} left the cluster); it is computed anew.")
            self.notify(TaskReport(advanced=0, messages=(), losses=tuple(self.losses)))


def slurm_cluster(options: dict[str, Any], *, n_threads: int) -> Any:
    """Return a Dask cluster of Slurm jobs with one worker of one task at a time in each.

    Parameters
    ----------
    options : of ``dask_jobqueue.SLURMCluster``; ``cores`` defaults to the number of threads.
    n_threads : threads of torch and numba in each worker.
    """
    from dask_jobqueue.slurm import SLURMCluster

    exports = [f"export {name}={value}" for name, value in thread_environment(n_threads).items()]
    own = {
        "cores": options.get("cores", n_threads),
        "processes": 1,
        "worker_extra_args": [*options.get("worker_extra_args", []), "--nthreads", "1"],
        "job_script_prologue": [*exports, *options.get("job_script_prologue", [])],
    }
    return SLURMCluster(**{**options, **own})


async def _kill_workers(cluster: "distributed.LocalCluster") -> None:
    """End the workers without waiting for what they still compute."""
    await asyncio.gather(*(nanny.close(timeout=0.1) for nanny in cluster.workers.values()))


class _WorkerSetup(distributed.WorkerPlugin):
    """Prepares every worker, also those that join late or are started again."""

    name = "halfmap-worker-setup"

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads

    def setup(self, worker: Any) -> None:
        keep_large_blocks()
        set_threads(self._n_threads)


def _allow_failures(n_failures: int, dask_scheduler: Any = None) -> None:
    dask_scheduler.allowed_failures = n_failures


def _run_on_worker(key: str, devices: tuple[str, ...], task: bytes, *operands: Any) -> Any:
    worker = distributed.get_worker()

    def send(report: TaskReport) -> None:
        worker.log_event(_TOPIC, {"key": key, "advanced": report.advanced, "messages": list(report.messages)})

    told = ReportingProgress(send=send)
    device = devices[worker.name % len(devices)] if isinstance(worker.name, int) else devices[0]
    try:
        fn, arguments = pickle.loads(task)
        return run_here(fn, (*arguments, *operands), progress=told, device=device)
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        outcome = failure(error, told.report())
        raise _Failed(outcome) from None
    finally:
        if told.report().advanced or told.report().messages:
            send(told.report())  # before the result: messages of a worker arrive in their order


class _Failed(Exception):  # noqa: N818 - the envelope of an error, never seen by callers
    """Carries how a task failed."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def _outcome(done: "distributed.Future", call: Call) -> Outcome:
    """Say how a finished call ended; its value is brought here unless it is kept."""
    try:
        return Outcome(value=_waited(done) if call.is_kept else done.result())
    except _Failed as failed:
        return failed.outcome
    except distributed.KilledWorker:
        error = ComputeError(
            f"{call.name} must be computed by a worker that survives it; got {N_TRIES} workers lost; "
            "see the workers' logs, or give each worker more memory."
        )
        return Outcome(error=error)
    except Exception as error:  # noqa: BLE001 - the scheduler or the connection failed
        return Outcome(
            error=ComputeError(
                f"{call.name} must come back from the cluster; got '{error!r}'; see the scheduler's log."
            )
        )


def _waited(done: "distributed.Future") -> "distributed.Future":
    error = done.exception()
    if error is not None:
        raise error
    return done
