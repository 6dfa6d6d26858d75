import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest

from halfmap.errors import ComputeError
from halfmap.grid import ImageGrid
from halfmap.io import image_cache
from halfmap.io.image_cache import (
    PAGE_BYTES,
    ImageCache,
    images_of_whole_pages,
    is_on_network,
    key_of_images,
    stack_bytes,
    write_images,
)
from halfmap.io.mapped_stacks import MappedStacks
from halfmap.io.mrc import StackWriter, read_header

GRID = ImageGrid.square(16, 2.0)
IMAGES = np.random.default_rng(4).standard_normal((10, 16, 16), dtype=np.float32)


class GaveUpError(Exception):
    pass


def give_up():
    raise GaveUpError


def opened(folder, key="key", **options):
    return ImageCache(folder, key, owner="job", **{"check": give_up, **options})


def filled(folder, key="key", images=IMAGES, **options):
    cache = opened(folder, key, **options)
    write_images(cache.begin(len(images), GRID, float16=False), 0, images)
    cache.finish()
    return cache


def test_images_written_in_any_order_are_one_stack_that_other_programs_read(tmp_path):
    cache = opened(tmp_path)
    assert not cache.is_complete
    header = cache.begin(10, GRID, float16=False)
    write_images(header, 6, IMAGES[6:])
    write_images(header, 0, IMAGES[:6])
    assert not cache.is_complete
    cache.finish()
    assert cache.is_complete
    assert not cache.partial.exists()
    assert cache.path.stat().st_size == stack_bytes(10, GRID, float16=False)
    made = read_header(cache.path)
    assert made.data_offset == PAGE_BYTES
    assert made.pixel_size_angstrom == 2.0
    source = MappedStacks(headers=(made,), grid=GRID)
    np.testing.assert_array_equal(source.read([9, 0, 4]), IMAGES[[9, 0, 4]])
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.open(cache.path) as stack:
        np.testing.assert_array_equal(stack.data, IMAGES)


def test_half_precision_stays_half_precision(tmp_path):
    cache = opened(tmp_path)
    header = cache.begin(10, GRID, float16=True)
    write_images(header, 0, IMAGES)
    cache.finish()
    assert cache.path.stat().st_size == PAGE_BYTES + 10 * 256 * 2
    source = MappedStacks(headers=(read_header(cache.path),), grid=GRID)
    np.testing.assert_array_equal(source.read([3])[0], IMAGES[3].astype(np.float16).astype(np.float32))


def test_the_folder_is_gone_when_its_only_user_closes(tmp_path):
    cache = filled(tmp_path / "scratch")
    cache.close()
    assert list((tmp_path / "scratch").iterdir()) == []
    cache.close()


def test_no_mapping_keeps_the_room_of_a_removed_stack(tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("mappings of a process are read from /proc")
    cache = filled(tmp_path)
    MappedStacks(headers=(read_header(cache.path),), grid=GRID).read([3])
    assert str(cache.path) in maps.read_text()
    cache.close()
    assert str(cache.path) not in maps.read_text()


def test_jobs_that_read_the_same_images_share_one_stack_and_the_last_removes_it(tmp_path):
    first = filled(tmp_path)
    second = opened(tmp_path)
    assert second.is_complete
    assert second.path == first.path
    first.close()
    assert second.path.exists()
    third = opened(tmp_path)
    second.close()
    assert third.path.exists()
    third.close()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_while_another_writes_waits_until_the_stack_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "_POLL_SECONDS", 0.0)
    writer = opened(tmp_path)
    header = writer.begin(10, GRID, float16=False)
    with pytest.raises(GaveUpError):
        opened(tmp_path)
    waited = []

    def write():
        waited.append(True)
        write_images(header, 0, IMAGES)
        writer.finish()

    reader = opened(tmp_path, check=write)
    assert waited == [True]
    assert reader.is_complete
    writer.close()
    assert reader.path.exists()
    reader.close()


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from halfmap.grid import ImageGrid
from halfmap.io.image_cache import ImageCache, write_images
cache = ImageCache(Path(sys.argv[1]), "key", owner="job")
header = cache.begin(10, ImageGrid.square(16, 2.0), float16=False)
write_images(header, 0, np.ones((10, 16, 16), dtype=np.float32))
if sys.argv[2] == "complete":
    cache.finish()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_a_killed_run_leaves_its_complete_stack_to_the_next_and_nothing_else(tmp_path, state):
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path, state], timeout=60)
    assert ended.returncode == -9
    cache = opened(tmp_path)
    assert cache.is_complete == (state == "complete")
    if not cache.is_complete:
        write_images(cache.begin(10, GRID, float16=False), 0, IMAGES)
        cache.finish()
    expected = np.ones_like(IMAGES) if state == "complete" else IMAGES
    source = MappedStacks(headers=(read_header(cache.path),), grid=GRID)
    np.testing.assert_array_equal(source.read(np.arange(10)), expected)
    other = opened(tmp_path)
    cache.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def abandon(cache):
    os.close(cache._lock)  # as the system does when a process is killed


