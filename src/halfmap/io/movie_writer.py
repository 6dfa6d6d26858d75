"""Raw movies as detectors write them, frame by frame in bounded memory."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io.atomic import replacing
from halfmap.io.mrc import StackWriter

UNITS_OF_TIFF = 16
"""By which values are multiplied before they are rounded to whole numbers in a TIFF movie."""


def write_movie(path: str | Path, frames: Iterable[NDArray[np.float32]], grid: ImageGrid) -> None:
    """Write a movie.

    Parameters
    ----------
    path : ``.mrc``, in half precision, or ``.tif``, in whole numbers of a sixteenth.
    frames : one after the other, shape (y, x).
    grid : of the frames.

    Raises
    ------
    InputError
        The name ends otherwise, or a value is too large.

    Notes
    -----
    In TIFF files the last row is stored first, as `halfmap.io.frames.open_movie` reads them.
    """
    path = Path(path)
    if path.suffix == ".mrc":
        with StackWriter(path, grid, float16=True) as writer:
            for frame in frames:
                writer.write(frame)
    elif path.suffix == ".tif":
        with replacing(path) as temporary, tifffile.TiffWriter(temporary) as file:
            for frame in frames:
                file.write(_whole(path, frame)[::-1], contiguous=False, compression="zlib")
    else:
        raise InputError(f"A movie must be written as .mrc or .tif; got {path.name}; choose one of them.")


def _whole(path: Path, frame: NDArray[np.float32]) -> NDArray[np.int16]:
    values = np.rint(frame * UNITS_OF_TIFF)
    if np.abs(values).max() > np.iinfo(np.int16).max:
        raise InputError(
            f"Values of {path.name} must be at most {np.iinfo(np.int16).max / UNITS_OF_TIFF:g}; got "
            f"{np.abs(frame).max():g}; write it as .mrc."
        )
    return values.astype(np.int16)
