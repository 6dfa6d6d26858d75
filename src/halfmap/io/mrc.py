"""MRC images, maps and stacks: reading by own checks and plain reads, writing by stream and rename."""

import math
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.image_source import Float32Array, checked_indices
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.io import mrc_header
from halfmap.io.atomic import replacing
from halfmap.io.mrc_header import HEADER_BYTES, PACKED_MODE, MrcHeader
from halfmap.io.mrc_values import RunningStatistics, as_stored, read_sections, refuse_complex


def read_header(path: str | Path) -> MrcHeader:
    """Read and check the header of an MRC file: `halfmap.io.mrc_header.read_header`."""
    return mrc_header.read_header(path)


def map_data(path: str | Path) -> NDArray[Any]:
    """Map the values of an MRC file into memory, without reading them.

    Parameters
    ----------
    path : the file.

    Returns
    -------
    Read-only view in the file's own type and byte order, shape (z, y, x), or (n, y, x) for a stack, also
    where the file stores its axes in another order. Mode 101 is unpacked, so it is read (uint8).

    Raises
    ------
    FormatError
        The file is truncated, is no MRC file, or is of a mode that is not read.
    """
    header = read_header(path)
    if header.mode == PACKED_MODE:
        stored = read_sections(header, np.arange(header.stored_shape[0]))
    else:
        stored = np.memmap(
            header.path, dtype=header.dtype, mode="r", offset=header.data_offset, shape=header.stored_shape
        )
    return stored.transpose(header.storage_axes)


def read_image(path: str | Path, index: int | None = None) -> Float32Array:
    """Read one image as float32.

    Parameters
    ----------
    path : the file.
    index : 0-based number of the image in a stack; None for a file with a single image.

    Returns
    -------
    Shape (y, x).

    Raises
    ------
    FormatError
        The file holds several images and no index was given, or holds complex values, or is broken.
    InputError
        The file has no image of that number.
    """
    header = read_header(path)
    n_images = header.shape[0]
    if index is None and n_images != 1:
        raise FormatError(
            path, expected="a single image", found=f"{n_images} sections", remedy="name one as 000001@file, or average"
        )
    refuse_complex(header)
    index = 0 if index is None else index
    if not 0 <= index < n_images:
        raise InputError(f"The image number in {path} must be 0 to {n_images - 1}; got {index}; choose another.")
    if header.storage_axes[0] == 0:
        stored = read_sections(header, np.array([index]))
        values = stored.transpose(header.storage_axes)[0]
    else:
        values = map_data(path)[index]
    return np.ascontiguousarray(values, dtype=np.float32)


def read_volume(path: str | Path, pixel_size_angstrom: float | None = None) -> Volume:
    """Read a map as float32 in the order (z, y, x), with its grid.

    The cell's start and origin are left in the header: halfmap measures from the centre voxel.

    Parameters
    ----------
    path : the file.
    pixel_size_angstrom : overrides the header's.

    Raises
    ------
    InputError
        The header has no pixel size and none was given.
    FormatError
        The file holds complex values, several volumes, a single section, a skewed cell, or voxels that
        are not cubes while no pixel size was given; or it is a stack of images, named .mrcs; or it is broken.
    """
    import torch  # here, so that reading images need not wait for it

    header = read_header(path)
    refuse_complex(header)
    _check_is_one_volume(header)
    if pixel_size_angstrom is None:
        pixel_size_angstrom = _volume_pixel_size(header)
    grid = ImageGrid(shape=header.shape, pixel_size_angstrom=pixel_size_angstrom)
    values = np.array(map_data(path), dtype=np.float32, order="C")
    return Volume(values=torch.from_numpy(values), grid=grid)


def write_volume(path: str | Path, volume: Volume, *, float16: bool = False) -> None:
    """Write a map: mode 2, or 12 for float16, space group 1, cell and statistics; by rename when complete.

    Raises
    ------
    InputError
        A value is too large for float16.
    ProjectError
        The file cannot be written.
    """
    values = volume.values.detach().cpu().numpy()
    _write_whole(path, values, volume.grid.pixel_size_angstrom, float16=float16, is_volume=True)


