"""What runs in a worker process of `halfmap.compute.processes`.

The worker is a fresh interpreter that is handed one end of a socket pair. A thread reads tasks from it, so that the
end of the parent is noticed at once, also while a task computes.
"""

import ctypes
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.broadcast import dumps
from halfmap.compute.progress import ReportingProgress, TaskReport
from halfmap.compute.task import Outcome, failure, keep, run_here

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, device: str, scratch: str) -> None:
    """Run tasks that come over a socket until it is closed.

    Parameters
    ----------
    descriptor : file descriptor of this worker's end.
    device : what `task_device` gives to tasks.
    scratch : folder for results that stay with the workers.
    """
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    _die_with_parent()
    keep_large_blocks()
    connection = Connection(descriptor)
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_tasks, args=(connection, tasks), daemon=True).start()
    connection.send_bytes(pickle.dumps(None))
    while True:
        connection.send_bytes(_run(tasks.get(), connection, device, Path(scratch)))


def _read_tasks(connection: Connection, tasks: "SimpleQueue[bytes]") -> None:
    while True:
        try:
            tasks.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone, or done with this worker


def _run(task: bytes, connection: Connection, device: str, scratch: Path) -> bytes:
    def send(report: TaskReport) -> None:
        connection.send_bytes(dumps(report))

    told = ReportingProgress(send=send)
    try:
        file_name, fn, arguments = pickle.loads(task)
        value: Any = run_here(fn, arguments, progress=told, device=device)
        if file_name is not None:
            value = keep(value, scratch / file_name)
        return dumps(Outcome(report=told.report(), value=value))
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        return dumps(failure(error, told.report()))


def _die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, even in the middle of a kernel that holds Python's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
