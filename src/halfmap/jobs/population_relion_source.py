"""Data sources from RELION: tilt series and movies described as Warp would leave them, the data only linked to."""

import re
from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import DataSource, SourceItem
from halfmap.errors import FormatError, InputError
from halfmap.io import star
from halfmap.io.data_hash import data_hash
from halfmap.io.relion_motion import read_corrected_movies
from halfmap.io.relion_paths import resolve_paths
from halfmap.io.relion_tomo import is_tomograms, read_tomograms
from halfmap.io.tomostar import Tomostar, write_tomostar
from halfmap.io.warp_series import write_series
from halfmap.jobs.population_members import OpenSource, why_unusable
from halfmap.jobs.population_sources import FoundItems
from halfmap.multiparticle.linking import root_name

_MOVIES, _TOMOSTARS, _AVERAGES = "frameseries", "tomostar", "average"
_DIMENSIONS = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")


def source_of_relion(
    path: Path,
    folder: Path,
    *,
    project: Path,
    guid: str,
    name: str,
    max_images: int | None,
    only: Sequence[str] | None,
    image_dimensions: str | None = None,
    tomo_dimensions: str | None = None,
) -> tuple[OpenSource, FoundItems]:
    """Make a data source of the tilt series or movies of a RELION project.

    Parameters
    ----------
    path : ``tomograms.star``, or the ``corrected_micrographs.star`` of movies.
    folder : in which metadata, lists of tilts, and links to movies and images are written, as Warp would leave them.
    project : folder from which paths count, or one above it.
    guid, name, max_images, only : as for `halfmap.jobs.population_sources.source_of_settings`.
    image_dimensions, tomo_dimensions : ``XxY`` and ``XxYxZ`` in pixels, where the files do not say them.

    Raises
    ------
    FormatError
        The file is neither, or an image is missing everywhere.
    InputError
        No item can be used.
    """
    is_of_tilts = is_tomograms(star.read(path))
    if is_of_tilts:
        image = dimensions(image_dimensions, 2, "--image-dimensions")
        tomo = dimensions(tomo_dimensions, 3, "--tomo-dimensions")
        read = read_tomograms(
            path,
            project_root=project,
            image_size_pixel=None if image is None else (image[0], image[1]),
            tomo_dimensions_pixel=None if tomo is None else (tomo[0], tomo[1], tomo[2]),
        )
        series: Sequence[TiltSeries | FrameSeries] = read.series
        rejected: Mapping[str, str] = read.rejected
    else:
        movies = read_corrected_movies(path, project_root=project)
        series, rejected = movies.series, movies.rejected
    series = _named(series, only, path)
    found = FoundItems(set_aside=dict(rejected))
    root = _root(path, project, series)
    for one in series:
        _describe(one, root, folder, found)
    if found.series is None:
        first = next(iter(found.set_aside))
        raise InputError(
            f"A source must have an item that can be used; got none in {path}, such as {first}: "
            f"{found.set_aside[first]}; mend the paths, or give another file."
        )
    return OpenSource(
        path=folder / f"{name}.source", source=_source(found, folder, root, guid, name, max_images)
    ), found


def dimensions(text: str | None, n: int, flag: str) -> tuple[int, ...] | None:
    """Read ``4000x4000x2000``.

    Raises
    ------
    InputError
        It is something else.
    """
    if text is None:
        return None
    match = _DIMENSIONS.fullmatch(text.strip().lower())
    sides = tuple(int(side) for side in match.groups() if side is not None) if match else ()
    if len(sides) != n:
        raise InputError(
            f"{flag} must be {'x'.join('XYZ'[:n])} in pixels; got {text!r}; write {'x'.join(['4000'] * n)}."
        )
    return sides


def _named(
    series: Sequence[TiltSeries | FrameSeries], only: Sequence[str] | None, path: Path
) -> Sequence[TiltSeries | FrameSeries]:
    if only is None:
        return series
    wanted = {root_name(one) for one in only}
    missing = sorted(wanted - {one.name for one in series})
    if missing:
        raise InputError(
            f"Items that are named must be in {path}; got none of {', '.join(missing[:5])}; mend the list."
        )
    return [one for one in series if one.name in wanted]


