"""The raw movies of tilts in `halfmap population refine`: aligned by the particles, and averaged anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SourceItem
from halfmap.errors import ComputeError, FormatError, InputError
from halfmap.io import mrc
from halfmap.io.warp_series import SeriesSizes, read_series, write_series
from halfmap.jobs.population_images import frames_of_tilt, tilt_image_paths, tilt_movie_paths
from halfmap.jobs.population_members import OpenSource
from halfmap.multiparticle.refine import SeriesResult, SpeciesProblem
from halfmap.multiparticle.tilt_movies import align_tilt_movie

_FEWEST_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class AlignedMovie:
    """What became of the movie of a tilt.

    Parameters
    ----------
    tilt : its number in the series.
    gain : log-likelihood gained by the movement of its frames; 0 where they stay as they were.
    reason : why they do; empty where they moved.
    """

    tilt: int
    gain: float
    reason: str


def why_no_movies(opened: OpenSource, item: SourceItem, series: TiltSeries) -> str | None:
    """Return why an item's tilts have no movies to align; None where all have some."""
    try:
        tilt_movie_paths(opened, item, series)
    except FormatError as error:
        return str(error)
    return None


def align_movies(
    opened: OpenSource,
    item: SourceItem,
    series: TiltSeries,
    species: Sequence[SpeciesProblem],
    folder: Path,
    *,
    memory_bytes: float,
    device: str,
) -> tuple[AlignedMovie, ...]:
    """Align the movies of an item's used tilts, and write averages and metadata of those that moved into a folder.

    Parameters
    ----------
    series : refined.
    species : at their refined poses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    averages = tilt_image_paths(opened, item, series)
    found = []
    for tilt, (metadata, raw) in enumerate(tilt_movie_paths(opened, item, series)):
        if not series.is_used[tilt]:
            continue
        header = mrc.read_header(averages[tilt])
        frames = frames_of_tilt(opened, metadata, raw, series.image_size_angstrom[0] / header.shape[2])
        reason = "its movie has one frame" if len(frames) < _FEWEST_FRAMES else ""
        if frames.grid.shape != tuple(header.shape[1:]):
            reason = f"its frames of {frames.grid.shape} px are not of the size of its average, {header.shape[1:]}"
        if reason:
            found.append(AlignedMovie(tilt=tilt, gain=0.0, reason=reason))
            continue
        movie = read_series(metadata, SeriesSizes(image_size_angstrom=series.image_size_angstrom, n_frames=len(frames)))
        assert isinstance(movie, FrameSeries)
        try:
            result, average = align_tilt_movie(
                series, tilt, movie, frames, species, memory_bytes=memory_bytes, device=device
            )
        except (InputError, ComputeError) as error:  # too few particles in this tilt
            found.append(AlignedMovie(tilt=tilt, gain=0.0, reason=str(error)))
            continue
        if result.is_changed:
            assert isinstance(result.series, FrameSeries)
            moved = {name: getattr(result.series, name) for name in ("pyramid_x_angstrom", "pyramid_y_angstrom")}
            write_series(folder / metadata.name, movie.with_values(**moved), base=metadata)
            mrc.write_image(folder / averages[tilt].name, average, frames.grid)
        found.append(AlignedMovie(tilt=tilt, gain=_gain(result), reason=result.reason))
    return tuple(found)


def new_averages(opened: OpenSource, item: SourceItem, series: TiltSeries, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield averages and metadata that `align_movies` wrote into a folder, and what they are to replace."""
    movies = tilt_movie_paths(opened, item, series)
    for average, (metadata, _) in zip(tilt_image_paths(opened, item, series), movies, strict=True):
        for live in (average, metadata):
            if (folder / live.name).is_file():
                yield folder / live.name, live


def _gain(result: SeriesResult) -> float:
    return result.objective_before - result.objective_after if result.is_changed else 0.0
