"""The images of a source's items: averages of tilts, or frames of movies."""

from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import SourceItem
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, tomostar
from halfmap.io.detector import Detector
from halfmap.io.eer import EerGrouping
from halfmap.io.frames import open_movie
from halfmap.jobs.population_members import OpenSource

_TOMOSTARS = "../tomostar"
_SAME_SIZE = 0.01


def images_of_item(opened: OpenSource, item: SourceItem, series: TiltSeries | FrameSeries) -> ImageSource:
    """Return the images of an item, one for each entry of its series, as recorded.

    Raises
    ------
    FormatError, InputError
        One is missing or broken.
    InconsistentDataError
        They are of another size than the metadata say, or not as many.
    """
    images = _tilts(opened, item, series) if isinstance(series, TiltSeries) else _frames(opened, item, series)
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


def tilt_image_paths(opened: OpenSource, item: SourceItem, series: TiltSeries) -> list[Path]:
    """Return where the aligned image of each tilt of an item should be."""
    folders = [_data_folder(opened, series), opened.path.parent / _TOMOSTARS]
    table = next((folder / item.name for folder in folders if (folder / item.name).is_file()), folders[0] / item.name)
    names = series.movie_names or tomostar.read_tomostar(table).movie_names
    return [tomostar.average_path(table, name) for name in names]


def _tilts(opened: OpenSource, item: SourceItem, series: TiltSeries) -> ImageSource:
    paths = tilt_image_paths(opened, item, series)
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
    source = opened.source
    detector = Detector(
        gain_path=_beside(opened, source.gain_path),
        gain_flip_x=source.gain_flip_x,
        gain_flip_y=source.gain_flip_y,
        gain_transpose=source.gain_transpose,
        defects_path=_beside(opened, source.defects_path),
    )
    return open_movie(
        _data_folder(opened, series) / item.name,
        pixel_size_angstrom=series.optics.pixel_size_angstrom,
        detector=detector,
        eer=EerGrouping(frames_per_fraction=source.eer_group_frames),
    )


def _data_folder(opened: OpenSource, series: TiltSeries | FrameSeries) -> Path:
    return opened.path.parent / str(series.further.get("DataDirectory", "")).replace("\\", "/")


def _beside(opened: OpenSource, name: str) -> Path | None:
    return opened.path.parent / name.replace("\\", "/") if name else None
