"""Tasks that the executors' tests run: at the top of a module, as every task must be."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.device import task_device
from halfmap.compute.progress import task_progress
from halfmap.errors import FormatError


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A noun that holds arrays, as steps broadcast them."""

    values: np.ndarray
    name: str


class UnpicklableError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, subject: str, *, number: int) -> None:
        super().__init__(f"{subject} {number}")


def square(number: int) -> int:
    return number * number


def sleep_longer_if_earlier(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0.01)
    return number


def tiny_sum(number: int) -> np.ndarray:
    """Values whose sum depends on the order of additions in its last bits."""
    return 1.0 / (np.arange(7, dtype=np.float32) + 3.0 * number + 0.1)


def large_sum(number: int) -> dict[str, np.ndarray]:
    return {"data": np.full((600, 600), number + 0.1, dtype=np.float32), "count": np.ones(1)}


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left += right
    return left


def add_tables(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, values in right.items():
        left[name] += values
    return left


def scaled_sum(handle: Broadcast, factor: int) -> float:
    reference = handle.load()
    assert handle.load() is reference, "a worker must cache what it loaded"
    return factor * float(np.sum(reference.values))


def text_of(handle: Broadcast) -> str:
    return str(handle.load().read_text())


def fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise FormatError(
            f"micrograph_{number}.mrc", expected="1240 columns", found="12", line=7, remedy="copy it again"
        )
    return number


def fail_in_its_own_way(number: int) -> int:
    raise UnpicklableError("particle", number=number)


def add_wrongly(left: int, right: int) -> int:
    raise ValueError(f"cannot add {min(left, right)}")


def tell(number: int) -> int:
    task_progress().start("unheard", 3)
    task_progress().advance(3)
    task_progress().message(f"item {number}")
    return number


def device_name(_: int) -> str:
    return str(task_device())


def process_id(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def shout(_: int) -> None:
    print("unasked words", flush=True)
    sys.stdout.flush()


def die_once(folder: Path, number: int) -> int:
    """Tell progress, then be killed in the middle of item 2 at the first try."""
    task_progress().advance(1)
    task_progress().message(f"item {number}")
    time.sleep(0.12)
    task_progress().advance(1)
    mark = folder / f"died{number}"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_always(number: int) -> int:
    if number == 1:
        time.sleep(0.3)  # so that the other item has come back, whichever worker had it
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def add_dying_once(folder: Path, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return add(left, right)


def mark_and_sleep(folder: Path, number: int) -> int:
    (folder / f"pid{os.getpid()}").touch()
    time.sleep(60.0)
    return number


def meet(folder: Path, n: int, number: int) -> int:
    """End only when ``n`` tasks have run at the same time."""
    (folder / f"met{number}").touch()
    deadline = time.monotonic() + 30.0
    while len(list(folder.glob("met*"))) < n:
        if time.monotonic() > deadline:
            raise TimeoutError(f"task {number} stayed alone")
        time.sleep(0.02)
    return number
