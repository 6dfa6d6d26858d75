"""Servers of live sessions that begin at once, forked from a process that has loaded all they need.

A server and a process that computes take five seconds of a processor to load, which a test that kills them a hundred
times has not. What is forked here has what the real ones have: a group of its own, pipes, sockets, and files, and dies
as they do.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

_LOADED = (
    "halfmap.compute.in_process", "halfmap.jobs.particle_checks", "halfmap.sessions.checkpoints",
    "halfmap.sessions.cycle", "halfmap.sessions.worker", "halfmap.web.server",
    "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.websockets_sansio_impl", "uvicorn.lifespan.on",
)  # fmt: skip
_MOST_BYTES = 1 << 16
_START_SECONDS = 600


class Forked:
    """A forked process, as much like a `subprocess.Popen` as those who start it need.

    Parameters
    ----------
    address : of the process that forks.
    asked : what the process is to be, see `_become`.
    """

    def __init__(self, address: str, asked: dict[str, Any]) -> None:
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(asked).encode()], theirs)
            self.pid = int(connection.recv(100))
        for descriptor in theirs:
            os.close(descriptor)
        self.stdin = os.fdopen(pipes[0][1], "wb", buffering=0)
        self.stdout, self.stderr = os.fdopen(pipes[1][0], "rb"), os.fdopen(pipes[2][0], "rb")
        self.returncode: int | None = None
        self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return None while it runs; the number of the signal that has killed it, less than 0, is a guess."""
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self.returncode = -signal.SIGKILL
            os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None and not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return self.poll() or 0

    def kill(self) -> None:
        """Kill it, and wait until it is dead."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """Kill it and close its pipes."""
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


class Forking:
    """The process that forks.

    Parameters
    ----------
    folder : for its socket.
    """

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "forking")
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.quick_processes", self.address],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": paths},
        )

    def server(self, project: Path, **params: Any) -> Forked:
        """Start ``halfmap live`` in a project; see `halfmap.web.settings.LiveParams`."""
        end = time.monotonic() + _START_SECONDS
        while not Path(self.address).exists():
            assert self._process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        return Forked(self.address, {"role": "server", "folder": str(project), "params": params})

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._process.communicate()


def _fork_for(address: str) -> None:
    """Fork for everyone who asks, until the input ends."""
    for name in _LOADED:
        importlib.import_module(name)

    os.fsync = lambda fd: None  # no kill can tell whether it was waited for
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no dead process stays
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".new")
        listener.listen(64)
        os.rename(address + ".new", address)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            text, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 3)
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                _become(json.loads(text), descriptors, address)
            connection.sendall(str(pid).encode())
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)


def _become(asked: dict[str, Any], descriptors: Sequence[int], address: str) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        if asked["role"] == "server":
            _serve(asked["params"], address)
        else:
            _compute(asked["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the process that forks
        traceback.print_exc()
    finally:
        os._exit(code)


def _serve(params: dict[str, Any], address: str) -> None:
    from halfmap.sessions import child, plan, session
    from halfmap.web.server import serve
    from halfmap.web.settings import LiveParams

    def forked(command: Sequence[str], **options: Any) -> Forked:
        return Forked(address, {"role": "worker", "folder": str(options["cwd"]), "arguments": command[3:]})

    plan.FIRST_PAUSE_SECONDS, plan.RETRIES = 0.0, sys.maxsize
    session.TICK_SECONDS = 0.1
    child.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    params["root"] = tuple(Path(one) for one in params["root"])
    for line in serve(LiveParams(**params)):
        print(line, flush=True)


PHASE_SECONDS = 0.05


def _compute(arguments: Sequence[str]) -> None:
    from halfmap.sessions import worker

    say = worker._say_phase

    def say_and_wait(*values: Any) -> None:
        say(*values)
        time.sleep(PHASE_SECONDS)  # so that each phase is long enough to be killed in

    worker._say_phase = say_and_wait  # type: ignore[assignment]
    work, devices, workers, cluster = arguments
    worker.main(Path(work), devices, int(workers), cluster)


if __name__ == "__main__":
    _fork_for(sys.argv[1])
