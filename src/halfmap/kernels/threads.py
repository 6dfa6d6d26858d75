"""Running a kernel that releases the interpreter's lock in several threads.

Kernels are not parallel themselves: the threading layers of numba abort the process when several
Python threads enter them, and do not survive a fork. Plain threads over parts of the work do neither.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def run_in_parts(task: Callable[[int, int], None], n_parts: int) -> None:
    """Call ``task(part, n_parts)`` for every part, each in a thread of its own, and wait for all.

    Parameters
    ----------
    task : must give the same result whatever the number of parts.
    n_parts : at least 1; a single part runs in the calling thread.
    """
    if n_parts <= 1:
        task(0, 1)
        return
    with ThreadPoolExecutor(max_workers=n_parts) as pool:
        for future in [pool.submit(task, part, n_parts) for part in range(n_parts)]:
            future.result()


def part_of(n_items: int, part: int, n_parts: int) -> slice:
    """Return the contiguous share of ``n_items`` that belongs to a part."""
    return slice(n_items * part // n_parts, n_items * (part + 1) // n_parts)
