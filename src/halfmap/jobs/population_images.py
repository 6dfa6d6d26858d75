"""The images of a source's items: averages of tilts, or frames of movies."""

from collections.abc import Sequence
from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import DataSource, SourceItem
from halfmap.errors import FormatError, HalfmapError, InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, tomostar
from halfmap.io.detector import Detector
from halfmap.io.eer import EerGrouping
from halfmap.io.frames import open_movie
from halfmap.io.warp_settings import WarpSettings, read_settings
from halfmap.jobs.population_members import OpenSource, why_unusable

_TOMOSTARS = "../tomostar"
_SAME_SIZE = 0.01


def images_of_item(
    opened: OpenSource, item: SourceItem, series: TiltSeries | FrameSeries, newer: Path | None = None
) -> ImageSource:
    """Return the images of an item, one for each entry of its series, as recorded.

    Parameters
    ----------
    newer : a folder with images of some tilts, which go before those in use.

    Raises
    ------
    FormatError, InputError
        One is missing or broken.
    InconsistentDataError
        They are of another size than the metadata say, or not as many.
    """
    images = _tilts(opened, item, series, newer) if isinstance(series, TiltSeries) else _frames(opened, item, series)
    if len(images) < len(series):
        raise InconsistentDataError(
            f"{item.name} must have an image for each of {len(series)} entries of its metadata; got {len(images)}; "
            "process it again, or give the grouping of its frames."
        )
    for side, size in zip(reversed(images.grid.shape), series.image_size_angstrom, strict=True):
        if abs(side * images.grid.pixel_size_angstrom / size - 1) > _SAME_SIZE:
            raise InconsistentDataError(
                f"Images of {item.name} must be {size:g} Å wide as its metadata say; got {side} px of "
                f"{images.grid.pixel_size_angstrom:g} Å; check pixel sizes and binning."
            )
    return images


def image_grid(series: TiltSeries | FrameSeries) -> ImageGrid:
    """Return the grid of an item's images, by its metadata alone."""
    pixel = series.optics.pixel_size_angstrom
    x, y = (round(size / pixel) for size in series.image_size_angstrom)
    return ImageGrid(shape=(y, x), pixel_size_angstrom=pixel)


def why_broken(opened: OpenSource, item: SourceItem) -> str | None:
    """Return why an item cannot be used, by its metadata and what headers of its images say; None where it can."""
    try:
        series = opened.read_item(item)
        images_of_item(opened, item, series)
    except HalfmapError as error:
        return str(error)
    return why_unusable(series)


def tilt_image_paths(opened: OpenSource, item: SourceItem, series: TiltSeries) -> list[Path]:
    """Return where the aligned image of each tilt of an item should be."""
    table, names = _movie_names(opened, item, series)
    return [tomostar.average_path(table, name) for name in names]


def tilt_movie_paths(opened: OpenSource, item: SourceItem, series: TiltSeries) -> list[tuple[Path, Path]]:
    """Return of each tilt of an item where the movie's metadata and its raw frames are.

    Raises
    ------
    FormatError
        One has none.
    """
    table, names = _movie_names(opened, item, series)
    found = []
    for name in names:
        average = tomostar.average_path(table, name)
        metadata = average.parents[1] / f"{average.stem}.xml"
        if not metadata.is_file():
            raise FormatError(metadata, expected="metadata of a tilt's movie", found="none", remedy="align it first")
        found.append((metadata, tomostar.raw_movie_path(table, name)))
    return found


def _movie_names(opened: OpenSource, item: SourceItem, series: TiltSeries) -> tuple[Path, Sequence[str]]:
    folders = [_data_folder(opened, series), opened.path.parent / _TOMOSTARS]
    table = next((folder / item.name for folder in folders if (folder / item.name).is_file()), folders[0] / item.name)
    return table, series.movie_names or tomostar.read_tomostar(table).movie_names


def _tilts(opened: OpenSource, item: SourceItem, series: TiltSeries, newer: Path | None) -> ImageSource:
    paths = tilt_image_paths(opened, item, series)
    if newer is not None:
        paths = [newer / path.name if (newer / path.name).is_file() else path for path in paths]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FormatError(
            opened.metadata_path(item),
            expected=f"an aligned image of each tilt, such as {missing[0]}",
            found=f"none for {len(missing)} of {len(paths)}",
            remedy="put them there, or align the movies first",
        )
    header = mrc.read_header(paths[0])
    if header.pixel_size_angstrom is not None:
        return mrc.StackSource([str(path) for path in paths])
    shape = (header.shape[1], header.shape[2])
    grid = ImageGrid(shape=shape, pixel_size_angstrom=series.image_size_angstrom[0] / shape[1])
    return mrc.StackSource([str(path) for path in paths], grid=grid)


def _frames(opened: OpenSource, item: SourceItem, series: FrameSeries) -> ImageSource:
    path = _data_folder(opened, series) / item.name
    # raw frames have the pixels of the source, the CTF of Warp those of images that it has binned
    return _movie(path, opened.source.pixel_size_angstrom, opened.source, opened.path.parent)


def frames_of_tilt(opened: OpenSource, metadata: Path, path: Path, pixel_size_angstrom: float) -> ImageSource:
    """Return the raw frames of a tilt, corrected for the detector.

    Parameters
    ----------
    metadata : of the tilt's movie. Settings of Warp that have it processed where it lies tell the gain, defects and
        grouping of frames; without such it is the source that tells.
    path : of the movie.
    """
    folder = metadata.parent.resolve()
    for found in sorted((*folder.parent.glob("*.settings"), *folder.glob("*.settings"))):
        settings = read_settings(found)
        if settings.processing_path(found).resolve() == folder:
            return _movie(path, pixel_size_angstrom, settings, found.parent)
    return _movie(path, pixel_size_angstrom, opened.source, opened.path.parent)


def _movie(path: Path, pixel_size_angstrom: float, told: DataSource | WarpSettings, folder: Path) -> ImageSource:
    """Return the frames of a movie, corrected as a source or settings in a folder tell."""
    detector = Detector(
        gain_path=_beside(folder, told.gain_path),
        gain_flip_x=told.gain_flip_x,
        gain_flip_y=told.gain_flip_y,
        gain_transpose=told.gain_transpose,
        defects_path=_beside(folder, told.defects_path),
    )
    return open_movie(
        path,
        pixel_size_angstrom=pixel_size_angstrom,
        detector=detector,
        eer=EerGrouping(frames_per_fraction=told.eer_group_frames),
    )


def _data_folder(opened: OpenSource, series: TiltSeries | FrameSeries) -> Path:
    return opened.path.parent / str(series.further.get("DataDirectory", "")).replace("\\", "/")


def _beside(folder: Path, name: str) -> Path | None:
    return folder / name.replace("\\", "/") if name else None
