"""``python -m halfmap.sessions.worker``: computes cycles, one after the other, as it is asked to on its input.

It says what happens as JSON lines, and ends, with all it has started, when its input ends: when the session that asks
is gone.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

_PROGRESS_SECONDS = 0.5


class Voice:
    """What the worker says; also the `halfmap.compute.progress.Progress` of its work."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print must not come between
        self._lock = threading.Lock()
        self._label, self._done, self._said = "", 0, 0.0
        self._total: int | None = None

    def say(self, event: str, **values: Any) -> None:
        """Say one thing."""
        with self._lock:
            self._stream.write(json.dumps({"event": event, **values}) + "\n")
            self._stream.flush()

    def start(self, label: str, total: int | None) -> None:
        """Begin a new count."""
        self._label, self._done, self._total, self._said = label, 0, total, 0.0
        self._show()

    def advance(self, n: int = 1) -> None:
        """Add to the count."""
        self._done += n
        self._show()

    def message(self, text: str) -> None:
        """Say one line."""
        self.say("log", text=text)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._said >= _PROGRESS_SECONDS or self._done == self._total:
            self._said = now
            self.say("progress", label=self._label, done=self._done, total=self._total)


def main(work: Path, devices: str, workers: int, cluster: str) -> None:
    """Compute what is asked for until the input ends; without a cluster's description on this machine."""
    voice = Voice()
    requests: list[int] = []
    asked = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            with asked:
                requests.append(int(json.loads(line)["cycle"]))
                asked.notify()
        os.killpg(0, signal.SIGKILL)  # at once, in the midst of whatever is computed

    threading.Thread(target=listen, daemon=True).start()
    from halfmap.compute.allocator import keep_large_blocks
    from halfmap.compute.executor import open_executor
    from halfmap.sessions import store
    from halfmap.sessions.checkpoints import CHECKPOINTS, CheckpointedExecutor
    from halfmap.sessions.cycle import run_cycle

    keep_large_blocks()
    with open_executor(
        devices=devices, workers=workers or None, cluster=Path(cluster) if cluster else None
    ) as executor:
        while True:
            with asked:
                asked.wait_for(lambda: bool(requests))
                number = requests.pop(0)
            kept = CheckpointedExecutor(executor, store.part_of(work, number) / CHECKPOINTS)
            try:
                run_cycle(work, number, kept, voice, partial(_say_phase, voice, number))
            except Exception as error:  # noqa: BLE001 - whatever it is, the session must hear of it
                voice.say("log", text=traceback.format_exc())
                voice.say("failed", cycle=number, reason=str(error) or type(error).__name__)
            else:
                voice.say("published", cycle=number)


def _say_phase(voice: Voice, cycle: int, name: str) -> None:
    voice.start(f"Cycle {cycle}: {name}", None)
    voice.say("phase", cycle=cycle, phase=name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
