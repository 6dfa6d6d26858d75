"""Data sources: made from the settings of a Warp project, and brought to new versions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os.path import relpath
from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import DataSource, SourceItem
from halfmap.errors import FormatError, HalfmapError, InputError
from halfmap.io import tomostar, warp_population
from halfmap.io.data_hash import data_hash, version_of_source
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.io.warp_settings import WarpSettings, read_settings
from halfmap.jobs.population_members import OpenSource, why_not_used, why_unusable
from halfmap.multiparticle.linking import root_name

_TOMOSTAR = ".tomostar"


@dataclass(kw_only=True, eq=False)
class FoundItems:
    """What the folder of a Warp project holds.

    Parameters
    ----------
    items : that pass.
    series : one of them, for what all have in common.
    not_used : root name → why, of those that were filtered out or deselected.
    set_aside : root name → why, of those that cannot be used.
    n_taken_in : of ``items``, how many were filtered out or deselected and taken in all the same.
    n_of_averages : of ``items``, how many are known by their motion-corrected image, as the movie is not there.
    """

    items: list[SourceItem] = field(default_factory=list)
    series: TiltSeries | FrameSeries | None = None
    not_used: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    n_taken_in: int = 0
    n_of_averages: int = 0


def source_of_settings(
    path: Path,
    *,
    guid: str,
    name: str,
    max_images: int | None,
    include_unselected: bool,
    only: Sequence[str] | None,
    advance: Callable[[int], None] | None = None,
) -> tuple[OpenSource, FoundItems]:
    """Make a data source of the items of a Warp project that have been processed; nothing is written.

    Parameters
    ----------
    path : the ``.settings`` file.
    guid, name : of the source.
    max_images : frames or tilts of an item to use, by dose; None all.
    include_unselected : take in items that were filtered out or deselected.
    only : names of the items to take; None all.
    advance : called with 1 for every item that was looked at.

    Raises
    ------
    FormatError
        The settings are broken, or the folder holds no item.
    InputError
        No item passes, or one that was named is not there.
    """
    settings = read_settings(path)
    folder = settings.processing_path(path).resolve()
    metadata = sorted(folder.glob("*.xml"))
    if not metadata:
        raise FormatError(
            path,
            expected=f"a processing folder with an .xml file of each item, {folder}",
            found="none there",
            remedy="process the data in Warp first, or mend ProcessingFolder",
        )
    if only is not None:
        wanted = {root_name(one) for one in only}
        missing = sorted(wanted - {one.stem for one in metadata})
        if missing:
            raise InputError(
                f"Items that are named must have metadata in {folder}; got none of {', '.join(missing[:5])}"
                f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; process them, or mend the list."
            )
        metadata = [one for one in metadata if one.stem in wanted]
    found = FoundItems()
    for one in metadata:
        _look_at(one, settings, path, include_unselected, found)
        if advance is not None:
            advance(1)
    if found.series is None:
        reasons = {**found.not_used, **found.set_aside}
        first = next(iter(reasons))
        raise InputError(
            f"A source must have an item that can be used; got none of {len(metadata)} in {folder}, such as {first}: "
            f"{reasons[first]}; see --include-unselected."
        )
    source = DataSource(
        guid=guid,
        name=name,
        pixel_size_angstrom=settings.pixel_size_angstrom,
        dimensions_pixel=_dimensions(found.series, settings),
        items=tuple(found.items),
        max_images=-1 if max_images is None else max_images,
        dose_per_frame_e_per_angstrom2=settings.dose_per_frame_e_per_angstrom2,
        exposure_e_per_angstrom2=settings.exposure_e_per_angstrom2,
        eer_group_frames=settings.eer_group_frames,
        gain_path=_beside(settings.gain_path, path, folder),
        defects_path=_beside(settings.defects_path, path, folder),
        gain_flip_x=settings.gain_flip_x,
        gain_flip_y=settings.gain_flip_y,
        gain_transpose=settings.gain_transpose,
    )
    return OpenSource(path=folder / f"{name}.source", source=source), found


def commit_source(opened: OpenSource, staged: Path, source: DataSource) -> DataSource | None:
    """Make a version of a source and of its items' metadata, staged or as they are, and bring it into use.

    Metadata that cannot be read are kept as they are.

    Returns
    -------
    DataSource
        With its version; None where nothing has changed, and nothing was made.
    """
    files = {item.name: opened.metadata_path(item) for item in source.items}
    metadata = {
        name: _metadata(staged / file.name if (staged / file.name).exists() else file, opened.sizes)
        for name, file in files.items()
    }
    averages = opened.averages
    listed = staged if (staged / averages.name).exists() else opened.path.parent
    marks = [mark] if (mark := averages.mark(listed)) else []
    version = version_of_source([*metadata.values(), *marks], source.used_species)
    before = opened.source.version
    if version == before and opened.versions.has_version(before):
        return None
    items = tuple(_weighed(item, metadata[item.name]) for item in source.items)
    made = replace(source, items=items, version=version, previous_version=before)
    main = staged / opened.path.name
    if opened.path.exists():
        main.write_bytes(opened.path.read_bytes())
    warp_population.write_source(main, made)
    opened.versions.commit(staged, version)
    return made


def _metadata(path: Path, sizes: SeriesSizes) -> TiltSeries | FrameSeries | bytes:
    """Return what a file says of an item; its bytes where it cannot be read, none where it is missing."""
    try:
        return read_series(path, sizes)
    except HalfmapError:
        return path.read_bytes() if path.is_file() else b""


def _weighed(item: SourceItem, metadata: TiltSeries | FrameSeries | bytes) -> SourceItem:
    if isinstance(metadata, bytes):
        return item
    weights = metadata.weights
    return replace(item, weight=weights.series_scale, b_factor_angstrom2=weights.series_b_factor_angstrom2)


def find_known_item(opened: OpenSource, name: str) -> SourceItem:
    """Return an item that an earlier version of a source had.

    Raises
    ------
    InputError
        No version had it.
    """
    for version, _, _ in reversed(opened.versions.history()):
        kept = warp_population.read_source(opened.versions.version_folder(version) / opened.path.name)
        for item in kept.items:
            if root_name(item.name) == root_name(name):
                return item
    raise InputError(
        f"An item to include must have been one of {opened.source.name} before; got {name}, which was in none of its "
        "versions; add it by `halfmap population add-source … --files`, as a source of its own."
    )


def _look_at(metadata: Path, settings: WarpSettings, path: Path, include_unselected: bool, found: FoundItems) -> None:
    """Add one item to those that are used, not used, or set aside."""
    root = metadata.stem
    try:
        series = read_series(metadata, _sizes(settings))
        if not series.is_selected and not include_unselected:
            found.not_used[root] = why_not_used(metadata, _sizes(settings))
            return
        if (reason := why_unusable(series)) is not None:
            found.set_aside[root] = reason
            return
        name, hashed, is_average = _identity(metadata, series, settings, path)
    except HalfmapError as error:
        found.set_aside[root] = str(error)
        return
    found.items.append(SourceItem(name=name, hash=hashed))
    found.series = found.series or series
    found.n_taken_in += not series.is_selected
    found.n_of_averages += is_average


def _identity(
    metadata: Path, series: TiltSeries | FrameSeries, settings: WarpSettings, path: Path
) -> tuple[str, str, bool]:
    """Return an item's name, the hash of its data, and whether that is of its motion-corrected image."""
    folder = settings.data_path(path)
    if isinstance(series, FrameSeries):
        found = [one for one in sorted(folder.glob(f"**/{metadata.stem}.*")) if one.match(settings.extension or "*")]
        if not found:
            raise FormatError(
                metadata,
                expected=f"a movie {metadata.stem} ({settings.extension}) below {folder}",
                found="none",
                remedy="put it there, or mend DataFolder in the settings",
            )
        return found[0].name, data_hash(metadata.stem, found[0]), False
    table = folder / f"{metadata.stem}{_TOMOSTAR}"
    first = tomostar.read_tomostar(table).movie_names[0]
    try:
        return table.name, data_hash(metadata.stem, tomostar.raw_movie_path(table, first)), False
    except FormatError:
        average = tomostar.average_path(table, first)
        if not average.is_file():
            raise
        return table.name, data_hash(metadata.stem, average), True


def _sizes(settings: WarpSettings) -> SeriesSizes:
    x, y, z = (side * settings.pixel_size_angstrom for side in settings.tomo_dimensions_pixel)
    return SeriesSizes(
        volume_size_angstrom=(x, y, z) if x and y and z else None,
        image_size_angstrom=(x, y) if x and y else None,
        dose_per_frame_e_per_angstrom2=settings.dose_per_frame_e_per_angstrom2,
    )


def _dimensions(series: TiltSeries | FrameSeries, settings: WarpSettings) -> tuple[float, float, float]:
    """Return the size of tomograms or images in pixels of the raw data, whole ones."""
    if all(settings.tomo_dimensions_pixel):
        return settings.tomo_dimensions_pixel
    size = series.volume_size_angstrom if isinstance(series, TiltSeries) else (*series.image_size_angstrom, 0.0)
    x, y, z = (float(round(side / settings.pixel_size_angstrom)) for side in size)
    return x, y, z


def _beside(name: str, settings: Path, folder: Path) -> str:
    """Return a file's path relative to a folder, given relative to the settings."""
    if not name:
        return ""
    return Path(relpath((settings.parent / name.replace("\\", "/")).resolve(), folder)).as_posix()
