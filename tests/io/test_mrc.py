"""MRC files: what is read is what is stored, and what is wrong is said."""

import pickle
import re
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.data.image_source import ImageSource
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.mrc_header import new_header, read_header
from halfmap.io.mrc_values import finite_or_reason
from support.shared_data import ROOT, shared_data

GRID = ImageGrid(shape=(6, 7), pixel_size_angstrom=1.244)
REAL_FILES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.mrc", "*.mrcs", "*.map")
    for path in (ROOT.rglob(pattern) if ROOT.exists() else [])
)


def images(n=5, shape=GRID.shape, seed=1):
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, *shape)).astype(np.float32)


def write_stack(path, values, **options):
    with mrc.StackWriter(path, GRID, **options) as writer:
        writer.write(values)


def write_raw(path, values, mode, order="<", *, extended=b"", packed=None, **words):
    """Write a file of any mode and byte order from mrcfile's own header type."""
    nz, ny, nx = values.shape
    header = np.zeros((), dtype=mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))
    for name, value in {"nx": nx, "ny": ny, "nz": nz, "mx": nx, "my": ny, "mz": nz, "mode": mode}.items():
        header[name] = value
    header["cella"] = (nx * 2.0, ny * 2.0, nz * 2.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["machst"] = (68, 68, 0, 0) if order == "<" else (17, 17, 0, 0)
    header["nsymbt"] = len(extended)
    for name, value in words.items():
        header[name] = value
    body = packed if packed is not None else values.astype(values.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(header.tobytes() + extended + body)
    return path


# laws: what was written is read


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("float16", [False, True])
def test_volume_written_is_read_with_its_exact_pixel_size(tmp_path, side, float16):
    values = torch.from_numpy(images(side, (side, side)))
    volume = Volume(values=values, grid=ImageGrid.cubic(side, 1.244))
    mrc.write_volume(tmp_path / "map.mrc", volume, float16=float16)
    again = mrc.read_volume(tmp_path / "map.mrc")
    assert again.grid == volume.grid
    assert torch.equal(again.values, values.half().float() if float16 else values)


@pytest.mark.parametrize("pixel_size_angstrom", [0.885, 1.0, 1.0418, 1.244, 3.54, 13.7])
@pytest.mark.parametrize("side", [48, 255, 256, 360])
def test_pixel_size_survives_the_headers_single_precision(tmp_path, pixel_size_angstrom, side):
    raw = new_header((1, side, side), pixel_size_angstrom, float16=True, is_volume=False, statistics=(0, 0, 0, 0))
    (tmp_path / "image.mrc").write_bytes(raw + bytes(2 * side * side))
    assert read_header(tmp_path / "image.mrc").pixel_size_angstrom == pixel_size_angstrom


def test_stack_written_in_blocks_equals_stack_written_at_once(tmp_path):
    stack = images(7)
    for name, blocks in {"blocks": [stack[:3], stack[3], stack[4:]], "whole": [stack]}.items():
        with mrc.StackWriter(tmp_path / f"{name}.mrcs", GRID, 7) as writer:
            for block in blocks:
                writer.write(block)
    assert (tmp_path / "blocks.mrcs").read_bytes() == (tmp_path / "whole.mrcs").read_bytes()
    assert np.array_equal(mrc.map_data(tmp_path / "whole.mrcs"), stack)


@pytest.mark.parametrize("float16", [False, True])
def test_stack_is_valid_for_mrcfile_and_holds_the_statistics_of_all_its_values(tmp_path, float16):
    stack = images(4) + np.arange(4, dtype=np.float32)[:, None, None] * 10  # means differ: rms is no mean of rms
    with mrc.StackWriter(tmp_path / "stack.mrcs", GRID, float16=float16) as writer:
        writer.write(stack)
    assert mrcfile.validate(tmp_path / "stack.mrcs")
    with mrcfile.open(tmp_path / "stack.mrcs") as file:
        assert file.is_image_stack()
        stored = file.data.astype(np.float64)
        assert float(file.voxel_size.x) == pytest.approx(1.244, rel=1e-6)  # single precision
        expected = (stored.min(), stored.max(), stored.mean(), stored.std())
        found = (file.header.dmin, file.header.dmax, file.header.dmean, file.header.rms)
        assert np.allclose(found, expected, rtol=1e-6)  # single precision of the header


@pytest.mark.parametrize("pedestal", [0.0, 6535.0, -1e5])
def test_statistics_survive_a_pedestal_and_a_dead_first_pixel(tmp_path, pedestal):
    image = (images(1, (300, 200))[0] + pedestal).astype(np.float32)
    image[0, 0] = 0
    mrc.write_image(tmp_path / "a.mrc", image, ImageGrid(shape=image.shape, pixel_size_angstrom=1.0))
    header = read_header(tmp_path / "a.mrc")
    assert header.mean == pytest.approx(image.mean(dtype=np.float64), rel=1e-6)  # single precision of the header
    assert header.rms == pytest.approx(image.std(dtype=np.float64), rel=1e-4)  # sums in single precision


def test_volume_and_image_are_valid_for_mrcfile(tmp_path):
    grid = ImageGrid(shape=(4, 5, 6), pixel_size_angstrom=2.0)
    mrc.write_volume(tmp_path / "map.mrc", Volume(values=torch.zeros(grid.shape), grid=grid))
    mrc.write_image(tmp_path / "image.mrc", images(1)[0], GRID)
    assert mrcfile.validate(tmp_path / "map.mrc")
    assert mrcfile.validate(tmp_path / "image.mrc")
    assert read_header(tmp_path / "map.mrc").space_group == 1
    assert read_header(tmp_path / "image.mrc").space_group == 0


# reading: modes, byte orders, odd headers


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "kind"), [(0, "i1"), (1, "i2"), (2, "f4"), (4, "c8"), (6, "u2"), (12, "f2")])
def test_every_mode_is_read_in_both_byte_orders(tmp_path, order, mode, kind):
    values = np.arange(-21, 21).reshape(2, 3, 7).astype(kind)
    path = write_raw(tmp_path / "a.mrc", values, mode, order, extended=bytes(80))
    assert np.array_equal(mrc.map_data(path), values)
    assert read_header(path).pixel_size_angstrom == 2.0


