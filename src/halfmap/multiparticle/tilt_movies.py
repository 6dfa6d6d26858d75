"""The raw frames of a tilt: how they moved, told by the particles that the whole series has placed.

Within one tilt everything but the frames' movement is known from the series: where particles lie, how they are turned
and how they are focused. So a tilt's movie is a frame series of which only one grid is fitted.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.image_source import Float32Array, ImageSource
from halfmap.imaging.deformation import views
from halfmap.imaging.frame_average import frame_average
from halfmap.imaging.series_transfer import image_ctf
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import SeriesProblem, SeriesResult, SpeciesProblem, refine_series
from halfmap.multiparticle.schedule import Schedule
from halfmap.splines.grids import SplineGrid

NODES = 3
"Of the grid along x, y and time."

_CHOICE = ParameterChoice(image_warp=f"{NODES}x{NODES}")
_SCHEDULE = Schedule(sub_iterations=1, first_fraction=1.0)


def movie_of_tilt(series: TiltSeries, tilt: int, movie: FrameSeries) -> FrameSeries:
    """Return a tilt's movie with the optics and focus of its tilt, and a grid of movement to be fitted.

    Parameters
    ----------
    series : refined.
    tilt : number of the tilt.
    movie : as its own metadata say; its motion stays. A grid of an earlier fit is gone on from.
    """
    n, dose = len(movie), series.dose_per_image_e_per_angstrom2
    time = series.image_time[tilt]

    def focus(grid: SplineGrid) -> SplineGrid:
        middle = torch.full((1, 3), 0.5, dtype=torch.float64)
        middle[0, 2] = time
        return SplineGrid.constant(float(grid(middle)[0]))

    has_grid = len(movie.pyramid_x_angstrom) == 1 and movie.pyramid_x_angstrom[0].shape == (NODES,) * 3
    zero = SplineGrid.constant(0.0, (NODES,) * 3)
    return movie.with_values(
        dose_e_per_angstrom2=series.dose_e_per_angstrom2[tilt] + np.linspace(0.0, dose, n, endpoint=False),
        optics=replace(series.optics, pixel_size_angstrom=movie.optics.pixel_size_angstrom),
        defocus_angstrom=focus(series.defocus_angstrom),
        astigmatism_angstrom=focus(series.astigmatism_angstrom),
        astigmatism_angle_degrees=focus(series.astigmatism_angle_degrees),
        phase_shift_degrees=focus(series.phase_shift_degrees),
        pyramid_x_angstrom=movie.pyramid_x_angstrom if has_grid else (zero,),
        pyramid_y_angstrom=movie.pyramid_y_angstrom if has_grid else (zero,),
    )


def seen_in_tilt(series: TiltSeries, tilt: int, movie: FrameSeries, species: SpeciesProblem) -> SpeciesProblem:
    """Return a species with its particles as one tilt shows them: places in the image, views, and focus.

    Parameters
    ----------
    movie : of `movie_of_tilt`.
    species : with its particles' poses in the series.
    """
    particles = species.particles
    position, rotation = (torch.from_numpy(each) for each in (particles.position_angstrom, particles.rotation))
    seen = views(series, position, rotation)
    table = image_ctf(series, position, seen)
    focus = (table.defocus_u_angstrom + table.defocus_v_angstrom)[:, tilt] / 2
    place = torch.cat(
        [seen.position_angstrom[:, tilt], (focus - movie.defocus_angstrom.values.flatten())[:, None]], dim=1
    )
    here = particles.with_poses(place[:, None].numpy(), seen.rotation[:, tilt, None].numpy())
    return replace(species, particles=here)


def align_tilt_movie(
    series: TiltSeries,
    tilt: int,
    movie: FrameSeries,
    frames: ImageSource,
    species: Sequence[SpeciesProblem],
    *,
    memory_bytes: float | None = None,
    device: str = "cpu",
) -> tuple[SeriesResult, Float32Array]:
    """Fit how the frames of a tilt moved, and average them anew.

    Parameters
    ----------
    series : refined.
    tilt : number of the tilt.
    movie : as its own metadata say.
    frames : of the movie, corrected for gain.
    species : with their particles' refined poses.
    memory_bytes, device : of `refine_series`.

    Returns
    -------
    result : of the movie's grid.
    average : float32, shape (y, x), by what was found.

    Raises
    ------
    InputError, InconsistentDataError, ComputeError
        See `refine_series`.

    References
    ----------
    Tegunov, Xue, Dienemann, Cramer, Mahamid 2021, Nature Methods 18, 186: M fits the same to tilt movies.
    """
    whole = movie_of_tilt(series, tilt, movie)
    problem = SeriesProblem(
        series=whole, images=frames, species=tuple(seen_in_tilt(series, tilt, whole, one) for one in species)
    )
    result = refine_series(problem, _CHOICE, schedule=_SCHEDULE, memory_bytes=memory_bytes, device=device)
    assert isinstance(result.series, FrameSeries)
    return result, frame_average(frames, result.series)
