"""How many threads the numerical libraries of this process use."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfmap.errors import InputError

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that this process may use, at least 1.

    The least of the machine's cores, the process's affinity and a container's or batch system's quota.

    Parameters
    ----------
    cgroup : where the kernel shows the control group's limits.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return max(1, min(cores, round(quota))) if quota is not None else max(1, cores)


def _cpu_quota(cgroup: Path) -> float | None:
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if allowed == "max" or int(allowed) < 0:
        return None
    return int(allowed) / int(period)


def threads_of_each(n_workers: int) -> int:
    """Return how many threads each of some workers gets where the user has not said it with ``--threads``.

    The usable cores shared out, and no more than the environment's ``OMP_NUM_THREADS``, which batch systems set.
    """
    share = max(1, usable_cores() // n_workers)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(limit))) if limit.isdigit() else share


def thread_environment(n_threads: int) -> dict[str, str]:
    """Return the environment variables that give a new process ``n_threads`` threads."""
    _check(n_threads)
    return dict.fromkeys(_VARIABLES, str(n_threads))


def set_threads(n_threads: int) -> None:
    """Give torch and numba ``n_threads`` threads in this process, whether they are loaded yet or not.

    Raises
    ------
    InputError
        The number is below 1.
    """
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    environment = thread_environment(n_threads)
    if numba:  # it refuses to compile once the variable differs from the number that it has started with
        del environment["NUMBA_NUM_THREADS"]
    os.environ.update(environment)
    if numba:  # before torch: where both use OpenMP, numba's start of its threads sets torch's number too
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    if torch:
        torch.set_num_threads(n_threads)


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Do as `set_threads` within the block, and then put back what was.

    Raises
    ------
    InputError
        The number is below 1.
    """
    environment = {name: os.environ.get(name) for name in _VARIABLES}
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    torch_threads = torch.get_num_threads() if torch else 0
    numba_threads = numba.get_num_threads() if numba else 0
    set_threads(n_threads)
    try:
        yield
    finally:
        for name, value in environment.items():
            if name == "NUMBA_NUM_THREADS" and "numba" in sys.modules:
                continue  # as in set_threads
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if numba:
            numba.set_num_threads(numba_threads)
        if torch:
            torch.set_num_threads(torch_threads)


def _check(n_threads: int) -> None:
    if n_threads < 1:
        raise InputError(f"The number of threads must be at least 1; got {n_threads}; set --threads to 1 or more.")