@pytest.mark.parametrize("columns", [6, 7])
def test_packed_four_bit_values_come_low_nibble_first_with_padded_rows(tmp_path, columns):
    values = np.random.default_rng(2).integers(0, 16, (3, 4, columns)).astype(np.uint8)
    filled = np.pad(values, ((0, 0), (0, 0), (0, columns % 2)))
    packed = (filled[..., ::2] | filled[..., 1::2] << 4).tobytes()
    path = write_raw(tmp_path / "a.mrc", values, 101, packed=packed)
    assert np.array_equal(mrc.map_data(path), values)
    assert np.array_equal(mrc.read_image(path, 2), values[2])


def test_bytes_are_signed_unless_imod_says_otherwise(tmp_path):
    values = np.arange(0, 252, 6, dtype=np.uint8).reshape(1, 6, 7)
    signed = write_raw(tmp_path / "signed.mrc", values, 0)
    assert mrc.map_data(signed).dtype == np.int8
    raw = bytearray(signed.read_bytes())
    raw[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    (tmp_path / "imod.mrc").write_bytes(raw)
    assert np.array_equal(mrc.map_data(tmp_path / "imod.mrc"), values)
    raw[156] = 1
    (tmp_path / "imod_signed.mrc").write_bytes(raw)
    assert mrc.map_data(tmp_path / "imod_signed.mrc").dtype == np.int8
    fitting = write_raw(tmp_path / "fitting.mrc", values, 0, dmin=0, dmax=246)
    assert np.array_equal(mrc.map_data(fitting), values)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (3, 2, 1), (2, 1, 3), (1, 3, 2)])
