"""Amounts of memory, and how work is cut to fit them."""

from pathlib import Path

import psutil
import pytest

from halfmap.compute.memory import (
    available_memory_bytes,
    batch_size,
    format_memory,
    memory_budget_bytes,
    parse_memory,
    plan_chunks,
)
from halfmap.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16GiB", 16 * 1024**3),
        ("16G", 16 * 1000**3),
        ("500 MB", 500 * 1000**2),
        ("1.5TiB", 1536 * 1024**3),
        ("4096", 4096),
        (" 2kB ", 2000),
    ],
)
def test_amounts_are_read_with_their_units(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-3GiB", "0", "16 Gigs", "16PiB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must be a number with a unit; got"):
        parse_memory(text)


@pytest.mark.parametrize(("n", "text"), [(100, "100 bytes"), (1536, "1.5 KiB"), (3 * 1024**4, "3.0 TiB")])
def test_amounts_are_written_for_people(n: int, text: str) -> None:
    assert format_memory(n) == text


def _write_group(folder: Path, limit: str, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(limit + "\n")
    (folder / names[1]).write_text("300000000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} 100000000\n")


VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(("below", "names"), [("", VERSION_2), ("memory", VERSION_1)])
def test_a_containers_limit_bounds_what_is_available(below: str, names: tuple[str, str, str], tmp_path: Path) -> None:
    _write_group(tmp_path / below, "500000000", names)
    assert available_memory_bytes(tmp_path) == 300_000_000  # limit − used + cached pages that can be dropped


@pytest.mark.parametrize("limit", ["max", str(2**62)])
def test_without_a_limit_the_machine_bounds(limit: str, tmp_path: Path) -> None:
    _write_group(tmp_path, limit, VERSION_2)
    assert available_memory_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_budget_is_what_the_user_allows_or_a_share_of_what_is_free() -> None:
    assert memory_budget_bytes("2GiB") == 2 * 1024**3
    assert 0 < memory_budget_bytes() < psutil.virtual_memory().total


def test_a_batch_fills_the_budget_but_holds_one_item_at_least() -> None:
    assert batch_size(10.0, 105, at_most=50) == 10
    assert batch_size(10.0, 10_000, at_most=50) == 50
    assert batch_size(1e9, 10, at_most=50) == 1


@pytest.mark.parametrize(("n_items", "largest"), [(0, 5), (1, 5), (10, 5), (11, 5), (1000, 7), (3, 100)])
def test_chunks_cover_all_items_once_evenly(n_items: int, largest: int) -> None:
    chunks = plan_chunks(n_items, largest)
    covered = [item for chunk in chunks for item in range(chunk.start, chunk.stop)]
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert covered == list(range(n_items))
    assert all(0 < size <= largest for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(chunks) == -(-n_items // largest)


def test_chunks_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        plan_chunks(10, 0)
