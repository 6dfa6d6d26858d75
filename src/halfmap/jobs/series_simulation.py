"""What `halfmap simulate tilt-series` and `frame-series` have in common: from the settings to files and a page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfmap.ctf_estimation.params import FINEST_PIXELS, CtfEstimationParams
from halfmap.errors import InputError, JobFailed
from halfmap.io.mrc import write_image
from halfmap.io.warp_settings import WarpSettings, write_settings
from halfmap.jobs import simulate_one_series as one
from halfmap.jobs import simulated_species
from halfmap.jobs.motion import MOVIES_FILE
from halfmap.jobs.per_micrograph import Rejected, forget_states, resumable_map
from halfmap.jobs.simulation_inputs import references
from halfmap.jobs.simulation_report import page
from halfmap.project.job import JobContext
from halfmap.simulation.micrographs import References
from halfmap.simulation.series_images import relative_noise
from halfmap.simulation.series_truth import SeriesTruth
from halfmap.simulation.tilt_series_truth import MOVIE_FOLDER


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesKind:
    """One kind of series.

    Parameters
    ----------
    draw : makes the truth of a series of a number, from the settings and the species' diameters.
    simulate : the task.
    label : plural, for people.
    """

    draw: Callable[[int, Any, Sequence[float]], SeriesTruth[Any]]
    simulate: Callable[[one.SeriesTask], one.SimulatedSeries]
    label: str


def simulate(context: JobContext, params: Any, kind: SeriesKind) -> None:
    """Draw the truth, make all series, and write the files of the species and the page.

    Parameters
    ----------
    params : specimens and settings of one kind of series.

    Raises
    ------
    InputError
        Numbers of particles do not belong to the species, or particles do not fit into the field.
    JobFailed
        A series could not be simulated.
    """
    if params.particles_per_series and len(params.particles_per_series) != len(params.names):
        raise InputError(
            f"--particles-per-series must have a number for each of {len(params.names)} species; got "
            f"{len(params.particles_per_series)}; give as many as specimens, models and maps."
        )
    made = references(params, [params.pixel_size_angstrom], params.b_factor_angstrom2, context.progress.message)[0]
    whole = References(whole=made)
    truths = [kind.draw(number, params, whole.diameters_angstrom) for number in range(params.number)]
    names = simulated_species.file_names(params.names)
    for number, (name, reference) in enumerate(zip(names, made, strict=True)):
        simulated_species.write_maps(context.folder, name, number, reference, params)
    if params.gain:
        write_image(context.folder / one.GAIN, one.gain_reference(params), one.image_grid(params))
    noise = relative_noise(truths[0].true, made, params)
    results = _series(context, params, kind, whole, noise)
    sources = [(result.name, result.hash) for result in results]
    counts = []
    for species, name in enumerate(names):
        poses = [truth.species[species] for truth in truths]
        series = [truth.starting for truth in truths]
        counts.append(simulated_species.write_particles(context.folder, name, poses, series, sources, params)[1])
    many = ", ".join(f"{count} of {name}" for count, name in zip(counts, names, strict=True))
    context.progress.message(f"Simulated {params.number} {kind.label} with {many}.")
    context.report(page(context.folder, params, truths, made, results, noise))
    forget_states(context)


def write_movie_settings(folder: Path, params: Any, exposure_e_per_angstrom2: float) -> Path:
    """Write ``warp_frameseries.settings``: where movies are, and how they were recorded."""
    path = folder / f"{MOVIE_FOLDER}.settings"
    settings = replace(
        _settings(params, exposure_e_per_angstrom2),
        data_folder=one.FRAMES,
        processing_folder=MOVIE_FOLDER,
        extension=f"*.{params.frame_format}",
        gain_path=one.GAIN if params.gain else "",
    )
    write_settings(path, settings)
    return path


def write_live_settings(folder: Path, params: Any, dose_per_frame_e_per_angstrom2: float) -> None:
    """Write what ``halfmap live`` has to know of the movies, of which it makes micrographs itself."""
    lines = [
        f'movies = "{one.FRAMES}/*.{params.frame_format}"',
        "",
        "[motion]",
        *([f'gain = "{one.GAIN}"'] if params.gain else []),
        f"pixel_size_angstrom = {float(params.pixel_size_angstrom)}",
        f"dose_per_frame_e_per_angstrom2 = {float(dose_per_frame_e_per_angstrom2)}",
        f"voltage_kv = {float(params.voltage_kv)}",
        f"spherical_aberration_mm = {float(params.spherical_aberration_mm)}",
        f"amplitude_contrast = {float(params.amplitude_contrast)}",
    ]
    if params.pixel_size_angstrom * FINEST_PIXELS > CtfEstimationParams.max_resolution_angstrom:
        finest = math.ceil(10 * params.pixel_size_angstrom * FINEST_PIXELS) / 10
        lines += ["", "[ctf]", f"max_resolution_angstrom = {finest}"]
    (folder / MOVIES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tilt_settings(folder: Path, params: Any) -> Path:
    """Write ``warp_tiltseries.settings``: where lists of tilts are, and the size of tomograms."""
    path = folder / f"{one.TILT_SERIES}.settings"
    x, y, z = (float(round(side / params.pixel_size_angstrom)) for side in params.volume_angstrom)
    settings = replace(
        _settings(params, params.dose_per_tilt_e_per_angstrom2),
        data_folder=one.TOMOSTARS,
        processing_folder=one.TILT_SERIES,
        extension="*.tomostar",
        tomo_dimensions_pixel=(x, y, z),
    )
    write_settings(path, settings)
    return path


def _settings(params: Any, exposure_e_per_angstrom2: float) -> WarpSettings:
    return WarpSettings(
        pixel_size_angstrom=params.pixel_size_angstrom,
        exposure_e_per_angstrom2=exposure_e_per_angstrom2,
        voltage_kv=params.voltage_kv,
        spherical_aberration_mm=params.spherical_aberration_mm,
        amplitude_contrast=params.amplitude_contrast,
    )


def _series(
    context: JobContext, params: Any, kind: SeriesKind, whole: References, noise: float
) -> list[one.SimulatedSeries]:
    handle = context.executor.broadcast(whole)
    context.expect_memory(one.memory_bytes(params), "one series in each worker", n_tasks=params.number)
    tasks = [
        one.SeriesTask(number=number, folder=context.folder, params=params, references=handle, noise_sigma=noise)
        for number in range(params.number)
    ]
    results = []
    for result in resumable_map(
        context,
        kind.simulate,
        tasks,
        names=[str(task.number + 1) for task in tasks],
        result_type=one.SimulatedSeries,
        label=f"Simulating {kind.label}",
    ):
        if isinstance(result, Rejected):
            raise JobFailed(f"Every series must be simulated; got '{result.reason}' for {result.name}; mend the cause.")
        results.append(result)
    return results
