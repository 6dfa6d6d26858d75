"""Which devices the work runs on."""

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.compute.memory import available_memory_bytes
from halfmap.compute.threads import usable_cores
from halfmap.errors import ComputeError, InputError

if TYPE_CHECKING:
    import torch

_NUMBERS = re.compile(r"^\d+(?:[,:]\d+)*$")


def select_devices(text: str = "auto") -> "list[torch.device]":
    """Return the devices that a user's choice names, each once, in the order given.

    Parameters
    ----------
    text : ``auto``: all GPUs, or the CPU where there is none; ``cpu``; ``all``: all GPUs; ``0,1``: GPUs by number.
        RELION's ``0:1`` (one GPU for each of its processes) is read as ``0,1``, and ``cuda:1`` as ``1``.

    Raises
    ------
    InputError
        The text is none of these.
    ComputeError
        A GPU asked for is not there.
    """
    import torch

    choice = text.strip().lower()
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "cpu" or (choice == "auto" and n_gpus == 0):
        return [torch.device("cpu")]
    if choice in {"auto", "all"}:
        numbers = list(range(n_gpus))
        if not numbers:
            raise ComputeError(
                "--devices all must find a GPU; got a machine without any that torch can use; "
                "choose --devices cpu, or see 'halfmap doctor'."
            )
        return [torch.device("cuda", number) for number in numbers]
    spelled = re.sub(r"cuda:(\d+)", r"\1", choice).replace(" ", "")
    if not _NUMBERS.match(spelled):
        raise InputError(f"--devices must be auto, cpu, all or GPU numbers; got {text!r}; write for example 0,1.")
    numbers = list(dict.fromkeys(int(number) for number in re.split("[,:]", spelled)))
    missing = [str(number) for number in numbers if number >= n_gpus]
    if missing:
        there = f"GPUs 0 to {n_gpus - 1}" if n_gpus > 1 else "GPU 0 alone" if n_gpus == 1 else "no GPU at all"
        raise ComputeError(
            f"--devices {text} must name GPUs of this machine; got number {', '.join(missing)} where torch finds "
            f"{there}; choose --devices auto or cpu, or see 'halfmap doctor'."
        )
    return [torch.device("cuda", number) for number in numbers]


@dataclass(frozen=True, kw_only=True)
class DeviceDescription:
    """One device, in words and numbers.

    Parameters
    ----------
    device : its name for ``--devices``.
    model : what the maker calls it.
    n_cores : usable cores of a CPU, multiprocessors of a GPU.
    memory_bytes : free memory, in bytes.
    """

    device: str
    model: str
    n_cores: int
    memory_bytes: int


def describe_devices() -> list[DeviceDescription]:
    """Describe the CPU and every GPU that torch can use."""
    import torch

    cpu = DeviceDescription(
        device="cpu", model=_cpu_model(), n_cores=usable_cores(), memory_bytes=available_memory_bytes()
    )
    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        free, _ = torch.cuda.mem_get_info(number)
        gpus.append(
            DeviceDescription(
                device=str(number), model=properties.name, n_cores=properties.multi_processor_count, memory_bytes=free
            )
        )
    return [cpu, *gpus]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_task_device: ContextVar[str] = ContextVar("task_device", default="cpu")


def task_device() -> "torch.device":
    """Return the device on which the running task shall work: its worker's; the CPU outside of any task."""
    import torch

    name = _task_device.get()
    if name == "auto":
        return select_devices("auto")[0]
    return torch.device(name)


@contextmanager
def working_on(device: str) -> Iterator[None]:
    """Make ``device`` the one that `task_device` returns within the block; ``auto`` is resolved when asked for."""
    token = _task_device.set(device)
    try:
        yield
    finally:
        _task_device.reset(token)
