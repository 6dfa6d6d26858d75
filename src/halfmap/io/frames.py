"""Raw movies, frame by frame: MRC, TIFF and EER, with gain, defects and hot pixels put right.

`open_movie` looks at a file and returns a lazy source; nothing stays open, and no more than the frames asked for are
ever in memory.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from imagecodecs import DelayedImportError
from numpy.typing import ArrayLike, NDArray

from halfmap.data.image_source import Float32Array, checked_indices
from halfmap.errors import FormatError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.detector import Correction, Detector, hot_pixels
from halfmap.io.eer import EerFrames, EerGrouping, open_eer
from halfmap.io.mrc_header import MrcHeader
from halfmap.io.mrc_values import read_sections, refuse_complex
from halfmap.io.tiff_pages import page_offsets, truncated

MRC_SUFFIXES = (".mrc", ".mrcs", ".st")
TIFF_SUFFIXES = (".tif", ".tiff")
EER_SUFFIXES = (".eer", ".ecc")
MOVIE_SUFFIXES = (*MRC_SUFFIXES, *TIFF_SUFFIXES, *EER_SUFFIXES)


class RawFrames(Protocol):
    """Frames as a file has them."""

    @property
    def shape(self) -> tuple[int, int]:
        """Sides (y, x)."""

    def __len__(self) -> int:
        """Return their number."""

    def read(self, frame: int) -> NDArray:
        """Return one frame, in the file's own type."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MrcFrames:
    """Frames of an MRC stack, modes 0, 1, 2, 6, 12 and 101."""

    header: MrcHeader

    @property
    def shape(self) -> tuple[int, int]:
        """Sides (y, x)."""
        return self.header.shape[1], self.header.shape[2]

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.header.shape[0]

    def read(self, frame: int) -> NDArray:
        """Return one frame."""
        sections: NDArray = read_sections(self.header, np.array([frame]))
        return sections[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffFrames:
    """Frames of a TIFF stack, compressed or not, of any depth of real grey values.

    Parameters
    ----------
    path : the file.
    shape : (y, x).
    n_frames : in the file.
    """

    path: Path
    shape: tuple[int, int]
    n_frames: int

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.n_frames

    def read(self, frame: int) -> NDArray:
        """Return one frame, its last stored row first."""
        try:
            with tifffile.TiffFile(self.path) as file:
                values = np.asarray(file.pages[frame].asarray())
        except (tifffile.TiffFileError, DelayedImportError, OSError, ValueError, RuntimeError, IndexError) as error:
            raise FormatError(
                self.path,
                expected=f"frame {frame + 1} of {self.n_frames}",
                found=f"a broken one ({error})",
                remedy="copy the movie again, or leave it out",
            ) from error
        return values[::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class MovieSource:
    """An `halfmap.data.image_source.ImageSource` over the frames of a movie, corrected as they are read.

    Parameters
    ----------
    path : the movie.
    frames : as the file has them.
    grid : sides and pixel size of a frame.
    detector : gain and defects.
    hot_pixels : flat numbers, of `with_hot_pixels`.
    """

    path: Path
    frames: RawFrames
    grid: ImageGrid
    detector: Detector
    hot_pixels: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return frames by their 0-based numbers, in the order asked for, shape (n, y, x).

        Raises
        ------
        InputError
            A number is not one of a frame.
        FormatError
            The file has changed, or a frame cannot be decoded.
        """
        wanted = checked_indices(indices, len(self))
        correction = self._correction()
        frames = np.empty((len(wanted), *self.grid.shape), dtype=np.float32)
        for place, number in enumerate(wanted.tolist()):
            frames[place] = self.frames.read(number)
            correction.apply(frames[place])
        return frames

    def raw_total(self) -> Float32Array:
        """Return the sum of all frames as the file has them, shape (y, x); one frame at a time is in memory."""
        total = np.zeros(self.grid.shape, dtype=np.float32)
        for number in range(len(self)):
            total += self.frames.read(number)
        return total

    def total(self, raw_total: Float32Array | None = None) -> Float32Array:
        """Return the sum of all frames, corrected; gain and fillings are linear, so that of the raw sum."""
        return self._correction().apply(self.raw_total() if raw_total is None else raw_total.copy())

    def with_hot_pixels(self, deviations: float = 6.0, raw_total: Float32Array | None = None) -> "MovieSource":
        """Return the source that fills hot pixels as well; reads all frames once, unless given their raw sum."""
        return replace(self, hot_pixels=tuple(hot_pixels(self.total(raw_total), deviations).tolist()))

    def _correction(self) -> Correction:
        return self.detector.correction(
            self.frames.shape,
            is_eer=isinstance(self.frames, EerFrames),
            hot_pixels=self.hot_pixels,
            movie=str(self.path),
        )


def open_movie(
    path: str | Path,
    *,
    pixel_size_angstrom: float | None = None,
    detector: Detector | None = None,
    eer: EerGrouping | None = None,
) -> MovieSource:
    """Look at a movie, and check it before any work: whole, frames alike, gain and defects that fit.

    Parameters
    ----------
    path : ``.mrc``, ``.mrcs``, ``.st``, ``.tif``, ``.tiff``, ``.eer`` or ``.ecc``.
    pixel_size_angstrom : of the frames as read; None takes it from an MRC header.
    detector : gain reference and defects.
    eer : how raw frames of an EER movie are grouped and sampled.

    Raises
    ------
    InputError
        There is no such file, its kind is none of these, or nothing states the pixel size.
    FormatError
        The movie is truncated or broken, or lacks a frame.
    InconsistentDataError
        Frames differ in size, or gain or defects do not fit them.

    Notes
    -----
    Row 0 of a frame is the first stored in MRC and EER files, and the last stored in TIFF files, whose first row is
    the top of the picture: RELION, Warp and IMOD read TIFF movies so, and positions and shifts in their files refer
    to it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in MRC_SUFFIXES:
        header = mrc.read_header(path)
        refuse_complex(header)
        if header.axis_order != (1, 2, 3):
            raise FormatError(path, expected="frames stored row by row", found=f"the axis order {header.axis_order}")
        frames: RawFrames = MrcFrames(header=header)
        pixel_size_angstrom = pixel_size_angstrom or header.pixel_size_angstrom
    elif suffix in TIFF_SUFFIXES:
        frames = _open_tiff(path)
    elif suffix in EER_SUFFIXES:
        frames = open_eer(path, eer)
    else:
        raise InputError(
            f"A movie must be one of {', '.join(MOVIE_SUFFIXES)}; got {path.name}; convert it to one of them."
        )
    if pixel_size_angstrom is None:
        raise InputError(f"{path} must have a pixel size; got none; state it with --pixel-size.")
    grid = ImageGrid(shape=frames.shape, pixel_size_angstrom=pixel_size_angstrom)
    movie = MovieSource(path=path, frames=frames, grid=grid, detector=detector or Detector())
    movie._correction()
    return movie


def _open_tiff(path: Path) -> TiffFrames:
    n_frames = len(page_offsets(path))
    n_bytes = path.stat().st_size
    shape: tuple[int, int] | None = None
    try:
        with tifffile.TiffFile(path) as file:
            for number in range(n_frames):
                page: Any = file.pages[number]
                sides = (page.imagelength, page.imagewidth)
                shape = shape or sides
                if sides != shape or page.samplesperpixel != 1:
                    raise FormatError(
                        path,
                        expected=f"grey frames of {shape[1]} × {shape[0]}, as the first",
                        found=f"frame {number + 1} of {sides[1]} × {sides[0]} with {page.samplesperpixel} samples",
                        remedy="keep one movie in a file",
                    )
                ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
                if not page.databytecounts or max(ends) > n_bytes:
                    raise truncated(path, number, n_bytes)
    except (tifffile.TiffFileError, OSError, ValueError, RuntimeError) as error:
        raise FormatError(path, expected="a TIFF movie", found=f"a broken file ({error})") from error
    if shape is None:
        raise FormatError(path, expected="a TIFF movie", found="no frame", remedy="copy or write it again")
    return TiffFrames(path=path, shape=shape, n_frames=n_frames)
