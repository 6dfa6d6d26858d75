"""Keep large temporaries of this process in memory that is already paged in.

The C library's allocator maps every large block anew and hands it back when it is freed, so each big
temporary is page-faulted again at every call. `keep_large_blocks` tells it to keep them. It is called once
at the start of a job or of a worker, never at import.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

_LARGEST_HEAP_BLOCK = 1 << 30
_NEVER_TRIM = -1


def give_back() -> None:
    """Hand memory that is kept but free back to the system, where a step that needed much of it has ended.

    Notes
    -----
    Blocks of a later step do not fit into the gaps that an earlier one has left, so that the process would hold the
    memory of both. Nothing is done with C libraries other than glibc. See malloc_trim(3).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_large_blocks() -> bool:
    """Let the allocator serve blocks up to 1 GiB from its heap, and keep the heap when they are freed.

    Returns
    -------
    bool
        Whether the settings were taken: True with glibc, False with other C libraries, where nothing is done.

    Notes
    -----
    Blocks above 1 GiB are still mapped one by one, since there the page faults are few beside the work and
    memory given back is worth more. glibc before 2.35 refuses a threshold above 32 MiB; there all mapping is switched
    off instead. One arena serves all threads, because the arenas of other threads cannot hold large blocks.
    The process keeps its peak of memory until it ends, or until `give_back`.

    References
    ----------
    mallopt(3). Measured by ``benchmarks/allocator.py``.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK) or mallopt(_M_MMAP_MAX, 0)
    trimmed = mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    mallopt(_M_ARENA_MAX, 1)
    return bool(kept and trimmed)
