"""`halfmap doctor`: what halfmap finds on this machine, and what to do about what it does not."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halfmap.project.job import ImmediateCommand


@dataclass(frozen=True, kw_only=True)
class DoctorParams:
    """Nothing to choose."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Parameters
    ----------
    state : ``ok``, ``-`` for an optional part that is missing, ``!`` for what halfmap needs.
    subject : what was looked for.
    found : what was found.
    remedy : what to do about it, empty where nothing needs doing.
    """

    state: str
    subject: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<3}{self.subject:<22}{self.found}"
        return f"{line}; {self.remedy}" if self.remedy else line


_LIBRARIES = ("halfmap", "torch", "numpy", "numba", "scipy")
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_DISK_BYTES = 5 << 30

_OPTIONAL_MODULES = (
    ("dask", "distributed", "clusters", "pip install 'halfmap[cluster]'"),
    ("dask-jobqueue", "dask_jobqueue", "Slurm", "pip install 'halfmap[cluster]'"),
)
_OPTIONAL_PROGRAMS = (
    ("topaz", "topaz", "an optional picker", "pip install 'halfmap[topaz]'"),
    ("RELION", "relion_preprocess", "an oracle of the tests", "apt-get install relion, or RELION's own pages"),
)


def run(params: DoctorParams) -> Iterator[str]:
    """Yield one line per part."""
    yield from (str(finding) for finding in _findings())


def _findings() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _LIBRARIES:
        yield _library(name)
    yield from _devices()
    yield _threads()
    yield _memory()
    yield _disk(Path.cwd())
    for name, module, purpose, remedy in _OPTIONAL_MODULES:
        yield _optional(name, importlib.util.find_spec(module) is not None, _version(name), purpose, remedy)
    for name, program, purpose, remedy in _OPTIONAL_PROGRAMS:
        path = shutil.which(program)
        yield _optional(name, path is not None, path or "", purpose, remedy)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _library(name: str) -> Finding:
    version = _version(name)
    if version:
        return Finding("ok", name, version)
    return Finding("!", name, "missing", f"install it: pip install {name}")


def _optional(name: str, present: bool, found: str, purpose: str, remedy: str) -> Finding:
    if present:
        return Finding("ok", name, found or "present")
    return Finding("-", name, f"not installed (for {purpose})", f"if you want it: {remedy}")


def _devices() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from halfmap.compute.device import describe_devices
    from halfmap.compute.memory import format_memory

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        seen = "nvidia-smi" if shutil.which("nvidia-smi") else ""
        if built is None and seen:
            remedy = "this torch is built for the CPU alone: install one for CUDA from pytorch.org"
        elif built is not None and seen:
            remedy = "torch finds none of the machine's GPUs: update the driver, or unset CUDA_VISIBLE_DEVICES"
        else:
            remedy = ""
        yield Finding("ok" if not remedy else "!", "GPUs", "none, work goes to the CPU", remedy)
        return
    for gpu in describe_devices()[1:]:
        yield Finding("ok", f"GPU {gpu.device}", f"{gpu.model}, {format_memory(gpu.memory_bytes)} free")


def _threads() -> Finding:
    from halfmap.compute.threads import usable_cores

    cores, machine = usable_cores(), os.cpu_count() or 1
    limited = os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} of the machine's {machine} cores" if cores < machine else f"{cores} cores"
    if limited and limited.isdigit() and int(limited) < cores:
        return Finding("!", "threads", f"{found}, OMP_NUM_THREADS is {limited}", "unset it, or give --threads")
    return Finding("ok", "threads", found)


def _memory() -> Finding:
    from halfmap.compute.memory import available_memory_bytes, format_memory

    free = available_memory_bytes()
    remedy = "" if free >= _LEAST_MEMORY_BYTES else "close other programs; jobs need at least 2 GiB"
    return Finding("ok" if not remedy else "!", "memory", f"{format_memory(free)} free", remedy)


def _disk(folder: Path) -> Finding:
    from halfmap.compute.memory import format_memory

    free = shutil.disk_usage(folder).free
    found = f"{format_memory(free)} free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("!", "disk", f"{found}, not writable", "work in a folder of your own, or use --out")
    remedy = "" if free >= _LEAST_DISK_BYTES else "make room, or work on another disk"
    return Finding("ok" if not remedy else "!", "disk", found, remedy)


COMMAND = ImmediateCommand(
    command="doctor",
    parameters=DoctorParams,
    run=run,
    summary="Show versions, devices and optional parts, and what to do about gaps",
)
