"""`Child`: the process that computes, in a group of its own; it ends when this process does."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TERMINATION_SECONDS = 10.0


class Child:
    """A running ``python -m MODULE ARGUMENTS``.

    Parameters
    ----------
    work : folder of the session, in which it runs.
    arguments : module and arguments.
    heard : called, from a thread, whenever it has said something or has ended.
    """

    def __init__(self, work: Path, arguments: Sequence[str], heard: Callable[[], None]) -> None:
        command = [sys.executable, "-m", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=work,
        )
        self._heard = heard
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._hear, self._hear_errors)]
        for reader in self._readers:
            reader.start()

    def send(self, request: dict[str, Any]) -> None:
        """Ask for a cycle; a child that is gone is noticed by `is_alive`."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def messages(self) -> list[dict[str, Any]]:
        """Return what it has said since the last call."""
        said = []
        with contextlib.suppress(queue.Empty):
            while True:
                said.append(self._messages.get_nowait())
        return said

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """Return how it ended and its last line on stderr."""
        for reader in self._readers:
            reader.join(1.0)
        code = self.process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"{how}{': ' if self._errors else ''}{''.join(self._errors[-1:])}"

    def end(self) -> None:
        """End it and all it has started, and wait until it is dead: first asked to, after 10 s killed."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(TERMINATION_SECONDS)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _hear(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    message = {"event": "log", "text": line.decode(errors="replace").rstrip()}
                self._messages.put(message)
                self._heard()
        self._heard()

    def _hear_errors(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stderr:
                self._errors = [*self._errors[-20:], line.decode(errors="replace").rstrip()]