def test_axes_stored_in_any_order_are_read_as_z_y_x(tmp_path, order):
    volume = images(4, (5, 6))  # (z, y, x)
    stored = volume.transpose([3 - axis for axis in order[::-1]])
    sides = {3: 4, 2: 5, 1: 6}
    words = {"mapc": order[0], "mapr": order[1], "maps": order[2], "mx": 6, "my": 5, "mz": 4, "cella": (12, 10, 8)}
    path = write_raw(tmp_path / "a.map", np.ascontiguousarray(stored), 2, nxstart=sides[order[0]], **words)
    assert np.array_equal(mrc.map_data(path), volume)
    assert np.array_equal(mrc.read_image(path, 1), volume[1])
    assert np.array_equal(mrc.read_volume(path).values.numpy(), volume)
    assert read_header(path).start_pixel[order[0] - 1] == sides[order[0]]


def test_headers_without_stamp_cell_or_axis_order_are_read(tmp_path):
    values = images(1)
    path = write_raw(
        tmp_path / "a.mrc", values, 2, machst=(0, 0, 0, 0), cella=(0, 0, 0), mapc=0, mapr=0, maps=0, mx=0, my=0
    )
    assert read_header(path).pixel_size_angstrom is None
    assert np.array_equal(mrc.read_image(path), values[0])


def test_wrong_machine_stamp_does_not_mislead(tmp_path):
    values = images(1)
    path = write_raw(tmp_path / "a.mrc", values, 2, ">", machst=(68, 68, 0, 0))
    assert np.array_equal(mrc.read_image(path), values[0])


def test_file_longer_than_its_header_promises_is_read(tmp_path):
    path = write_raw(tmp_path / "a.mrc", images(2), 2)
    path.write_bytes(path.read_bytes() + bytes(99))
    assert np.array_equal(mrc.map_data(path), images(2))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
@pytest.mark.parametrize("name", REAL_FILES or ["maps"])
def test_real_file_reads_as_mrcfile_reads_it(name):
    path = shared_data(name)
    header = read_header(path)
    with mrcfile.open(path, permissive=True) as file:
        stored = file.data if file.data is not None else np.zeros(0)  # mrcfile reads none without a 'MAP ' stamp
    if stored.size == 0:
        stored = np.fromfile(path, "<f4", offset=1024)
    assert np.array_equal(mrc.map_data(path), stored.reshape(header.stored_shape).transpose(header.storage_axes))


# what is wrong is said


def test_truncated_file_names_expected_and_found_bytes(tmp_path):
    path = write_raw(tmp_path / "a.mrc", images(2), 2)
    raw = path.read_bytes()
    path.write_bytes(raw[:-100])
    with pytest.raises(
        FormatError, match=rf"a\.mrc: expected {len(raw)} bytes .* found {len(raw) - 100} bytes; .*copy"
    ):
        mrc.map_data(path)


def test_empty_short_compressed_and_foreign_files_are_refused_with_a_remedy(tmp_path):
    cases = {
        "empty.mrc": (b"", "found 0 bytes"),
        "short.mrc": (bytes(500), "found 500 bytes"),
        "zipped.mrc": (b"\x1f\x8b" + bytes(2000), "gzip archive; decompress"),
        "text.mrc": (b"data_particles\n" * 200, "positive sides and a known mode"),
    }
    for name, (raw, message) in cases.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(FormatError, match=message):
            mrc.map_data(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        mrc.map_data(tmp_path / "none.mrc")
    with pytest.raises(InputError, match="readable"):
        mrc.map_data(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mode": 3}, "mode 3 .complex 16-bit"),
        ({"mode": 16}, "mode 16 .colour"),
        ({"mapc": 1, "mapr": 1, "maps": 3}, "1, 1, 3"),
        ({"nsymbt": -4}, "-4 bytes"),
        ({"nsymbt": 100_000}, "truncated"),
    ],
)
def test_header_words_that_cannot_be_are_named(tmp_path, words, message):
    path = write_raw(tmp_path / "a.mrc", images(2), words.pop("mode", 2), **words)
    with pytest.raises(FormatError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"cella": (14, 12, 5)}, "voxels that are cubes"),
        ({"cellb": (90, 95, 90)}, "right angles"),
        ({"ispg": 401, "mz": 2}, "3 volumes"),
    ],
)
def test_map_that_is_no_cubic_volume_is_refused(tmp_path, words, message):
    path = write_raw(tmp_path / "a.mrc", images(6), 2, **words)
    with pytest.raises(FormatError, match=message):
        mrc.read_volume(path)