def _root(path: Path, project: Path, series: Sequence[TiltSeries | FrameSeries]) -> Path:
    names = [name for one in series for name in (one.movie_names if isinstance(one, TiltSeries) else [one.movie_name])]
    return resolve_paths(path, project, names) if names else project


def _describe(series: TiltSeries | FrameSeries, root: Path, folder: Path, found: FoundItems) -> None:
    """Write what Warp would leave of a series, and add it to what was found; or set it aside."""
    reason = why_unusable(series)
    if reason is None and isinstance(series, TiltSeries):
        missing = [name for name in series.movie_names if not (root / name).is_file()]
        if not series.movie_names:
            reason = "the file names no images of its tilts; add it by the .settings of Warp instead"
        elif missing:
            reason = f"{len(missing)} of {len(series)} images are missing, such as {root / missing[0]}"
    elif reason is None and isinstance(series, FrameSeries) and not (root / series.movie_name).is_file():
        reason = f"the movie {root / series.movie_name} is missing"
    if reason is not None:
        found.set_aside[series.name] = reason
        return
    if isinstance(series, TiltSeries):
        item = _describe_tilts(series, root, folder, found)
    else:
        movie = (root / series.movie_name).resolve()
        known = series.with_values(further={"DataDirectory": Path(relpath(movie.parent, folder)).as_posix()})
        write_series(folder / f"{series.name}.xml", known)
        item = SourceItem(name=movie.name, hash=data_hash(series.name, movie))
    found.items.append(item)
    found.series = found.series or series


def _describe_tilts(series: TiltSeries, root: Path, folder: Path, found: FoundItems) -> SourceItem:
    """Write metadata and list of a tilt series, and links to its images and to the movies that are there."""
    images = [(root / name).resolve() for name in series.movie_names]
    named = series.further.get("rlnMicrographMovieName", ())
    movies = [(root / str(name)).resolve() for name in named] if len(named) == len(images) else images
    for movie, image in zip(movies, images, strict=True):
        _link(folder / _MOVIES / _AVERAGES / f"{movie.stem}.mrc", image)
        if movie != image and movie.is_file():
            _link(folder / _MOVIES / movie.name, movie)
    names = tuple(f"../{_MOVIES}/{movie.name}" for movie in movies)
    tilts = Tomostar(
        movie_names=names,
        tilt_angle_degrees=series.tilt_angle_degrees,
        axis_angle_degrees=series.axis_angle_degrees,
        dose_e_per_angstrom2=series.dose_e_per_angstrom2,
        axis_offset_angstrom=series.axis_offset_angstrom,
    )
    table = folder / _TOMOSTARS / f"{series.name}.tomostar"
    write_tomostar(table, tilts)
    known = series.with_values(movie_names=names, further={"DataDirectory": _TOMOSTARS})
    write_series(folder / f"{series.name}.xml", known)
    is_there = movies[0] != images[0] and movies[0].is_file()
    found.n_of_averages += not is_there
    return SourceItem(name=table.name, hash=data_hash(series.name, movies[0] if is_there else images[0]))


def _source(found: FoundItems, folder: Path, root: Path, guid: str, name: str, max_images: int | None) -> DataSource:
    series = found.series
    assert series is not None
    pixel = series.optics.pixel_size_angstrom
    size = series.volume_size_angstrom if isinstance(series, TiltSeries) else (*series.image_size_angstrom, 0.0)
    x, y, z = (float(round(side / pixel)) for side in size)
    gain = str(series.further.get("rlnMicrographGainName", ""))
    grouping = str(series.further.get("rlnEERGrouping", ""))
    dose = series.dose_e_per_angstrom2
    return DataSource(
        guid=guid,
        name=name,
        pixel_size_angstrom=pixel,
        dimensions_pixel=(x, y, z),
        items=tuple(found.items),
        max_images=-1 if max_images is None else max_images,
        dose_per_frame_e_per_angstrom2=float(dose[1] - dose[0]) if isinstance(series, FrameSeries) else None,
        eer_group_frames=int(grouping) if grouping.isdigit() and int(grouping) > 0 else 10,
        gain_path=Path(relpath((root / gain).resolve(), folder)).as_posix() if gain else "",
    )


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.resolve() == target:
        return
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target)
    except OSError as error:
        raise FormatError(
            path, expected="a file system that can link to files", found=str(error), remedy="use another folder"
        ) from error
