"""Micrographs by suffix: MRC, PNG, JPEG and TIFF."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from imagecodecs import DelayedImportError
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from halfmap.data.image_source import Float32Array
from halfmap.errors import FormatError, InputError, ShapeError
from halfmap.io import mrc
from halfmap.io.atomic import replacing

_LUMINANCE = (0.299, 0.587, 0.114)


def read_micrograph(path: str | Path) -> Float32Array:
    """Read one image as float32, in the file's own grey values.

    Parameters
    ----------
    path : ``.mrc``, ``.mrcs``, ``.map``, ``.rec``, ``.st``, ``.png``, ``.jpg``, ``.jpeg``, ``.tif`` or ``.tiff``
        with a single image.

    Returns
    -------
    Shape (y, x): pixel (0, 0) is the first pixel stored, y grows with the stored row. An orientation
    noted in the file is left alone, since coordinates refer to pixels as stored. Colours become their
    luminance; an alpha channel is dropped.

    Raises
    ------
    InputError
        There is no such file, or its suffix is none of these.
    FormatError
        The file is broken, or holds several images.
    """
    path = Path(path)
    return _reader(path)(path)


def shape_and_pixel_size(path: str | Path) -> tuple[tuple[int, int], float | None]:
    """Look at a micrograph's header.

    Returns
    -------
    shape : (y, x).
    pixel_size_angstrom : None where the file does not say.

    Raises
    ------
    InputError, FormatError
        As `read_micrograph`, a file too short for its header included.
    """
    path = Path(path)
    reader = _reader(path)
    if reader is mrc.read_image:
        header = mrc.read_header(path)
        n_sections, *shape = header.shape
        if n_sections != 1:
            raise FormatError(path, expected="a single image", found=f"{n_sections} sections", remedy="average them")
        return (shape[0], shape[1]), header.pixel_size_angstrom
    if reader is _read_tiff:
        with _tiff(path) as file:
            page = file.pages.first
            return (page.imagelength, page.imagewidth), None
    opener, kind = (PngImageFile, "a PNG image") if reader is _read_png else (JpegImageFile, "a JPEG image")
    with _picture(path, opener, kind) as picture:
        return (picture.height, picture.width), None


def _reader(path: Path) -> Callable[[Path], Float32Array]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"A micrograph must be one of {', '.join(_READERS)}; got {path.name}; convert it to one of them."
        )
    if not path.is_file():
        raise InputError(f"{path} must be a micrograph; got no such file; check the path.")
    return reader


def write_png(path: str | Path, image: ArrayLike) -> None:
    """Write an 8-bit picture, row 0 first; by rename when complete.

    Parameters
    ----------
    path : the file.
    image : uint8, shape (y, x) or (y, x, 3).

    Raises
    ------
    ShapeError
        The image has another shape or type.
    ProjectError
        The file cannot be written.
    """
    values = np.asarray(image)
    if values.dtype != np.uint8 or values.shape[2:] not in ((), (3,)) or values.ndim < 2:
        raise ShapeError(
            f"A PNG must be uint8 of shape (y, x) or (y, x, 3); got {values.dtype} of shape {values.shape}; "
            "scale the grey values to 0 to 255 first."
        )
    with replacing(path) as temporary:
        Image.fromarray(values).save(temporary, format="png")


def _read_png(path: Path) -> Float32Array:
    return _read_picture(path, PngImageFile, "a PNG image")


def _read_jpeg(path: Path) -> Float32Array:
    return _read_picture(path, JpegImageFile, "a JPEG image")


def _read_picture(path: Path, opener: Callable[..., Image.Image], kind: str) -> Float32Array:
    with _picture(path, opener, kind) as picture:
        picture.load()
        values = np.asarray(picture.convert("RGB") if picture.mode in ("P", "PA", "CMYK", "YCbCr") else picture)
    return _grey(path, values * np.uint8(255) if values.dtype == bool else values)


@contextmanager
def _picture(path: Path, opener: Callable[..., Image.Image], kind: str) -> Iterator[Image.Image]:
    """Open with one plugin: `PIL.Image.open` takes large micrographs for an attack."""
    try:
        with opener(path) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _broken(path, kind, error) from error


def _read_tiff(path: Path) -> Float32Array:
    with _tiff(path) as file:
        values = file.asarray()
    return _grey(path, values)


@contextmanager
def _tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise FormatError(
                    path,
                    expected="a single image",
                    found=f"{len(file.pages)} frames",
                    remedy="average the frames into a micrograph first",
                )
            yield file
    except (tifffile.TiffFileError, DelayedImportError, OSError, ValueError, RuntimeError) as error:
        raise _broken(path, "a TIFF image", error) from error


def _broken(path: Path, kind: str, error: Exception) -> FormatError:
    return FormatError(path, expected=kind, found=f"a broken file ({error})", remedy="copy or write it again")


def _grey(path: Path, values: NDArray[Any]) -> Float32Array:
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = values[:, :, :-1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 3 and values.shape[2] == 3:
        if (values == values[:, :, :1]).all():
            values = values[:, :, 0]
        else:
            values = values.astype(np.float32) @ np.asarray(_LUMINANCE, dtype=np.float32)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise FormatError(
            path,
            expected="real grey values of shape (y, x)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="convert the file to 8-bit grey",
        )
    return np.ascontiguousarray(values, dtype=np.float32)


_READERS: dict[str, Callable[[Path], Float32Array]] = {
    **dict.fromkeys((".mrc", ".mrcs", ".map", ".rec", ".st"), mrc.read_image),
    ".png": _read_png,
    **dict.fromkeys((".jpg", ".jpeg"), _read_jpeg),
    **dict.fromkeys((".tif", ".tiff"), _read_tiff),
}
MICROGRAPH_SUFFIXES = tuple(_READERS)
