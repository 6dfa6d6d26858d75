"""Batches shrink when memory gives out, and results do not change."""

import numpy as np
import pytest
import torch

from halfmap.compute.batching import in_batches, is_out_of_memory
from halfmap.errors import ComputeError, InputError


def joined(largest_that_fits: int, n_items: int, batch_size: int, error: Exception) -> tuple[np.ndarray, list[int]]:
    """Square numbers with a function that runs out of memory above a size; return values and sizes tried."""
    values = np.arange(n_items, dtype=np.float64)
    tried = []

    def square(part: slice) -> np.ndarray:
        tried.append(part.stop - part.start)
        if part.stop - part.start > largest_that_fits:
            raise error
        return values[part] ** 2

    results = list(in_batches(square, n_items, batch_size=batch_size))
    assert [part.start for part, _ in results[1:]] == [part.stop for part, _ in results[:-1]]
    return np.concatenate([result for _, result in results]), tried


@pytest.mark.parametrize(
    ("batch_size", "largest", "error"),
    [
        (1, 1, MemoryError()),
        (7, 1000, MemoryError()),
        (16, 3, torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB")),
        (200, 9, MemoryError()),
    ],
)
def test_results_are_the_same_for_every_batch_and_memory(batch_size: int, largest: int, error: Exception) -> None:
    values, _ = joined(largest, 37, batch_size, error)
    np.testing.assert_array_equal(values, np.arange(37.0) ** 2)


def test_a_size_that_was_too_large_is_not_tried_again() -> None:
    _, tried = joined(5, 40, 16, MemoryError())
    assert tried == [16, 8] + [4] * 10


def test_one_item_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ComputeError, match=r"One item must fit into memory; got 'no room'; lower --workers"):
        joined(0, 10, 4, MemoryError("no room"))


def test_the_allocator_of_torch_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_pass() -> None:
    def broken(part: slice) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches(broken, 3, batch_size=2))


def test_a_batch_of_nothing_is_refused_and_no_items_are_no_batches() -> None:
    with pytest.raises(InputError, match="at least 1 item"):
        list(in_batches(lambda part: part, 3, batch_size=0))
    assert list(in_batches(lambda part: part, 0, batch_size=4)) == []
