import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from halfmap.data.image_source import ImageSource
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mapped_stacks
from halfmap.io.mapped_stacks import MappedStacks, can_be_mapped
from halfmap.io.mrc import StackSource, StackWriter, read_header

MIB = 2**20


def write(path, n, side, *, seed=0, float16=False):
    images = np.random.default_rng(seed).standard_normal((n, side, side), dtype=np.float32)
    with StackWriter(path, ImageGrid.square(side, 2.0), float16=float16) as writer:
        writer.write(images)
    return images.astype(np.float16).astype(np.float32) if float16 else images


def source_of(*paths, side):
    return MappedStacks(headers=tuple(map(read_header, paths)), grid=ImageGrid.square(side, 2.0))


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("float16", [False, True])
def test_images_of_several_stacks_come_in_the_order_asked_for(tmp_path, side, float16):
    first = write(tmp_path / "a.mrcs", 5, side, float16=float16)
    second = write(tmp_path / "b.mrcs", 7, side, seed=1)
    source = source_of(tmp_path / "a.mrcs", tmp_path / "b.mrcs", side=side)
    assert isinstance(source, ImageSource)
    assert len(source) == 12
    np.testing.assert_array_equal(source.first, [0, 5, 12])
    wanted = [11, 0, 5, 0, 4, 6]
    read = source.read(wanted)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.concatenate([first, second])[wanted])


@pytest.mark.parametrize("kind", ["<i2", ">f4", "<f2", "i1"])
def test_every_plain_type_reads_as_plain_reading_does(tmp_path, kind):
    write(tmp_path / "a.mrcs", 3, 8)
    header = bytearray((tmp_path / "a.mrcs").read_bytes()[:1024])
    mode = {"i1": 0, "<i2": 1, "<f2": 12, ">f4": 2}[kind]
    words = np.frombuffer(header, dtype="<i4").copy()
    words[3] = mode
    if kind == ">f4":
        words = words.byteswap()
        words.view(np.uint8)[212:214] = 0x11
        words.view(np.uint8)[208:212] = np.frombuffer(b"MAP ", dtype=np.uint8)
    values = np.arange(3 * 64).reshape(3, 8, 8).astype(kind)
    (tmp_path / "b.mrcs").write_bytes(words.tobytes() + values.tobytes())
    names = [f"{number}@{tmp_path}/b.mrcs" for number in (3, 1)]
    plain = StackSource(names, grid=ImageGrid.square(8, 2.0)).read([0, 1])
    read = source_of(tmp_path / "b.mrcs", side=8).read([2, 0])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, plain)
    np.testing.assert_array_equal(read, values.astype(np.float32)[[2, 0]])


def test_what_is_read_may_be_changed_without_changing_the_file(tmp_path):
    images = write(tmp_path / "a.mrcs", 3, 8)
    source = source_of(tmp_path / "a.mrcs", side=8)
    source.read([1])[:] = 0
    np.testing.assert_array_equal(source.read([1])[0], images[1])


def test_it_travels_to_another_process_as_names_alone(tmp_path):
    write(tmp_path / "a.mrcs", 64, 32)
    source = source_of(tmp_path / "a.mrcs", side=32)
    source.read([1])
    sent = pickle.dumps(source)
    assert len(sent) < 4096
    np.testing.assert_array_equal(pickle.loads(sent).read([3, 1]), source.read([3, 1]))


def test_nothing_is_read_of_no_images(tmp_path):
    write(tmp_path / "a.mrcs", 3, 8)
    assert source_of(tmp_path / "a.mrcs", side=8).read([]).shape == (0, 8, 8)
    with pytest.raises(InputError, match="Image numbers must be 0 to 2; got 3 to 3; ask for"):
        source_of(tmp_path / "a.mrcs", side=8).read([3])


def test_a_stack_that_became_shorter_or_is_gone_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "a.mrcs"
    write(path, 3, 64)
    source = source_of(path, side=64)
    source.read([0])
    os.truncate(path, 5000)
    with pytest.raises(FormatError, match=r"expected 50176 bytes, as when .* found 5000 bytes; bring the file back"):
        source.read([2])
    path.unlink()
    with pytest.raises(FormatError, match="found 'No such file or directory'; bring the file back"):
        source.read([2])


def test_a_stack_that_was_replaced_is_mapped_anew(tmp_path):
    write(tmp_path / "a.mrcs", 3, 8)
    source = source_of(tmp_path / "a.mrcs", side=8)
    source.read([0])
    images = write(tmp_path / "a.mrcs", 3, 8, seed=5)
    np.testing.assert_array_equal(source.read([0, 1, 2]), images)


def test_no_more_files_stay_mapped_than_a_process_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_stacks, "MAPPED_AT_ONCE", 3)
    monkeypatch.setattr(mapped_stacks, "_mapped", type(mapped_stacks._mapped)())
    paths = [tmp_path / f"{number}.mrcs" for number in range(6)]
    images = np.concatenate([write(path, 2, 8, seed=number) for number, path in enumerate(paths)])
    source = source_of(*paths, side=8)
    np.testing.assert_array_equal(source.read(np.arange(12)[::-1]), images[::-1])
    assert len(mapped_stacks._mapped) == 3


def test_images_of_another_size_or_kind_are_refused(tmp_path):
    write(tmp_path / "a.mrcs", 3, 8)
    with pytest.raises(InconsistentDataError, match="must be 9 × 9 pixels; got 8 × 8; read each image size"):
        source_of(tmp_path / "a.mrcs", side=9)
    raw = bytearray((tmp_path / "a.mrcs").read_bytes())
    raw[12:16] = np.int32(101).tobytes()
    (tmp_path / "packed.mrcs").write_bytes(raw)
    assert not can_be_mapped(read_header(tmp_path / "packed.mrcs"))
    with pytest.raises(FormatError, match=r"expected a stack of plain real values .* found mode 101 .* convert"):
        source_of(tmp_path / "packed.mrcs", side=8)
    with pytest.raises(InputError, match="must have at least one stack; got none; check"):
        source_of(side=8)


def test_memory_of_a_reader_is_that_of_what_it_asked_for_and_not_of_the_stack(tmp_path):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory of a process is read from /proc")

    def own_bytes():
        return int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text())[1]) * 1024

    n, side = 2000, 64  # 31 MiB
    write(tmp_path / "a.mrcs", n, side)
    source = source_of(tmp_path / "a.mrcs", side=side)
    random = np.random.default_rng(2)
    source.read(np.arange(64))
    before, most = own_bytes(), 0
    seen = np.zeros(n, dtype=bool)
    for _ in range(150):
        indices = random.integers(0, n, 64)
        seen[indices] = True
        images = source.read(indices)
        most = max(most, own_bytes() - before)
        del images
    assert seen.mean() > 0.95
    assert most < 4 * MIB, f"{most / MIB:.1f} MiB taken for batches of 1 MiB"
