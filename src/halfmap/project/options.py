"""Run options: where and with what a job runs. They never change its result."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from halfmap.errors import InputError

_MEMORY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*$", re.IGNORECASE)
_DEVICES = re.compile(r"^(auto|cpu|all|\d+([,:]\d+)*)$")


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
    """Worker processes; one per device where left out."""

    threads: Annotated[int, Ge(1)] | None = None
    """Threads of all workers together; the cores of the machine where left out."""

    memory: str | None = None
    """Most memory to use, such as 16GiB; what is free where left out."""

    scratch: Path | None = None
    """Fast local folder for temporary copies."""

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


def parse_memory(text: str) -> int:
    """Return an amount of memory in bytes.

    Parameters
    ----------
    text : a number with a unit: ``16GiB``, ``16G`` (both 2³⁰ bytes), ``16GB`` (10⁹ bytes).

    Raises
    ------
    InputError
        The text is no such amount.
    """
    match = _MEMORY.match(text)
    if match is None or float(match[1]) == 0:
        raise InputError(f"`--memory` must be an amount such as 16GiB; got {text!r}.")
    decimal = text.strip().upper().endswith("B") and not match[3] and match[2] != ""
    return int(float(match[1]) * (1000 if decimal else 1024) ** " KMGT".index(match[2].upper() or " "))
