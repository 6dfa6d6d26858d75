"""How much memory the work may take, and how it is cut into chunks and batches."""

import re
from itertools import pairwise
from pathlib import Path

from halfmap.errors import InputError

_MEMORY = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*([kKMGT]?)(i?)B?\s*$")
_POWER = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
DEFAULT_FRACTION = 0.6


def parse_memory(text: str) -> int:
    """Read ``16GiB``, ``16G``, ``500 MB`` or a number of bytes.

    Returns
    -------
    int
        Bytes. ``GiB`` counts by 1024, ``GB`` and ``G`` by 1000.

    Raises
    ------
    InputError
        The text is no amount of memory, or none at all.
    """
    match = _MEMORY.match(text)
    if match is None or float(match[1]) == 0.0:
        raise InputError(f"Memory must be a number with a unit; got {text!r}; write for example 16GiB or 500MB.")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2]])


def format_memory(n_bytes: float) -> str:
    """Write a number of bytes for people: ``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def available_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may still take, in bytes.

    The lesser of what the machine has free and what the control group of a container or batch job leaves.

    Parameters
    ----------
    cgroup : where the kernel shows the control group's limits.
    """
    import psutil

    machine = int(psutil.virtual_memory().available)
    group = _left_in_group(cgroup)
    return machine if group is None else max(0, min(machine, group))


def _left_in_group(cgroup: Path) -> int | None:
    """Memory below the limits of this process's groups (version 2 and 1), cached file pages counted as free."""
    left: list[int] = []
    for root, limit_name, used_name, cache_name in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _own_groups(root):
            try:
                limit = (folder / limit_name).read_text().strip()
                used = int((folder / used_name).read_text())
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if limit != "max":
                left.append(int(limit) - used + int(statistics.get(cache_name, 0)))
    return min(left) if left else None


def _own_groups(root: Path) -> list[Path]:
    """Return the folder of this process's group below ``root`` and all its parents up to ``root``."""
    folders = [root]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            folder = root
            for part in Path(path.lstrip("/")).parts:
                folder = folder / part
                folders.append(folder)
    return folders


def memory_budget_bytes(text: str | None = None, *, fraction: float = DEFAULT_FRACTION) -> int:
    """Return how much memory a job may plan with, in bytes.

    Parameters
    ----------
    text : what the user allows, as `parse_memory` reads it; None takes a share of what is free.
    fraction : that share.
    """
    return parse_memory(text) if text is not None else int(fraction * available_memory_bytes())


def batch_size(bytes_per_item: float, budget_bytes: int, *, at_most: int) -> int:
    """Return how many items fit into the budget, between 1 and ``at_most``.

    The size of a batch is no part of a result: give it only to functions that treat each item by itself.
    """
    return max(1, min(at_most, int(budget_bytes // max(bytes_per_item, 1.0))))


def plan_chunks(n_items: int, largest: int) -> list[slice]:
    """Cut a range of items into consecutive chunks of nearly equal size.

    Chunks set the order of sums and so belong to the result: ``largest`` must follow from the data and the
    settings, never from the number of workers or the memory at hand.

    Parameters
    ----------
    n_items : number of items.
    largest : largest number of items in one chunk.

    Returns
    -------
    list of slice
        They cover 0 … n_items in order; their sizes differ by one at most.

    Raises
    ------
    InputError
        ``largest`` is below 1, or ``n_items`` is negative.
    """
    if largest < 1 or n_items < 0:
        raise InputError(
            f"Chunks must hold at least 1 of 0 or more items; got {largest} of {n_items}; choose a positive size."
        )
    n_chunks = -(-n_items // largest)
    bounds = [n_items * i // n_chunks for i in range(n_chunks + 1)] if n_chunks else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]