def write_image(path: str | Path, image: ArrayLike, grid: ImageGrid, *, float16: bool = False) -> None:
    """Write one image: mode 2, or 12 for float16, space group 0, cell and statistics; by rename when complete.

    Parameters
    ----------
    path : the file.
    image : shape (y, x).
    grid : its sides and pixel size.
    float16 : write half precision.

    Raises
    ------
    ShapeError
        The image has other sides than the grid.
    InputError
        A value is too large for float16.
    ProjectError
        The file cannot be written.
    """
    values = np.asarray(image)
    if values.shape != grid.shape:
        raise ShapeError(f"The image must have the sides of its grid {grid.shape}; got shape {values.shape}.")
    _write_whole(path, values[np.newaxis], grid.pixel_size_angstrom, float16=float16, is_volume=False)


_WRITTEN_AT_ONCE = 2**20  # larger writes cost the kernel several times more for each byte


class StackWriter:
    """Write a stack of images block by block, in bounded memory.

    The file appears under its name when the ``with`` block ends well, with the statistics of all its
    values in the header, and not at all when the block raises.

    Parameters
    ----------
    path : the file, by custom ``.mrcs``.
    grid : sides and pixel size of the images.
    n_images : how many images will be written; None if that is not known beforehand.
    float16 : write half precision (mode 12) instead of float32 (mode 2).

    Raises
    ------
    ShapeError
        A block has other sides than the grid.
    InputError
        A value is too large for float16.
    InconsistentDataError
        Another number of images than ``n_images`` was written.
    ProjectError
        The file cannot be written.

    Notes
    -----
    Mean and rms are those of all values together, from blockwise sums in float64 that are combined by
    the update of Chan, Golub and LeVeque (1983); RELION writes the mean of means.
    """

    def __init__(
        self, path: str | Path, grid: ImageGrid, n_images: int | None = None, *, float16: bool = False
    ) -> None:
        if grid.ndim != 2:
            raise ShapeError(f"A stack's grid must have two sides; got {grid.shape}.")
        self.path = Path(path)
        self.grid = grid
        self.n_images = n_images
        self.n_written = 0
        self._float16 = float16
        self._statistics = RunningStatistics()
        self._closing = ExitStack()
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> "StackWriter":
        """Open the temporary file."""
        temporary = self._closing.enter_context(replacing(self.path, synchronise=False))
        self._stream = self._closing.enter_context(open(temporary, "wb"))
        self._stream.write(bytes(HEADER_BYTES))
        return self

    def write(self, images: ArrayLike) -> None:
        """Append images, shape (n, y, x) or (y, x).

        Raises
        ------
        InputError
            The writer is not open, or a value is too large for float16.
        ShapeError
            The images have other sides than the grid.
        """
        if self._stream is None:
            raise InputError(f"The writer of {self.path} must be open; got a closed one; enter it by 'with' first.")
        values = np.asarray(images)
        values = values[np.newaxis] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[1:] != self.grid.shape:
            sides = ", ".join(map(str, self.grid.shape))
            raise ShapeError(f"Images written to {self.path} must have shape (n, {sides}); got {values.shape}.")
        stored = as_stored(self.path, values, self._float16)
        self._statistics.add(stored)
        octets = stored.data.cast("B")
        for start in range(0, len(octets), _WRITTEN_AT_ONCE):
            self._stream.write(octets[start : start + _WRITTEN_AT_ONCE])
        self.n_written += len(values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the header and give the file its name, or remove it after an error."""
        with self._closing as closing:
            if error is not None:
                closing.__exit__(kind, error, trace)
                return
            if self.n_images is not None and self.n_written != self.n_images:
                raise InconsistentDataError(
                    f"{self.path} must get the {self.n_images} images announced; got {self.n_written}; "
                    "announce as many as are written."
                )
            if self.n_written == 0:
                raise InputError(f"{self.path} must get at least one image; got none; write no stack then.")
            assert self._stream is not None
            self._stream.seek(0)
            self._stream.write(
                mrc_header.new_header(
                    (self.n_written, self.grid.shape[0], self.grid.shape[1]),
                    self.grid.pixel_size_angstrom,
                    float16=self._float16,
                    is_volume=False,
                    statistics=self._statistics.as_tuple(),
                )
            )
            self._stream.flush()


class StackSource:
    """An `ImageSource` over RELION's image names, ``000123@stack.mrcs`` or the name of a single image.

    All files are checked when the source is made: that they exist, are complete, hold the images named
    and have images of one size. Nothing stays open, and only what is asked for is read, file by file.

    Parameters
    ----------
    image_names : one name an image; numbers in names are 1-based.
    root : the folder that relative paths start from.
    grid : sides and pixel size; None takes them from the files.

    Raises
    ------
    InputError
        A file is missing, a name cannot be parsed, a number lies beyond its stack, or neither grid nor
        header gives the pixel size.
    FormatError
        A file is truncated or no MRC file.
    InconsistentDataError
        The files' images differ in size, or from the grid's; or, without a grid, in pixel size.
    """

    def __init__(self, image_names: ArrayLike, root: str | Path = ".", grid: ImageGrid | None = None) -> None:
        names = [str(name) for name in np.asarray(image_names, dtype=object).ravel()]
        if not names:
            raise InputError("An image source must have at least one image; got none; check the selection.")
        numbers: dict[str, int] = {}
        self._file_of = np.empty(len(names), dtype=np.int32)
        self._section_of = np.empty(len(names), dtype=np.int64)
        for place, name in enumerate(names):
            section, file_name = split_image_name(name)
            self._file_of[place] = numbers.setdefault(file_name, len(numbers))
            self._section_of[place] = section
        self._headers = [read_header(Path(root) / file_name) for file_name in numbers]
        self._check_sections(names)
        self.grid = self._common_grid(grid)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._file_of)

    def read(self, indices: ArrayLike) -> Float32Array:
        """Return images by their 0-based numbers, in the order asked for, shape (n, y, x).

        Raises
        ------
        InputError
            A number is not an integer in ``0 … len - 1``.
        FormatError
            A file has become shorter since the source was made.
        """
        wanted = checked_indices(indices, len(self))
        images = np.empty((len(wanted), *self.grid.shape), dtype=np.float32)
        by_file = np.lexsort((self._section_of[wanted], self._file_of[wanted]))
        files = self._file_of[wanted][by_file]
        for places in np.split(by_file, np.flatnonzero(np.diff(files)) + 1):
            if len(places):
                header = self._headers[self._file_of[wanted[places[0]]]]
                sections, copies = np.unique(self._section_of[wanted[places]], return_inverse=True)
                images[places] = read_sections(header, sections)[copies]
        return images

    def _check_sections(self, names: list[str]) -> None:
        for number, header in enumerate(self._headers):
            refuse_complex(header)
            if header.axis_order != (1, 2, 3):
                raise FormatError(
                    header.path,
                    expected="a stack stored by columns, rows and sections",
                    found=f"the axis order {header.axis_order}",
                    remedy="write the stack again with its axes as x, y and image",
                )
            mine = np.flatnonzero(self._file_of == number)
            beyond = mine[self._section_of[mine] >= header.shape[0]]
            if len(beyond):
                raise InputError(
                    f"{names[beyond[0]]} must be one of the {header.shape[0]} images of {header.path}; got a number "
                    f"beyond the stack ({len(beyond)} such names); check that the STAR file belongs to the stack."
                )

    def _common_grid(self, grid: ImageGrid | None) -> ImageGrid:
        shape = grid.shape if grid is not None else self._headers[0].shape[1:]
        source = "the optics table" if grid is not None else str(self._headers[0].path)
        for header in self._headers:
            if header.shape[1:] != shape:
                raise InconsistentDataError(
                    f"Images of {header.path} must be {shape[1]} × {shape[0]} pixels as in {source}; "
                    f"got {header.shape[2]} × {header.shape[1]}; read each image size as a source of its own."
                )
        if grid is not None:
            return grid
        sizes = {header.pixel_size_angstrom for header in self._headers}
        if len(sizes) > 1:
            raise InconsistentDataError(
                f"Stacks read together must have one pixel size; got {sorted(map(str, sizes))} Å; give the grid."
            )
        return ImageGrid(shape=shape, pixel_size_angstrom=_known(sizes.pop(), self._headers[0].path))


def _write_whole(
    path: str | Path, values: NDArray[Any], pixel_size_angstrom: float, *, float16: bool, is_volume: bool
) -> None:
    stored = as_stored(path, values, float16)
    statistics = RunningStatistics()
    statistics.add(stored)
    n_sections, n_rows, n_columns = stored.shape
    header = mrc_header.new_header(
        (n_sections, n_rows, n_columns),
        pixel_size_angstrom,
        float16=float16,
        is_volume=is_volume,
        statistics=statistics.as_tuple(),
    )
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(header)
        stream.write(stored.data)


def split_image_name(name: str) -> tuple[int, str]:
    """Return the 0-based section and the file of ``000123@file``, or of the name of a single image.

    Raises
    ------
    InputError
        What stands before the ``@`` is no number from 1.
    """
    number, at, file_name = name.rpartition("@")
    if not at:
        return 0, name
    if not number.isdecimal() or int(number) < 1 or not file_name:
        raise InputError(
            f"An image name must be written as 000001@stack.mrcs, counted from 1; got {name!r}; mend the name."
        )
    return int(number) - 1, file_name


def _check_is_one_volume(header: MrcHeader) -> None:
    if Path(header.path).suffix.lower() == ".mrcs":  # headers of stacks and of many maps are alike
        raise FormatError(
            header.path, expected="a volume", found="a stack of images, as .mrcs names them", remedy="give a map"
        )
    if header.space_group >= 401 and 0 < header.sampling[2] < header.shape[0]:
        raise FormatError(
            header.path,
            expected="one volume",
            found=f"{header.shape[0] // header.sampling[2]} volumes (space group {header.space_group})",
            remedy="split the file into single volumes",
        )
    if min(header.shape) < 2:
        raise FormatError(
            header.path, expected="a volume", found=f"a single section of {header.shape[1:]}", remedy="give a map"
        )
    if any(angle > 0 and abs(angle - 90) > 0.01 for angle in header.cell_angles_degrees):
        raise FormatError(
            header.path,
            expected="a cell with right angles",
            found="angles of " + ", ".join(f"{angle:g}°" for angle in header.cell_angles_degrees),
            remedy="resample the map onto a cubic grid in the program that made it",
        )


def _volume_pixel_size(header: MrcHeader) -> float:
    sizes = header.voxel_size_angstrom
    is_sampled_along_z = header.sampling[2] > 1 and header.cell_angstrom[2] > 0
    compared = sizes if sizes is None or is_sampled_along_z else sizes[:2]
    if compared is not None and not all(math.isclose(size, compared[0], rel_tol=1e-3) for size in compared):
        raise FormatError(
            header.path,
            expected="voxels that are cubes",
            found="sides of " + " × ".join(f"{size:g}" for size in compared) + " Å",
            remedy="resample the map onto a cubic grid, or state the one pixel size it has",
        )
    return _known(compared[0] if compared is not None else None, header.path)


def _known(pixel_size_angstrom: float | None, path: Path) -> float:
    if pixel_size_angstrom is None:
        raise InputError(f"{path} must have a pixel size; got none in its header; state it beside the file.")
    return pixel_size_angstrom
