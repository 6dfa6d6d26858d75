"""The tasks of `halfmap simulate tilt-series` and `frame-series`: one series, from its number to its files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.compute.broadcast import Broadcast
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.grid import ImageGrid
from halfmap.io import warp_series
from halfmap.io.data_hash import data_hash
from halfmap.io.movie_writer import write_movie
from halfmap.io.mrc import write_image
from halfmap.io.tomostar import Tomostar, write_tomostar
from halfmap.simulation.frame_series_truth import draw_frame_series, movie_of_tilt
from halfmap.simulation.micrographs import References
from halfmap.simulation.series_images import AlignedSum, SeenSpecies, displaced, recorded, see
from halfmap.simulation.series_params import (
    FrameSeriesSimulationParams,
    SeriesSimulationParams,
    TiltSeriesSimulationParams,
)
from halfmap.simulation.series_truth import SeriesTruth
from halfmap.simulation.tilt_series_truth import MOVIE_FOLDER, draw_tilt_series

FRAMES, TOMOSTARS, TILT_SERIES, TRUTH = "frames", "tomostar", "warp_tiltseries", "truth"
GAIN = "gain.mrc"

_GAIN_SPREAD = 0.05
_ARRAYS_AT_ONCE = 16
"""Arrays of four bytes a pixel that an image takes while it is made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesTask:
    """One series.

    Parameters
    ----------
    number : from 0; key of its draws.
    folder : of the job, absolute.
    params : the settings.
    references : handle of `References`, one for each species.
    noise_sigma : of a whole image, relative to its mean.
    """

    number: int
    folder: Path
    params: TiltSeriesSimulationParams | FrameSeriesSimulationParams
    references: Broadcast
    noise_sigma: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedSeries:
    """What particles need to know of a series.

    Parameters
    ----------
    name : of the item, as particles have it: ``TS_1.tomostar``, or of the movie.
    hash : of its data.
    mean_count : electrons in a pixel, over all images.
    """

    name: str
    hash: str
    mean_count: float


def simulate_tilt_series(task: SeriesTask) -> SimulatedSeries:
    """Make a tilt series and write its movies, averages, metadata and truth."""
    params = task.params
    assert isinstance(params, TiltSeriesSimulationParams)
    references: References = task.references.load()
    made = draw_tilt_series(task.number, params, references.diameters_angstrom)
    seen = see(made.true, made.species, references.whole)
    means = []
    for tilt in range(len(made.true)):
        movie = movie_of_tilt(made.starting, tilt, task.number, params)
        frames = _frames_of_tilt(made, movie.true, seen, tilt, task)
        means.append(_write_movie(movie, frames, task))
    name = made.starting.name
    tomostar = task.folder / TOMOSTARS / f"{name}.tomostar"
    write_tomostar(tomostar, _tomostar(made.starting, np.array(means)))
    _write_metadata(made, task.folder / TILT_SERIES, task.folder / TRUTH / TILT_SERIES, f"../{TOMOSTARS}")
    first = task.folder / FRAMES / PurePosixPath(made.starting.movie_names[0]).name
    return SimulatedSeries(name=tomostar.name, hash=data_hash(name, first), mean_count=float(np.mean(means)))


def simulate_frame_series(task: SeriesTask) -> SimulatedSeries:
    """Make a frame series and write its movie, average, metadata and truth."""
    params = task.params
    assert isinstance(params, FrameSeriesSimulationParams)
    references: References = task.references.load()
    made = draw_frame_series(task.number, params, references.diameters_angstrom)
    seen = see(made.true, made.species, references.whole)
    frames = (recorded(made, seen, frame, task.noise_sigma, params) for frame in range(len(made.true)))
    mean = _write_movie(made, frames, task)
    path = task.folder / FRAMES / made.starting.movie_name
    return SimulatedSeries(name=path.name, hash=data_hash(made.starting.name, path), mean_count=mean)


def gain_reference(params: SeriesSimulationParams) -> NDArray[np.float32]:
    """Return by what the detector's frames are to be multiplied, shape (y, x), about 1."""
    width, height = params.size_pixel
    drawn = keyed_random.normal(params.seed, "gain", 0, size=(height, width))
    return np.clip(1 + _GAIN_SPREAD * drawn, 0.5, 1.5).astype(np.float32)


def image_grid(params: SeriesSimulationParams) -> ImageGrid:
    """Return the grid of the images."""
    width, height = params.size_pixel
    return ImageGrid(shape=(height, width), pixel_size_angstrom=params.pixel_size_angstrom)


def memory_bytes(params: SeriesSimulationParams) -> int:
    """Bound on the memory that one series takes: that of one image at a time."""
    return 4 * _ARRAYS_AT_ONCE * params.size_pixel[0] * params.size_pixel[1]


def _frames_of_tilt(
    made: SeriesTruth[TiltSeries], movie: FrameSeries, seen: list[SeenSpecies], tilt: int, task: SeriesTask
) -> Iterator[NDArray[np.float32]]:
    n = len(movie)
    for frame in range(n):
        moved = [displaced(species, tilt, movie, frame) for species in seen]
        yield recorded(made, moved, tilt, task.noise_sigma, task.params, frame=frame, n_frames=n)


def _write_movie(movie: SeriesTruth[FrameSeries], frames: Iterator[NDArray[np.float32]], task: SeriesTask) -> float:
    """Write frames as the detector has them, their aligned sum and metadata; return the sum's mean."""
    params, grid = task.params, image_grid(task.params)
    gain = gain_reference(params) if params.gain else None
    total = AlignedSum(movie.starting, grid)

    def as_detected() -> Iterator[NDArray[np.float32]]:
        for number, frame in enumerate(frames):
            total.add(number, frame)
            yield frame if gain is None else frame / gain

    write_movie(task.folder / FRAMES / movie.starting.movie_name, as_detected(), grid)
    average = total.image()
    folder = task.folder / MOVIE_FOLDER
    write_image(folder / "average" / f"{movie.starting.name}.mrc", average, grid, float16=params.float16)
    _write_metadata(movie, folder, task.folder / TRUTH / MOVIE_FOLDER, f"../{FRAMES}")
    return float(average.mean())


def _write_metadata(
    made: SeriesTruth[TiltSeries] | SeriesTruth[FrameSeries], folder: Path, truth: Path, data: str
) -> None:
    """Write what the files say, and the truth elsewhere."""
    for series, where in ((made.starting, folder), (made.true, truth)):
        path = where / f"{series.name}.xml"
        path.unlink(missing_ok=True)  # of an interrupted run; nothing of it is to be kept
        warp_series.write_series(path, replace(series, further={**series.further, "DataDirectory": data}))


def _tomostar(series: TiltSeries, mean_count: NDArray[np.float64]) -> Tomostar:
    further = {
        "wrpAverageIntensity": np.array([f"{mean:.3f}" for mean in mean_count], dtype=object),
        "wrpMaskedFraction": np.array(["0.000"] * len(series), dtype=object),
    }
    return Tomostar(
        movie_names=series.movie_names,
        tilt_angle_degrees=series.tilt_angle_degrees,
        axis_angle_degrees=series.axis_angle_degrees,
        dose_e_per_angstrom2=series.dose_e_per_angstrom2,
        axis_offset_angstrom=series.axis_offset_angstrom,
        further=further,
    )
