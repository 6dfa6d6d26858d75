"""The executor that works in several processes of this machine."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from halfmap.compute.broadcast import dumps
from halfmap.compute.progress import TaskReport
from halfmap.compute.scheduling import N_TRIES, RESULTS_PER_WORKER, Call, LaunchingExecutor, cancelled
from halfmap.compute.task import Kept, Outcome, add_kept
from halfmap.compute.threads import thread_environment
from halfmap.errors import ComputeError, InputError

_START = (
    "import sys; sys.path[:] = {path!r}; from halfmap.compute.worker import main; main({fd}, {device!r}, {scratch!r})"
)


class ProcessExecutor(LaunchingExecutor):
    """An `halfmap.compute.executor.Executor` with one process for each device or group of cores.

    Processes are fresh interpreters, started when there is work for them and never more than that work needs.

    Parameters
    ----------
    n_workers : number of processes.
    devices : handed out to the processes in turn.
    n_threads : threads of each process.
    scratch : folder for broadcast values and sums; None for the system's temporary folder.

    Notes
    -----
    One thread of this process starts the workers, hands out tasks and hears the workers, so they do not wait for a
    caller that is busy with a result. A worker that is lost shows as the end of its socket. A call that is abandoned
    while it runs takes its worker with it; another one is started when it is needed.
    """

    def __init__(
        self, *, n_workers: int, devices: tuple[str, ...] = ("cpu",), n_threads: int = 1, scratch: Path | None = None
    ) -> None:
        if n_workers < 1:
            raise InputError(f"The number of workers must be at least 1; got {n_workers}; choose 1 or more.")
        super().__init__(scratch)
        self._n_workers = n_workers
        self._devices = devices
        self._environment = thread_environment(n_threads)
        self._pool: _Pool | None = None

    @property
    def n_workers(self) -> int:
        """Number of processes that may run."""
        return self._n_workers

    @property
    def n_launched_at_most(self) -> int:
        """How many calls may be launched and unfinished at one time."""
        return RESULTS_PER_WORKER * self.n_workers

    def cancel(self) -> None:
        """Stop all work; see `Executor.cancel`."""
        self._is_cancelled = True
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        """Return the executor; processes start with the first task."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes and remove the scratch folder."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._remove_folder()

    def launch(self, call: Call, notify: Callable[[TaskReport | Outcome], None]) -> "_Ticket":
        """Queue a call; see `halfmap.compute.scheduling.LaunchingExecutor`."""
        if self._is_cancelled:
            raise cancelled()
        if self._pool is None:
            self._pool = _Pool(self.n_workers, self._devices, self._environment, self._folder())
        fn = partial(add_kept, call.fn) if call.is_addition else call.fn
        return self._pool.add(call, fn, notify)

    def abandon(self, tickets: "list[_Ticket]") -> None:
        """Forget calls and end the workers that run them."""
        if self._pool is not None and tickets:
            self._pool.abandon(tickets)

    def fetch(self, kept: Kept) -> Any:
        """Return a result that was kept."""
        return kept.load()

    def release(self, kept: Kept) -> None:
        """Remove a result that was kept."""
        kept.discard()


class _Ticket:
    """A call on its way."""

    def __init__(self, name: str, task: bytes, is_urgent: bool, notify: Callable[[TaskReport | Outcome], None]) -> None:
        self.name = name
        self.task = task
        self.is_urgent = is_urgent
        self.notify = notify
        self.losses: tuple[str, ...] = ()
        self.is_abandoned = False