def test_incomplete_stacks_of_killed_runs_are_removed_by_the_next(tmp_path):
    killed = opened(tmp_path, "other")
    killed.begin(10, GRID, float16=False)
    abandon(killed)
    alive = opened(tmp_path, "third")
    cache = opened(tmp_path)
    assert not killed.folder.exists()
    assert alive.folder.exists()
    alive.close()
    cache.close()


def test_complete_stacks_of_killed_runs_are_removed_after_a_week_or_when_their_room_is_needed(tmp_path, monkeypatch):
    fresh, old = filled(tmp_path, "fresh"), filled(tmp_path, "old")
    abandon(fresh)
    abandon(old)
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(old.path, (long_ago, long_ago))
    used = filled(tmp_path, "used")
    cache = opened(tmp_path)
    assert fresh.folder.exists()
    assert not old.folder.exists()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(
        image_cache.shutil, "disk_usage", lambda _: usage(10**6 if fresh.folder.exists() else 2 * 10**6)
    )
    assert cache.has_room(10**6)
    assert fresh.folder.exists()
    assert cache.has_room(2 * 10**6)
    assert not fresh.folder.exists()
    assert not cache.has_room(2 * 10**6 + 1)
    assert used.folder.exists()
    used.close()
    cache.close()


def test_without_locks_the_folder_belongs_to_one_job(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(image_cache.fcntl, "flock", no_locks)
    cache = filled(tmp_path)
    other = ImageCache(tmp_path, "key", owner="other")
    assert cache.is_complete
    assert not other.is_complete
    assert cache.folder != other.folder
    other.close()
    assert cache.path.exists()
    again = opened(tmp_path)
    assert again.is_complete
    again.close()
    assert not cache.path.exists()


def test_a_folder_that_cannot_be_written_is_named_with_its_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ComputeError, match=r"scratch folder .*file must be writable .* got '.*'; free space .*--scratch"
    ):
        opened(tmp_path / "file")
    with pytest.raises(ComputeError, match=r"must be writable .* got '.*'; free space .*--scratch"):
        opened(tmp_path / "file" / "below")


def test_a_full_disc_is_named_with_its_remedy(tmp_path, monkeypatch):
    cache = opened(tmp_path)
    header = cache.begin(10, GRID, float16=False)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(ComputeError, match=r"room for the images; got 'No space left on device'; free space there"):
        write_images(header, 0, IMAGES)
    monkeypatch.undo()
    cache.close()


@pytest.mark.parametrize("side", [16, 17, 64, 65, 250])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_parts_written_by_different_machines_meet_at_pages(side, itemsize):
    image_bytes = side * side * itemsize
    n = images_of_whole_pages(image_bytes)
    assert n * image_bytes % PAGE_BYTES == 0
    assert not any(m * image_bytes % PAGE_BYTES == 0 for m in range(1, n))


def test_the_key_follows_from_the_files_and_the_choice_of_images(tmp_path):
    for name in ("a", "b"):
        with StackWriter(tmp_path / f"{name}.mrcs", GRID) as writer:
            writer.write(IMAGES)
    headers = tuple(read_header(tmp_path / f"{name}.mrcs") for name in ("a", "b"))
    files, sections = np.array([0, 0, 1]), np.array([1, 2, 0])
    key = key_of_images(headers, files, sections)
    assert key == key_of_images(headers, files.copy(), sections.copy())
    assert key != key_of_images(headers[::-1], files, sections)
    assert key != key_of_images(headers, files, sections[::-1].copy())
    assert key != key_of_images(headers, files[:2], sections[:2])
    os.utime(tmp_path / "b.mrcs", ns=(1, 1))
    assert key != key_of_images(headers, files, sections)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nfs4", True), ("ext4", False), ("fuse.sshfs", True), ("lustre", True), ("xfs", False), ("tmpfs", False)],
)
def test_discs_of_the_network_are_known_by_their_file_system(tmp_path, monkeypatch, kind, expected):
    disc = namedtuple("disc", "mountpoint fstype")
    discs = [disc("/", "ext4" if expected else "nfs"), disc(str(tmp_path.resolve()), kind), disc("/elsewhere", "nfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: discs)
    assert is_on_network(tmp_path / "a.mrcs") == expected
