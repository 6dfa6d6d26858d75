"""The header of an MRC file, checked against the file's size before any value is touched."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from halfmap.errors import FormatError, InputError

HEADER_BYTES = 1024
PACKED_MODE = 101
STACK_SPACE_GROUP = 0
VOLUME_SPACE_GROUP = 1
_TYPE_OF_MODE = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2", PACKED_MODE: "u1"}
_NAME_OF_UNREAD_MODE = {3: "complex 16-bit integers", 16: "colour"}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2"}
_IMOD_STAMP = 1146047817
_IMOD_STAMP_OFFSET = 152
_IMOD_SIGNED_BIT = 1

ByteOrder: TypeAlias = Literal["<", ">"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MrcHeader:
    """What an MRC header says, in the order x, y, z whatever order the file stores its axes in.

    Parameters
    ----------
    path : the file.
    mode : 0 (8-bit), 1 (int16), 2 (float32), 4 (complex64), 6 (uint16), 12 (float16) or 101 (4-bit).
    dtype : type of the stored values, with their byte order; of packed bytes in mode 101.
    stored_shape : sections, rows and columns as stored.
    axis_order : ``mapc, mapr, maps``: which of x, y, z (1, 2, 3) columns, rows and sections run along.
    sampling : ``mx, my, mz``, voxels in the cell.
    cell_angstrom, cell_angles_degrees : the cell.
    start_pixel : ``nxstart, nystart, nzstart``, along x, y, z.
    origin_angstrom : the origin words.
    space_group : ``ispg``; 0 in image stacks (and in many volumes), 1 in volumes, 401 and up in volume stacks.
    minimum, maximum, mean, rms : the statistics words, as stored; nothing vouches for them.
    labels : the text labels that are not empty.
    extended_type, n_extended_bytes : the extended header.
    file_bytes : size of the file.
    """

    path: Path
    mode: int
    dtype: np.dtype
    stored_shape: tuple[int, int, int]
    axis_order: tuple[int, int, int]
    sampling: tuple[int, int, int]
    cell_angstrom: tuple[float, float, float]
    cell_angles_degrees: tuple[float, float, float]
    start_pixel: tuple[int, int, int]
    origin_angstrom: tuple[float, float, float]
    space_group: int
    minimum: float
    maximum: float
    mean: float
    rms: float
    labels: tuple[str, ...]
    extended_type: str
    n_extended_bytes: int
    file_bytes: int

    @property
    def data_offset(self) -> int:
        """Position of the first value in the file, in bytes."""
        return HEADER_BYTES + self.n_extended_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row; rows of 4-bit values are filled up to whole bytes."""
        columns = self.stored_shape[2]
        return (columns + 1) // 2 if self.mode == PACKED_MODE else columns * self.dtype.itemsize

    @property
    def section_bytes(self) -> int:
        """Bytes of one stored section."""
        return self.stored_shape[1] * self.row_bytes

    @property
    def expected_bytes(self) -> int:
        """Bytes that the file must at least have."""
        return self.data_offset + self.stored_shape[0] * self.section_bytes

    @property
    def storage_axes(self) -> tuple[int, int, int]:
        """The stored axes (0 sections, 1 rows, 2 columns) that become z, y and x."""
        position = {axis: 2 - place for place, axis in enumerate(self.axis_order)}
        return (position[3], position[2], position[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides as (z, y, x), or (n, y, x) for a stack."""
        z, y, x = self.storage_axes
        return (self.stored_shape[z], self.stored_shape[y], self.stored_shape[x])

    @property
    def voxel_size_angstrom(self) -> tuple[float, float, float] | None:
        """Cell over sampling along x, y, z; None if the header states no cell for x and y.

        Notes
        -----
        The header holds the cell in single precision, so its shortest decimal spelling is divided and
        the quotient kept to seven digits: a file written at 1.244 Å reads as 1.244 Å.
        """
        sizes = [_quotient(cell, n) for cell, n in zip(self.cell_angstrom, self.sampling, strict=True)]
        return (sizes[0], sizes[1], sizes[2]) if sizes[0] > 0 and sizes[1] > 0 else None

    @property
    def pixel_size_angstrom(self) -> float | None:
        """Pixel size along x and y; None if the header states none, or two that differ by over 0.1 %."""
        sizes = self.voxel_size_angstrom
        return sizes[0] if sizes is not None and math.isclose(sizes[0], sizes[1], rel_tol=1e-3) else None


def read_header(path: str | Path) -> MrcHeader:
    """Read and check the header of an MRC file.

    The byte order is told by which one makes sense, since files with a wrong or an empty machine stamp
    abound. A file that is longer than its header promises is accepted.

    Parameters
    ----------
    path : the file, MRC or CCP4.

    Returns
    -------
    The header, whose `expected_bytes` the file holds.

    Raises
    ------
    InputError
        There is no such file.
    FormatError
        The file is shorter than its header promises, is no MRC file, or is of a mode that is not read.

    References
    ----------
    Cheng et al. 2015, J. Struct. Biol. 192, 146 (MRC2014), and the IMOD manual for modes 0 and 101.
    """
    path = Path(path)
    try:
        file_bytes = path.stat().st_size
        with open(path, "rb") as stream:
            raw = stream.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path} must be an MRC file; got no such file; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} must be readable; got '{error.strerror}'; check path and permissions.") from error
    for magic, name in _COMPRESSED.items():
        if raw.startswith(magic):
            raise FormatError(path, expected="an MRC file", found=f"a {name} archive", remedy="decompress it first")
    if len(raw) < HEADER_BYTES:
        raise FormatError(
            path,
            expected=f"an MRC header of {HEADER_BYTES} bytes",
            found=f"{len(raw)} bytes",
            remedy="copy or write the file again",
        )
    order, words = _ordered_words(path, raw, file_bytes)
    header = _parse(path, words, order, raw, file_bytes)
    if file_bytes < header.expected_bytes:
        raise FormatError(
            path,
            expected=f"{header.expected_bytes} bytes for {' × '.join(map(str, header.stored_shape[::-1]))} values of "
            f"mode {header.mode} and {header.data_offset} bytes of header",
            found=f"{file_bytes} bytes",
            remedy="the file is truncated: copy or write it again",
        )
    return header


def new_header(
    shape: tuple[int, int, int],
    pixel_size_angstrom: float,
    *,
    float16: bool,
    is_volume: bool,
    statistics: tuple[float, float, float, float],
    n_extended_bytes: int = 0,
) -> bytes:
    """Return the header of a little-endian file of mode 2, or 12 for float16.

    Parameters
    ----------
    shape : sides (z, y, x), or (n, y, x) for a stack.
    pixel_size_angstrom : of all axes.
    float16 : whether the values are half precision.
    is_volume : space group 1 and a cell along z; else space group 0 and one section in the cell.
    statistics : minimum, maximum, mean and rms deviation of all values.
    n_extended_bytes : of the extended header that the writer puts behind it.
    """
    words = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    sampling = (shape[2], shape[1], shape[0] if is_volume else 1)
    words["nx"], words["ny"], words["nz"] = shape[::-1]
    words["mx"], words["my"], words["mz"] = sampling
    words["mode"] = 12 if float16 else 2
    for axis, count in zip("xyz", sampling, strict=True):
        words["cella"][axis] = count * pixel_size_angstrom
    for angle in ("alpha", "beta", "gamma"):
        words["cellb"][angle] = 90.0
    words["mapc"], words["mapr"], words["maps"] = 1, 2, 3
    words["dmin"], words["dmax"], words["dmean"], words["rms"] = statistics
    words["ispg"] = VOLUME_SPACE_GROUP if is_volume else STACK_SPACE_GROUP
    words["nsymbt"] = n_extended_bytes
    words["nversion"] = 20141
    words["map"] = b"MAP "
    words["machst"] = (68, 68, 0, 0)
    words["nlabl"] = 1
    words["label"][0] = b"halfmap"
    return words.tobytes()


def _quotient(cell: float, count: int) -> float:
    if not (count > 0 and math.isfinite(cell) and cell > 0):
        return 0.0
    return float(f"{float(str(np.float32(cell))) / count:.7g}")


def _ordered_words(path: Path, raw: bytes, file_bytes: int) -> tuple[ByteOrder, Any]:
    """Return the byte order that makes sense and the header's words read with it."""
    stamp = raw[212]
    readings = []
    orders: tuple[ByteOrder, ...] = ("<", ">")
    for order in orders:
        words = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(order), count=1)[0]
        if min(words["nx"], words["ny"], words["nz"]) > 0 and 0 <= words["mode"] <= PACKED_MODE:
            n_values = math.prod(int(words[side]) for side in ("nx", "ny", "nz"))
            is_stamped = stamp == (0x44 if order == "<" else 0x11)
            readings.append((not is_stamped, n_values // 2 > file_bytes, order, words))
    if not readings:
        words = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder("<"), count=1)[0]
        raise FormatError(
            path,
            expected="an MRC header with positive sides and a known mode",
            found=f"sides {words['nx']}, {words['ny']}, {words['nz']} and mode {words['mode']}",
            remedy="check that this is an MRC file",
        )
    _, _, order, words = min(readings, key=lambda reading: reading[:3])
    return order, words


def _parse(path: Path, words: Any, order: ByteOrder, raw: bytes, file_bytes: int) -> MrcHeader:
    mode = int(words["mode"])
    if mode not in _TYPE_OF_MODE:
        raise FormatError(
            path,
            expected="MRC mode 0, 1, 2, 4, 6, 12 or 101",
            found=f"mode {mode} ({_NAME_OF_UNREAD_MODE.get(mode, 'unknown')})",
            remedy="convert the file to mode 2",
        )
    axis_order = (int(words["mapc"]), int(words["mapr"]), int(words["maps"]))
    if axis_order == (0, 0, 0):
        axis_order = (1, 2, 3)
    if sorted(axis_order) != [1, 2, 3]:
        raise FormatError(
            path,
            expected="axes mapc, mapr, maps that are 1, 2, 3 in some order",
            found=", ".join(map(str, axis_order)),
            remedy="mend the header words 17 to 19",
        )
    n_extended_bytes = int(words["nsymbt"])
    if n_extended_bytes < 0:
        raise FormatError(
            path,
            expected="an extended header of 0 bytes or more",
            found=f"{n_extended_bytes} bytes",
            remedy="mend header word 24",
        )
    kind = _TYPE_OF_MODE[mode]
    if mode == 0 and _has_unsigned_bytes(words, order, raw):
        kind = "u1"
    starts = dict(zip(axis_order, (int(words[f"n{axis}start"]) for axis in "xyz"), strict=True))
    n_labels = min(max(int(words["nlabl"]), 0), 10)
    return MrcHeader(
        path=path,
        mode=mode,
        dtype=np.dtype(kind).newbyteorder(order),
        stored_shape=(int(words["nz"]), int(words["ny"]), int(words["nx"])),
        axis_order=axis_order,
        sampling=(int(words["mx"]), int(words["my"]), int(words["mz"])),
        cell_angstrom=_triple(words["cella"]),
        cell_angles_degrees=_triple(words["cellb"]),
        start_pixel=(starts[1], starts[2], starts[3]),
        origin_angstrom=_triple(words["origin"]),
        space_group=int(words["ispg"]),
        minimum=float(words["dmin"]),
        maximum=float(words["dmax"]),
        mean=float(words["dmean"]),
        rms=float(words["rms"]),
        labels=tuple(text for text in map(_text, words["label"][:n_labels]) if text),
        extended_type=_text(words["exttyp"]),
        n_extended_bytes=n_extended_bytes,
        file_bytes=file_bytes,
    )


def _has_unsigned_bytes(words: Any, order: ByteOrder, raw: bytes) -> bool:
    """Mode 0 is signed, unless IMOD wrote it and says otherwise, or the header's own maximum does not fit."""
    stamp, flags = np.frombuffer(raw, dtype=f"{order}i4", count=2, offset=_IMOD_STAMP_OFFSET)
    if stamp == _IMOD_STAMP:
        return not flags & _IMOD_SIGNED_BIT
    return bool(words["dmin"] >= 0 and 127 < words["dmax"] <= 255)


def _triple(record: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(record[name]) for name in record.dtype.names or ())
    return (first, second, third)


def _text(raw: bytes) -> str:
    return raw.decode("ascii", errors="replace").rstrip("\x00 ")
