"""Run options: where and with what a job runs. They never change its result."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from halfmap.compute.memory import parse_memory
from halfmap.errors import InputError

_DEVICES = re.compile(r"^(auto|cpu|all|(cuda:)?\d+([,:](cuda:)?\d+)*)$")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and with what a job runs.

    Raises
    ------
    InputError
        A device list or an amount of memory cannot be read.
    """

    devices: str = "auto"
    """Devices: auto, cpu, all, or GPU numbers as 0,1 (0:1 is understood too)."""

    workers: Annotated[int, Ge(1)] | None = None
    """Worker processes; one per GPU, or as cores and memory allow, where left out."""

    threads: Annotated[int, Ge(1)] | None = None
    """Threads of each worker; the cores shared out among the workers where left out."""

    memory: str | None = None
    """Most memory to use, such as 16GiB; what is free where left out."""

    scratch: Path | None = None
    """Folder for temporary files that all workers see."""

    cluster: Path | None = None
    """YAML file that describes the cluster to run on."""

    def __post_init__(self) -> None:
        if not _DEVICES.match(self.devices):
            raise InputError(f"`--devices` must be auto, cpu, all, or GPU numbers as 0,1; got {self.devices!r}.")
        if self.memory is not None:
            parse_memory(self.memory)

    @property
    def memory_bytes(self) -> int | None:
        """The limit in bytes, None where there is none."""
        return None if self.memory is None else parse_memory(self.memory)