def test_stack_of_images_is_no_map(tmp_path):
    """Given as a reference, 12 images of 32 px were taken for a map of 32 × 32 × 12."""
    path = write_raw(tmp_path / "a.mrcs", images(6), 2)
    with pytest.raises(FormatError, match="a stack of images"):
        mrc.read_volume(path)


def test_real_map_with_a_skewed_cell_is_refused_and_named():
    with pytest.raises(FormatError, match=r"right angles; found angles of 90°, 94\.3"):
        mrc.read_volume(shared_data("maps/emd_3001.map"))


def test_real_map_without_pixel_size_asks_for_one_and_takes_it():
    path = shared_data("maps/ribosome70s_65.mrc")
    with pytest.raises(InputError, match="got none in its header; state it"):
        mrc.read_volume(path)
    assert mrc.read_volume(path, 5.4).grid == ImageGrid.cubic(65, 5.4)


def test_transform_is_no_image(tmp_path):
    path = write_raw(tmp_path / "a.mrc", np.zeros((1, 4, 3), "c8"), 4)
    with pytest.raises(FormatError, match="transform"):
        mrc.read_image(path)


def test_stack_is_no_single_image_and_has_no_image_beyond_it(tmp_path):
    path = write_raw(tmp_path / "a.mrcs", images(3), 2)
    with pytest.raises(FormatError, match="3 sections"):
        mrc.read_image(path)
    with pytest.raises(InputError, match="0 to 2; got 3"):
        mrc.read_image(path, 3)


def test_not_finite_values_are_counted_and_placed():
    values = images(2)
    assert finite_or_reason(values) is None
    values[1, 2, 3] = np.nan
    values[1, 4, 0] = np.inf
    assert finite_or_reason(values) == "2 of 84 values are NaN or infinite, the first at (z, y, x) = (1, 2, 3)"


# writing ends well or leaves nothing


def test_writer_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "stack.mrcs"
    path.write_text("earlier")
    with pytest.raises(ShapeError):
        write_stack(path, images(2, (3, 3)))
    with pytest.raises(InconsistentDataError, match="3 images announced; got 2"):
        write_stack(path, images(2), n_images=3)
    with pytest.raises(InputError, match="got none"), mrc.StackWriter(path, GRID):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["stack.mrcs"]
    assert path.read_text() == "earlier"


def test_writer_refuses_other_sides_and_what_float16_cannot_hold(tmp_path):
    with pytest.raises(ShapeError, match="6, 7"):
        write_stack(tmp_path / "a.mrcs", images(2, (6, 6)))
    with pytest.raises(InputError, match="--no-float16"):
        write_stack(tmp_path / "a.mrcs", images(2) * 1e6, float16=True)
    with pytest.raises(InputError, match="enter it by 'with'"):
        mrc.StackWriter(tmp_path / "a.mrcs", GRID).write(images(1))


# the lazy source


@pytest.fixture
def stacks(tmp_path):
    stack = images(9)
    for name, part in {"a.mrcs": stack[:4], "sub/b.mrcs": stack[4:8]}.items():
        with mrc.StackWriter(tmp_path / name, GRID, float16=False) as writer:
            writer.write(part)
    mrc.write_image(tmp_path / "single.mrc", stack[8], GRID)
    names = [f"{i + 1:06d}@a.mrcs" for i in range(4)] + [f"{i + 1}@sub/b.mrcs" for i in range(4)] + ["single.mrc"]
    return tmp_path, np.array(names), stack


def test_source_reads_images_in_the_order_asked_for_whatever_the_files(stacks):
    root, names, stack = stacks
    shuffled = np.random.default_rng(3).permutation(9)
    source = mrc.StackSource(names[shuffled], root)
    assert isinstance(source, ImageSource)
    assert source.grid == GRID
    for indices in ([0], [8, 3, 3, 0, 5], range(9), np.array([], int), np.repeat(range(8, -1, -1), 2)):
        indices = np.asarray(indices, dtype=int)
        assert np.array_equal(source.read(indices), stack[shuffled][indices])
        assert source.read(indices).dtype == np.float32


