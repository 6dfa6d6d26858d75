"""EER movies: the electrons of raw frames, summed into fractions as they are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from halfmap.errors import FormatError, InputError
from halfmap.io.tiff_pages import page_offsets, truncated

_COMPRESSIONS = {65000: 8, 65001: 7, 65002: 7}
"""Bits of a skip, by TIFF's number for the compression; of the last, unless tags say otherwise."""

_SKIP_BITS, _X_BITS, _Y_BITS = 65007, 65008, 65009
_LEVEL_OF_UPSAMPLING = {1: 0, 2: 1, 4: 2}


@dataclass(frozen=True, kw_only=True)
class EerGrouping:
    """How raw frames of an EER movie become the frames that are worked with.

    Parameters
    ----------
    frames_per_fraction : raw frames summed into one.
    upsampling : 1 for the sensor's own pixels (4096 of them), 2 or 4 for that many times as many.

    Raises
    ------
    InputError
        A fraction of no frames, or another up-sampling.

    Notes
    -----
    Raw frames that fill no whole fraction are left out, as in RELION.
    """

    frames_per_fraction: int = 10
    upsampling: int = 1

    def __post_init__(self) -> None:
        if self.frames_per_fraction < 1:
            raise InputError(
                f"Raw frames in an EER fraction must be at least 1; got {self.frames_per_fraction}; 10 to 40 are usual."
            )
        if self.upsampling not in _LEVEL_OF_UPSAMPLING:
            raise InputError(f"The up-sampling of EER must be 1, 2 or 4; got {self.upsampling}; 1 keeps the sensor's.")

    @classmethod
    def into_fractions(cls, n_raw_frames: int, n_fractions: int, upsampling: int = 1) -> "EerGrouping":
        """Return the grouping that makes a number of fractions.

        Raises
        ------
        InputError
            There are fewer raw frames than fractions.
        """
        if not 1 <= n_fractions <= n_raw_frames:
            raise InputError(
                f"EER fractions must be 1 to the {n_raw_frames} raw frames of the movie; got {n_fractions}; "
                "ask for fewer."
            )
        return cls(frames_per_fraction=n_raw_frames // n_fractions, upsampling=upsampling)


@dataclass(frozen=True, kw_only=True, eq=False)
class EerFrames:
    """Fractions of an EER movie; only what is asked for is read and decoded.

    Parameters
    ----------
    path : the file.
    sensor_shape : (y, x).
    bits : of a skip, of x and of y within a pixel.
    offsets, byte_counts : int64, shape (raw frames, strips): where the electrons of raw frames lie.
    grouping : of raw frames.
    """

    path: Path
    sensor_shape: tuple[int, int]
    bits: tuple[int, int, int]
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    grouping: EerGrouping

    @property
    def shape(self) -> tuple[int, int]:
        """Sides (y, x) of a fraction."""
        factor = self.grouping.upsampling
        return (self.sensor_shape[0] * factor, self.sensor_shape[1] * factor)

    @property
    def n_raw_frames(self) -> int:
        """Number of frames in the file."""
        return len(self.offsets)

    def __len__(self) -> int:
        """Return the number of whole fractions."""
        return self.n_raw_frames // self.grouping.frames_per_fraction

    def read(self, fraction: int) -> NDArray[np.uint16]:
        """Return the electrons of a fraction, shape `shape`.

        Raises
        ------
        FormatError
            The file has become shorter, or a frame cannot be decoded.
        """
        counts = np.zeros(self.shape, dtype=np.uint16)
        first = fraction * self.grouping.frames_per_fraction
        with open(self.path, "rb") as stream:
            for frame in range(first, first + self.grouping.frames_per_fraction):
                packed = b""
                for offset, size in zip(self.offsets[frame], self.byte_counts[frame], strict=True):
                    stream.seek(int(offset))
                    packed += stream.read(int(size))
                if len(packed) < self.byte_counts[frame].sum():
                    raise truncated(self.path, frame, self.path.stat().st_size)
                self._add_electrons(packed, frame, counts)
        return counts

    def _add_electrons(self, packed: bytes, frame: int, counts: NDArray[np.uint16]) -> None:
        level = _LEVEL_OF_UPSAMPLING[self.grouping.upsampling]
        try:  # the decoder adds to what is there, and takes an even number of bytes
            imagecodecs.eer_decode(
                packed + b"\0" * (len(packed) % 2), self.shape, *self.bits, superres=level, out=counts
            )
        except (imagecodecs.EerError, ValueError) as error:
            raise FormatError(
                self.path,
                expected=f"the electrons of raw frame {frame + 1}",
                found=f"a broken stream ({error})",
                remedy="copy the movie again, or leave it out",
            ) from error


def open_eer(path: str | Path, grouping: EerGrouping | None = None) -> EerFrames:
    """Look at an EER movie: its size and where its frames lie.

    Parameters
    ----------
    path : the file.
    grouping : of raw frames; None as `EerGrouping`.

    Raises
    ------
    InputError
        There is no such file, or it has fewer raw frames than one fraction needs.
    FormatError
        It is no EER movie, or it is truncated.

    References
    ----------
    Guo et al. 2020, IUCrJ 7, 860; numbering of compressions and tags as in tifffile.
    """
    path = Path(path)
    grouping = grouping or EerGrouping()
    n_bytes = path.stat().st_size if path.is_file() else 0
    n_pages = len(page_offsets(path))
    offsets: list[tuple[int, ...]] = []
    sizes: list[tuple[int, ...]] = []
    shape: tuple[int, int] | None = None
    bits = (0, 0, 0)
    try:
        with tifffile.TiffFile(path, superres=0) as file:
            for number in range(n_pages):
                page: Any = file.pages[number]
                if page.compression not in _COMPRESSIONS:
                    if number:
                        raise FormatError(path, expected="EER frames", found=f"another kind on page {number + 1}")
                    continue  # some programs put the sum first
                if shape is None:
                    shape, bits = (page.imagelength, page.imagewidth), _bits(page)
                offsets.append(tuple(page.dataoffsets))
                sizes.append(tuple(page.databytecounts))
                if min(sizes[-1], default=0) <= 0 or max(map(sum, zip(offsets[-1], sizes[-1], strict=True))) > n_bytes:
                    raise truncated(path, number, n_bytes)
    except (tifffile.TiffFileError, OSError, ValueError, RuntimeError) as error:
        raise FormatError(path, expected="an EER movie", found=f"a broken file ({error})") from error
    if shape is None:
        raise FormatError(path, expected="an EER movie", found="a TIFF without electrons", remedy="name it .tif")
    if len(offsets) < grouping.frames_per_fraction:
        raise InputError(
            f"{path} must have at least the {grouping.frames_per_fraction} raw frames of a fraction; got "
            f"{len(offsets)}; put fewer into a fraction."
        )
    return EerFrames(
        path=path,
        sensor_shape=shape,
        bits=bits,
        offsets=np.array(offsets, dtype=np.int64),
        byte_counts=np.array(sizes, dtype=np.int64),
        grouping=grouping,
    )


def _bits(page: Any) -> tuple[int, int, int]:
    default = (_COMPRESSIONS[page.compression], 2, 2)
    if page.compression != max(_COMPRESSIONS):
        return default
    tags = (_SKIP_BITS, _X_BITS, _Y_BITS)
    skip, x, y = (int(page.tags.valueof(tag, value)) for tag, value in zip(tags, default, strict=True))
    return skip, x, y