class _Worker:
    """A process and this end of its socket."""

    def __init__(self, device: str, environment: dict[str, str], scratch: Path) -> None:
        ours, theirs = socket.socketpair()
        start = _START.format(
            path=[entry or os.getcwd() for entry in sys.path], fd=theirs.fileno(), device=device, scratch=str(scratch)
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", start],
            pass_fds=(theirs.fileno(),),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what tasks print must not mix with a command's own output
            process_group=0,  # a terminal's Ctrl-C is for the parent, who then ends its workers
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.is_ready = False
        self.ticket: _Ticket | None = None

    def end(self) -> str:
        """Kill the process and say how it ended."""
        self.connection.close()
        self.process.kill()
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "it was killed, as the system does when memory is short"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


class _Pool:
    """The workers, and the thread that serves them."""

    def __init__(self, n_workers: int, devices: tuple[str, ...], environment: dict[str, str], scratch: Path) -> None:
        self._devices = devices
        self._environment = environment
        self._scratch = scratch
        self._slots: list[_Worker | None] = [None] * n_workers
        self._waiting: deque[_Ticket] = deque()
        self._lock = threading.Lock()
        self._is_closing = False
        self._is_closed = False
        self._n_failed_starts = 0
        self._file_numbers = count()
        self._bell, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="halfmap-workers", daemon=True)
        self._thread.start()

    def add(self, call: Call, fn: Callable[..., Any], notify: Callable[[TaskReport | Outcome], None]) -> _Ticket:
        file_name = f"sum{next(self._file_numbers)}" if call.is_kept else None
        ticket = _Ticket(call.name, dumps((file_name, fn, call.arguments)), call.is_addition, notify)
        with self._lock:
            if self._is_closing:
                raise cancelled()
            self._queue(ticket, first=call.is_addition)
        self._ring()
        return ticket

    def abandon(self, tickets: list[_Ticket]) -> None:
        with self._lock:
            for ticket in tickets:
                ticket.is_abandoned = True
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_abandoned)
            for worker in self._workers():
                if worker.ticket is not None and worker.ticket.is_abandoned:
                    worker.process.kill()

    def close(self) -> None:
        """End all workers, and every call with the error of a cancellation; return when they are gone."""
        with self._lock:
            self._is_closing = True
            for worker in self._workers():
                worker.process.kill()
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _queue(self, ticket: _Ticket, *, first: bool) -> None:
        if first:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)

    def _workers(self) -> list[_Worker]:
        return [worker for worker in self._slots if worker is not None]

    def _ring(self) -> None:
        with self._lock:
            if not self._is_closed:
                os.write(self._wake, b"!")

    # Everything below runs in the pool's own thread.

    def _serve(self) -> None:
        error: BaseException = cancelled()
        try:
            while not self._is_closing:
                self._start_workers()
                self._hand_out()
                self._hear()
        except Exception as unexpected:  # noqa: BLE001 - every caller hears of it
            error = unexpected
        with self._lock:
            self._is_closing = True
            tickets = [*self._waiting, *(worker.ticket for worker in self._workers() if worker.ticket is not None)]
            self._waiting.clear()
        for worker in self._workers():
            worker.end()
        for ticket in tickets:
            self._finish(ticket, Outcome(error=error))
        with self._lock:
            self._is_closed = True
            os.close(self._bell)
            os.close(self._wake)

    def _start_workers(self) -> None:
        """Start as many workers as waiting calls need; always from this thread, on whose life the workers' depends."""
        n_free = sum(worker.ticket is None for worker in self._workers())
        for slot, worker in enumerate(self._slots):
            if worker is None and n_free < len(self._waiting):
                started = _Worker(self._devices[slot % len(self._devices)], self._environment, self._scratch)
                with self._lock:
                    self._slots[slot] = started
                n_free += 1

    def _hand_out(self) -> None:
        for worker in self._workers():
            if worker.is_ready and worker.ticket is None:
                with self._lock:
                    if not self._waiting or self._is_closing:
                        return
                    worker.ticket = self._waiting.popleft()
                try:
                    worker.connection.send_bytes(worker.ticket.task)
                except OSError:
                    self._lose(worker)

    def _hear(self) -> None:
        by_connection = {worker.connection: worker for worker in self._workers()}
        for ready in wait([self._bell, *by_connection]):
            if ready == self._bell:
                os.read(self._bell, 4096)
                continue
            worker = by_connection[ready]  # type: ignore[index]
            try:
                received = worker.connection.recv_bytes()
            except (EOFError, OSError):
                self._lose(worker)
                continue
            self._understand(worker, received)

    def _understand(self, worker: _Worker, received: bytes) -> None:
        try:
            message = pickle.loads(received)
        except Exception as error:  # noqa: BLE001 - a result that cannot be read is the task's failure
            message = Outcome(error=error)
        if message is None:
            worker.is_ready = True
            self._n_failed_starts = 0
            return
        ticket = worker.ticket
        if isinstance(message, Outcome):
            with self._lock:
                worker.ticket = None
        if ticket is not None:
            self._finish(ticket, message)

    def _lose(self, worker: _Worker) -> None:
        with self._lock:
            self._slots[self._slots.index(worker)] = None
        how = worker.end()
        ticket = worker.ticket
        if not worker.is_ready and not self._is_closing:
            self._n_failed_starts += 1
            if self._n_failed_starts >= N_TRIES:
                raise ComputeError(
                    f"A worker process must start; got none in {N_TRIES} tries: {how}; see its output above."
                )
        if ticket is None or ticket.is_abandoned or self._is_closing:
            if ticket is not None:
                self._finish(ticket, Outcome(error=cancelled()))
            return
        ticket.losses = (*ticket.losses, f"{ticket.name} lost its worker ({how}); it is computed anew.")
        if len(ticket.losses) < N_TRIES:
            self._finish(ticket, TaskReport(advanced=0, messages=(), losses=ticket.losses))
            with self._lock:
                self._queue(ticket, first=True)
            self._ring()  # lost while handed its task: nothing else may be heard of, and a worker must be started
            return
        error = ComputeError(
            f"{ticket.name} must be computed by a worker that survives it; got {N_TRIES} workers lost ({how}); "
            "run it with --workers 1 to see why, or give each worker more memory with fewer --workers."
        )
        self._finish(ticket, Outcome(error=error))

    def _finish(self, ticket: _Ticket, event: TaskReport | Outcome) -> None:
        if not ticket.is_abandoned:
            ticket.notify(event)
