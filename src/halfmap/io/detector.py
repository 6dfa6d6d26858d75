"""What a detector does to frames and how it is undone: gain, defects, hot pixels."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from halfmap.data.image_source import Float32Array
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import mrc
from halfmap.io.defects import read_defect_list

_MRC = (".mrc", ".mrcs", ".map", ".st")
_TIFF = (".tif", ".tiff")
_EPU = ".gain"
_MOST_BAD = 0.5
_AROUND, _AT_ONCE = 3, 2**14


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Gain reference and defects of a detector, as files.

    Parameters
    ----------
    gain_path : MRC, TIFF or EPU's ``.gain``; None leaves frames as they are.
    gain_flip_x, gain_flip_y, gain_transpose : what brings the gain, and a map of defects, onto the frames
        Applied in this order, as Warp does. RELION's rotation of 90° clockwise as its viewer draws it is flip y and
        transpose, 180° is flip x and flip y, 270° is flip x and transpose; its flip 1 (upside down) is flip y, its
        flip 2 (left to right) flip x, both after the rotation.
    defects_path : a list (``.txt``, see `halfmap.io.defects`), or a map, MRC or TIFF, that is not 0 at bad pixels.

    Notes
    -----
    Frames are multiplied by the gain. For EER movies a gain in MRC or TIFF is the reciprocal, as RELION has it, and
    ``.gain`` is not. Pixels whose gain is 0 or not finite count as defects.
    """

    gain_path: Path | None = None
    gain_flip_x: bool = False
    gain_flip_y: bool = False
    gain_transpose: bool = False
    defects_path: Path | None = None

    def oriented(self, image: NDArray) -> NDArray:
        """Return an image of the detector turned onto the frames."""
        image = image[:, ::-1] if self.gain_flip_x else image
        image = image[::-1] if self.gain_flip_y else image
        return image.T if self.gain_transpose else image

    def correction(
        self, shape: tuple[int, int], *, is_eer: bool, hot_pixels: tuple[int, ...] = (), movie: str = "the movie"
    ) -> "Correction":
        """Read the files, once in each process while they stay the same.

        Parameters
        ----------
        shape : (y, x) of the frames.
        is_eer : whether they are of an EER movie.
        hot_pixels : flat numbers of pixels that are bad besides.
        movie : named where a file does not fit.

        Raises
        ------
        InputError
            A file is missing, or of a kind that is not read.
        FormatError
            A file is broken.
        InconsistentDataError
            Gain or defects have other sides than the frames, a defect lies outside, or over half the pixels are bad.
        """
        stamps = tuple(_stamp(path) for path in (self.gain_path, self.defects_path))
        try:
            return _correction(self, shape, is_eer, hot_pixels, stamps)
        except _Unfitting as error:
            raise InconsistentDataError(f"{error.args[0]} {movie}{error.args[1]}") from error


class _Unfitting(Exception):  # noqa: N818 - never leaves this module
    """Sides that differ: what is said before and after the movie's name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """Gain and bad pixels, ready for frames of one size.

    Parameters
    ----------
    gain : float32, shape (y, x); None for frames that have been multiplied.
    is_bad : shape (y, x).
    filling : how bad pixels are filled.
    """

    gain: Float32Array | None
    is_bad: NDArray[np.bool_]
    filling: "Filling"

    def apply(self, frame: Float32Array) -> Float32Array:
        """Correct a frame in place, and return it."""
        if self.gain is not None:
            frame *= self.gain
        self.filling.apply(frame)
        return frame


@dataclass(frozen=True, kw_only=True, eq=False)
class Filling:
    """Bad pixels and the good ones nearest to each, whose mean they get.

    Parameters
    ----------
    groups : pairs of bad pixels, (n,), and of the good pixels at their least distance, (n, m) with -1 for none; flat
        numbers.
    """

    groups: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

    @classmethod
    def of(cls, is_bad: NDArray[np.bool_]) -> "Filling":
        """Look for the good neighbours of bad pixels.

        Notes
        -----
        A mean of those equally near keeps a bad column from repeating the one to its left.
        """
        height, width = is_bad.shape
        left = np.argwhere(is_bad)
        groups = []
        radius = 0
        while len(left):
            radius += 1
            for steps in _rings(radius):
                y, x = (left[:, axis, None] + steps[:, axis] for axis in (0, 1))
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                places = np.where(inside, y * width + x, 0)
                places[~inside | is_bad.reshape(-1)[places]] = -1
                found = (places >= 0).any(axis=1)
                if found.any():
                    groups.append((left[found] @ np.array([width, 1]), places[found]))
                    left = left[~found]
        return cls(groups=tuple(groups))

    def apply(self, frame: Float32Array) -> None:
        """Fill the bad pixels of a frame in place."""
        flat = frame.reshape(-1)
        for pixels, sources in self.groups:
            is_there = sources >= 0
            flat[pixels] = (flat[sources] * is_there).sum(axis=1) / is_there.sum(axis=1)


def hot_pixels(total: Float32Array, deviations: float = 6.0) -> NDArray[np.int64]:
    """Return the flat numbers of pixels that are far brighter than the rest, and than what lies around them.

    Parameters
    ----------
    total : shape (y, x), sum over the frames of a movie, gain applied.
    deviations : how many standard deviations above the mean; six, as in RELION.

    Notes
    -----
    Mean and deviation are taken anew without the pixels found until their number stays, so that a few very hot ones
    do not hide others. Where the specimen itself is so bright, a pixel must stand as far above the median of the
    7 × 7 around it, with a deviation that grows with the root of the light: pixels of the specimen, if they were
    filled, would hold the motion back by their fixed places. Blocks larger than half of that are for a map of defects.
    """
    flat = total.reshape(-1)
    is_cool = np.isfinite(flat)
    while True:
        cool = flat[is_cool]
        limit = cool.mean(dtype=np.float64) + deviations * cool.std(dtype=np.float64)
        still = is_cool & (flat <= limit)
        if still.sum() == is_cool.sum():
            break
        is_cool = still
    hot = np.flatnonzero(~is_cool)
    mean, deviation = float(cool.mean(dtype=np.float64)), float(cool.std(dtype=np.float64))
    level = np.maximum(_around(total, hot), mean)
    deviation_there = deviation * np.sqrt(level / mean) if mean > 0 else deviation
    return hot[~(flat[hot] <= level + deviations * deviation_there)]


def _around(image: Float32Array, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median of the 7 × 7 pixels around each of some, by their flat numbers."""
    height, width = image.shape
    offset = np.arange(-_AROUND, _AROUND + 1)
    found = np.empty(len(pixels))
    for first in range(0, len(pixels), _AT_ONCE):
        y, x = np.divmod(pixels[first : first + _AT_ONCE], width)
        rows = np.clip(y[:, None] + offset, 0, height - 1)[:, :, None]
        columns = np.clip(x[:, None] + offset, 0, width - 1)[:, None, :]
        window = image[rows, columns].reshape(len(y), -1)
        found[first : first + _AT_ONCE] = np.median(np.where(np.isfinite(window), window, np.inf), axis=1)
    return found


