"""Work through items in batches, in smaller ones where the memory gives out."""

import gc
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from halfmap.errors import ComputeError, InputError

Result = TypeVar("Result")

_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED", "out of memory")


def in_batches(
    fn: Callable[[slice], Result], n_items: int, *, batch_size: int, at_least: int = 1
) -> Iterator[tuple[slice, Result]]:
    """Call ``fn`` on consecutive slices of the items, halving them when memory gives out.

    Parameters
    ----------
    fn : takes the slice of items to work on. It must treat each item by itself, then the joined results
        do not depend on the batches; and leave nothing half done when it raises.
    n_items : number of items.
    batch_size : how many items to try first.
    at_least : the smallest batch to try.

    Yields
    ------
    (slice, result)
        In the order of the items. A size that once was too large is not tried again.

    Raises
    ------
    InputError
        A size is below 1.
    ComputeError
        The smallest batch does not fit.
    """
    if batch_size < 1 or at_least < 1:
        raise InputError(f"A batch must hold at least 1 item; got {min(batch_size, at_least)}; choose a larger one.")
    start = 0
    size = batch_size
    while start < n_items:
        part = slice(start, min(start + size, n_items))
        done, result = _attempt(fn, part)
        if done is None:
            yield part, result  # type: ignore[misc]
            start = part.stop
            continue
        length = part.stop - part.start
        if length <= at_least:
            raise ComputeError(
                f"{_items(length)} must fit into memory; got '{done}'; "
                "lower --workers, choose another device, or a smaller box or batch."
            )
        _give_back_memory()
        size = max(at_least, length // 2)


def _attempt(fn: Callable[[slice], Result], part: slice) -> tuple[str | None, Result | None]:
    """Return (None, result), or the first line of what was said when memory gave out."""
    try:
        return None, fn(part)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).splitlines() or ["out of memory"])[0], None


def _items(n: int) -> str:
    return "One item" if n == 1 else f"A batch of {n} items"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory of the machine or of a device gave out."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def _give_back_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