def test_source_survives_pickling_and_reads_nothing_before_it_is_asked(stacks):
    root, names, stack = stacks
    source = pickle.loads(pickle.dumps(mrc.StackSource(names, root)))
    assert len(pickle.dumps(source)) < 5000
    assert np.array_equal(source.read([7, 1]), stack[[7, 1]])


def test_source_checks_every_file_before_the_first_read(stacks):
    root, names, _ = stacks
    with pytest.raises(InputError, match=r"none\.mrcs must be an MRC file; got no such file"):
        mrc.StackSource([*names, "1@none.mrcs"], root)
    with pytest.raises(InputError, match=r"5@a\.mrcs must be one of the 4 images"):
        mrc.StackSource([*names, "5@a.mrcs"], root)
    for name in ("0@a.mrcs", "x@a.mrcs", "1@"):
        with pytest.raises(InputError, match=re.escape(repr(name))):
            mrc.StackSource([name], root)
    mrc.write_image(root / "other.mrc", np.zeros((8, 8)), ImageGrid.square(8, 1.244))
    with pytest.raises(InconsistentDataError, match=r"7 × 6 .* got 8 × 8"):
        mrc.StackSource([*names, "other.mrc"], root)
    mrc.write_image(root / "other.mrc", np.zeros((6, 7)), ImageGrid(shape=(6, 7), pixel_size_angstrom=2.0))
    with pytest.raises(InconsistentDataError, match=r"one pixel size"):
        mrc.StackSource([*names, "other.mrc"], root)
    with pytest.raises(InputError, match="at least one"):
        mrc.StackSource([], root)
    path = root / "sub/b.mrcs"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="truncated"):
        mrc.StackSource(names, root)


def test_source_says_when_a_file_shrinks_or_a_number_is_no_image(stacks):
    root, names, _ = stacks
    source = mrc.StackSource(names, root, GRID)
    path = root / "a.mrcs"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="became shorter"):
        source.read([3])
    for wrong in ([9], [-1], [0.5], [[0]]):
        with pytest.raises(InputError, match="Image numbers"):
            source.read(wrong)


def test_source_reads_real_float16_tilts():
    folder = "tilt/tomodrgn_EMPIAR-10499_warptools_4tomos/warptools_test_4-tomos_10-ptcls_box-32_angpix-12/Unt_050"
    path = shared_data(f"{folder}/Unt_050_12.00A_000003.mrcs")
    source = mrc.StackSource([f"{i}@{path.name}" for i in (37, 1)], path.parent)
    with mrcfile.open(path) as file:
        assert np.array_equal(source.read([0, 1]), file.data[[36, 0]].astype(np.float32))
    assert source.grid.pixel_size_angstrom == 12.0


@pytest.mark.oracle
def test_relion_reads_sizes_and_statistics_of_a_stack_and_a_map(tmp_path):
    if shutil.which("relion_image_handler") is None:
        pytest.skip("RELION is not installed")
    stack = images(5, (16, 16))
    with mrc.StackWriter(tmp_path / "stack.mrcs", ImageGrid.square(16, 1.5), 5) as writer:
        writer.write(stack)
    volume = images(16, (16, 16))
    mrc.write_volume(tmp_path / "map.mrc", Volume(values=torch.from_numpy(volume), grid=ImageGrid.cubic(16, 1.5)))
    for target, values in ((f"2@{tmp_path / 'stack.mrcs'}", stack[1]), (str(tmp_path / "map.mrc"), volume)):
        command = ["relion_image_handler", "--i", target, "--stats"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = {name: float(number) for name, number in re.findall(r"(\w+) ?= ([-+.e\d]+)", printed)}
        expected = {
            "avg": values.mean(),
            "stddev": values.std(),
            "minval": values.min(),
            "maxval": values.max(),
            "angpix": 1.5,
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), rel=2e-3), name  # n - 1, and six digits printed