@lru_cache(maxsize=4)
def _correction(
    detector: Detector,
    shape: tuple[int, int],
    is_eer: bool,
    hot_pixels: tuple[int, ...],
    stamps: tuple[tuple[int, int] | None, ...],
) -> Correction:
    if hot_pixels:
        cool = _correction(detector, shape, is_eer, (), stamps)
        is_bad = cool.is_bad.copy()
        is_bad.reshape(-1)[list(hot_pixels)] = True
        return Correction(gain=cool.gain, is_bad=is_bad, filling=Filling.of(is_bad))
    gain = None
    is_bad = np.zeros(shape, dtype=bool)
    if detector.gain_path is not None:
        gain = _fitted(detector, detector.gain_path, shape, is_eer)
        if is_eer and detector.gain_path.suffix.lower() != _EPU:
            with np.errstate(divide="ignore"):
                gain = np.float32(gain.mean(dtype=np.float64)) / gain
        gain = np.ascontiguousarray(gain, dtype=np.float32)
        is_bad |= ~np.isfinite(gain) | (gain == 0)
        gain[is_bad] = 1
    if detector.defects_path is not None:
        path = detector.defects_path
        if path.suffix.lower() in (*_MRC, *_TIFF):
            is_bad |= _fitted(detector, path, shape, is_eer) != 0
        else:
            is_bad |= read_defect_list(path, shape)
    share = is_bad.mean()
    if share > _MOST_BAD:
        named = " and ".join(str(path) for path in (detector.gain_path, detector.defects_path) if path is not None)
        raise InconsistentDataError(
            f"At most half the pixels may be bad; got {share:.0%} by {named}; check that these are gain and defects."
        )
    return Correction(gain=gain, is_bad=is_bad, filling=Filling.of(is_bad))


def _fitted(detector: Detector, path: Path, shape: tuple[int, int], is_eer: bool) -> NDArray:
    """Return an image of the detector on the frames' pixels; of EER movies also from coarser or finer ones."""
    image = detector.oriented(_read(path))
    if is_eer and image.shape != shape:
        if shape == (2 * image.shape[0], 2 * image.shape[1]):
            image = image.repeat(2, axis=0).repeat(2, axis=1)
        elif image.shape == (2 * shape[0], 2 * shape[1]):
            image = image.reshape(shape[0], 2, shape[1], 2).mean(axis=(1, 3))
    if image.shape != shape:
        turned = "; transpose it" if image.shape == shape[::-1] else "; take the one of this detector"
        raise _Unfitting(
            f"{path} must have the sides {shape[1]} × {shape[0]} of the frames of",
            f"; got {image.shape[1]} × {image.shape[0]}{turned}.",
        )
    return image


def _read(path: Path) -> NDArray:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path} must be a gain reference or a map of defects; got no such file; check the path.")
    if suffix in _MRC:
        return mrc.read_image(path)
    if suffix not in (*_TIFF, _EPU):
        raise InputError(
            f"A gain reference must be one of {', '.join((*_MRC, *_TIFF, _EPU))}; got {path.name}; convert it first."
        )
    try:
        with tifffile.TiffFile(path) as file:
            image = np.asarray(file.pages.first.asarray())
    except (tifffile.TiffFileError, OSError, ValueError, RuntimeError) as error:
        raise FormatError(path, expected="a TIFF image", found=f"a broken file ({error})") from error
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise FormatError(path, expected="grey values (y, x)", found=f"{image.dtype} of shape {image.shape}")
    # rows of TIFF movies and their gains are read from the last, see `halfmap.io.frames`; EPU's belong to EER movies
    return image if suffix == _EPU else image[::-1]


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file, by which a changed one is told; None without file."""
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _rings(radius: int) -> tuple[NDArray[np.int64], ...]:
    """Return the steps (y, x) of lengths above radius − 1 up to radius, those of one length together, nearest first."""
    axis = np.arange(-radius, radius + 1)
    steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (steps**2).sum(axis=1)
    return tuple(steps[squared == length] for length in np.unique(squared) if (radius - 1) ** 2 < length <= radius**2)
