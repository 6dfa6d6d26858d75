"""``halfmap ctf`` on tilt series: of RELION's ``tomograms.star``, or of Warp's metadata."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path

import numpy as np
import torch

from halfmap.compute.device import task_device
from halfmap.ctf_estimation.params import CtfEstimationParams, check_resolution
from halfmap.ctf_estimation.periodogram import FINEST_PIXEL_ANGSTROM
from halfmap.ctf_estimation.picture import spectrum_picture
from halfmap.ctf_estimation.rings import Microscope
from halfmap.ctf_estimation.tilts import TiltEstimates, depth_gradients, estimate_tilts, tilt_spectra
from halfmap.data.image_series import TiltSeries
from halfmap.errors import FormatError, InputError
from halfmap.imaging.deformation import middle_angstrom
from halfmap.io import images, mrc, relion_tomo, relion_tomo_writer, star, tomostar, warp_series
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs import ctf_tilts_report
from halfmap.jobs.ctf import CtfJobParams
from halfmap.jobs.ctf_micrograph import drawn_spectrum
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import Rejected, forget_states, rejected_micrographs, resumable_map
from halfmap.project.job import JobContext
from halfmap.splines.grids import SplineGrid

_WARP_SUFFIX = ".xml"


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesTask:
    """One tilt series.

    Parameters
    ----------
    series : its geometry.
    images : of its tilts, absolute.
    metadata : its file, of Warp; None where it comes from RELION's table.
    folder : where pictures of its spectra go, absolute.
    params : of the estimation.
    """

    series: TiltSeries
    images: tuple[Path, ...]
    metadata: Path | None
    folder: Path
    params: CtfEstimationParams

    @property
    def microscope(self) -> Microscope:
        """What the CTF depends on besides defocus."""
        optics = self.series.optics
        return Microscope(
            voltage_kv=optics.voltage_kv,
            spherical_aberration_mm=optics.spherical_aberration_mm,
            amplitude_contrast=optics.amplitude_contrast,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfSeries:
    """What is found out about a tilt series.

    Parameters
    ----------
    estimates : of its tilts.
    cards : JPEG pictures of their spectra, uint8, one for each.
    """

    estimates: TiltEstimates
    cards: tuple[np.ndarray, ...]


def are_tilt_series(paths: Sequence[Path]) -> bool:
    """Tell whether files describe tilt series, not micrographs."""
    if all(path.suffix == _WARP_SUFFIX for path in paths):
        return True
    return len(paths) == 1 and paths[0].suffix == ".star" and relion_tomo.is_tomograms(star.read(paths[0]))


def estimate_all_series(context: JobContext, params: CtfJobParams) -> Path:
    """Estimate the CTF of all tilts of all series.

    Returns
    -------
    Path
        Of RELION's ``tilt_series_ctf.star``, or of the list of tilts where the series are Warp's.

    Raises
    ------
    InputError
        Something is asked for that goes with micrographs only.
    FormatError
        The metadata are at fault.
    JobFailed
        More than a tenth of the series cannot be treated.
    """
    if params.patches != (1, 1):
        raise InputError(
            "--patches must be left out for tilt series, whose tilt tells the gradient; got it; leave it out."
        )
    is_warp = params.micrographs[0].suffix == _WARP_SUFFIX
    tasks, rejected = _of_warp(context, params) if is_warp else _of_relion(context, params)
    for task in tasks:
        check_resolution(max(task.series.optics.pixel_size_angstrom, FINEST_PIXEL_ANGSTROM), params)
    names = [task.series.name for task in tasks]
    done: list[tuple[SeriesTask, CtfSeries]] = []
    results = resumable_map(
        context,
        estimate_series,
        tasks,
        names=names,
        result_type=CtfSeries,
        label="Estimating the CTF of tilt series",
        what="tilt series",
    )
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            done.append((task, result))
    output = _write(context, done, is_warp=is_warp)
    if rejected:
        star.write(context.folder / "rejected.star", [star.with_version(rejected_micrographs(rejected))])
    n_tilts = sum(len(one.estimates.tilts) for _, one in done)
    n_failed = sum(bool(tilt.failure) for _, one in done for tilt in one.estimates.tilts)
    context.progress.message(
        f"Found the CTF of {n_tilts - n_failed} of {n_tilts} tilts in {len(done)} series; set aside {len(rejected)}."
    )
    context.report(ctf_tilts_report.page([(task.series, one.estimates, one.cards) for task, one in done], rejected))
    forget_states(context)
    return output


def estimate_series(task: SeriesTask) -> CtfSeries:
    """Estimate the CTF of one series and draw the spectrum of each tilt's middle.

    Raises
    ------
    FormatError
        An image is missing, or cannot be read.
    InputError
        An image is constant or too small.
    """
    series, size = task.series, task.series.optics.pixel_size_angstrom
    found = estimate_tilts(
        series, lambda tilt: read_finite(task.images[tilt]).to(task_device()), task.microscope, task.params
    )
    gradients, middles = depth_gradients(series), middle_angstrom(series).numpy()
    cards = []
    for tilt, (path, lens) in enumerate(zip(task.images, found.lenses, strict=True)):
        spectra, offsets = tilt_spectra(
            read_finite(path).to(task_device()),
            gradients[tilt],
            middles[tilt],
            pixel_size_angstrom=size,
            box_pixel=task.params.box_pixel,
        )
        strip = int(np.abs(offsets).argmin())
        raised = replace(lens, defocus_angstrom=lens.defocus_angstrom + float(offsets[strip]))
        drawn = spectrum_picture(spectra.of(strip), task.microscope, raised)
        mrc.write_image(task.folder / f"{path.stem}_ctf.mrc", drawn, spectra.grid)
        cards.append(drawn_spectrum(drawn, spectra.grid, found.tilts[tilt]))
    return CtfSeries(estimates=found, cards=tuple(cards))


def _of_relion(context: JobContext, params: CtfJobParams) -> tuple[list[SeriesTask], list[Rejected]]:
    path = params.micrographs[0]
    read = relion_tomo.read_tomograms(path, project_root=context.project)
    rejected = [Rejected(name=name, reason=reason) for name, reason in read.rejected.items()]
    tasks = []
    for series in read.series:
        root = resolve_paths(path, context.project, series.movie_names)
        tasks.append(_task(context, params, series, [root / name for name in series.movie_names], None))
    return tasks, rejected


def _of_warp(context: JobContext, params: CtfJobParams) -> tuple[list[SeriesTask], list[Rejected]]:
    tasks = []
    for path in params.micrographs:
        series = warp_series.read_series(path)
        if not isinstance(series, TiltSeries):
            raise FormatError(
                path,
                expected="a tilt series",
                found="a frame series",
                remedy="give the averages of frame series as micrographs",
            )
        data = path.parent / str(series.further.get("DataDirectory", "")).replace("\\", "/")
        table = data / f"{series.name}.tomostar"
        names = series.movie_names or tomostar.read_tomostar(table).movie_names
        tasks.append(
            _task(context, params, series, [tomostar.average_path(table, name).resolve() for name in names], path)
        )
    return tasks, []


def _task(
    context: JobContext, params: CtfJobParams, series: TiltSeries, paths: Sequence[Path], metadata: Path | None
) -> SeriesTask:
    missing = [path for path in paths if not path.is_file()]
    if missing or len(paths) != len(series):
        raise FormatError(
            metadata or params.micrographs[0],
            expected=f"an image of each of {len(series)} tilts of {series.name}",
            found=f"no {missing[0]}" if missing else f"{len(paths)} images",
            remedy="align the movies first, or mend the paths",
        )
    (_, width), _ = images.shape_and_pixel_size(paths[0])
    size = series.image_size_angstrom[0] / width
    if abs(size / series.optics.pixel_size_angstrom - 1) > 0.01:
        series = series.with_values(optics=replace(series.optics, pixel_size_angstrom=size))
    changes = {
        name: value
        for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
        if (value := getattr(params, name)) is not None
    }
    return SeriesTask(
        series=series.with_values(optics=replace(series.optics, **changes)),
        images=tuple(paths),
        metadata=metadata,
        folder=context.folder / "spectra" / series.name,
        params=params,
    )


def _write(context: JobContext, done: Sequence[tuple[SeriesTask, CtfSeries]], *, is_warp: bool) -> Path:
    """Write the series with their CTF, and the list of all tilts."""
    listed = context.folder / "tilts_ctf.star"
    star.write(listed, [star.with_version(_list(done))])
    fitted = [(task, _with_ctf(task.series, one.estimates)) for task, one in done]
    if not is_warp:
        output = context.folder / "tilt_series_ctf.star"
        relion_tomo_writer.write_tomograms(output, [one for _, one in fitted], project_root=context.project)
        return output
    for task, series in fitted:
        assert task.metadata is not None
        path = context.folder / "tiltseries" / task.metadata.name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = task.metadata.parent / str(series.further.get("DataDirectory", "")).replace("\\", "/")
        there = Path(relpath(data.resolve(), path.parent)).as_posix()
        optics = replace(series.optics, pixel_size_angstrom=_stated_pixel_size(task.metadata))
        kept = series.with_values(optics=optics, further={**series.further, "DataDirectory": there})
        warp_series.write_series(path, kept, base=task.metadata)
    return listed


def _stated_pixel_size(metadata: Path) -> float:
    return warp_series.read_series(metadata).optics.pixel_size_angstrom


def _with_ctf(series: TiltSeries, found: TiltEstimates) -> TiltSeries:
    lenses = found.lenses
    changes = {
        "defocus_angstrom": _over_tilts([one.defocus_angstrom for one in lenses]),
        "astigmatism_angstrom": _over_tilts([2 * one.half_astigmatism_angstrom for one in lenses]),
        "astigmatism_angle_degrees": _over_tilts([one.angle_degrees for one in lenses]),
        "phase_shift_degrees": _over_tilts([one.phase_shift_degrees for one in lenses]),
    }
    return series.with_values(**changes)


def _over_tilts(values: Sequence[float]) -> SplineGrid:
    return SplineGrid(values=torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1))


def _list(done: Sequence[tuple[SeriesTask, CtfSeries]]) -> star.StarTable:
    rows = [
        (task.series.name, path.name, angle, tilt, lens)
        for task, one in done
        for path, angle, tilt, lens in zip(
            task.images, task.series.tilt_angle_degrees, one.estimates.tilts, one.estimates.lenses, strict=True
        )
    ]
    columns = {
        "rlnTomoName": [name for name, *_ in rows],
        "rlnMicrographName": [image for _, image, *_ in rows],
        "halfmapTiltAngle": [f"{angle:.2f}" for _, _, angle, _, _ in rows],
        "rlnDefocusU": [f"{lens.defocus_u_angstrom:.2f}" for *_, lens in rows],
        "rlnDefocusV": [f"{lens.defocus_v_angstrom:.2f}" for *_, lens in rows],
        "rlnDefocusAngle": [f"{lens.angle_degrees:.2f}" for *_, lens in rows],
        "rlnPhaseShift": [f"{lens.phase_shift_degrees:.2f}" for *_, lens in rows],
        "rlnCtfMaxResolution": [f"{tilt.max_resolution_angstrom:.3f}" for *_, tilt, _ in rows],
        "rlnCtfFigureOfMerit": [f"{tilt.figure_of_merit:.4f}" for *_, tilt, _ in rows],
        "halfmapReason": [tilt.failure or "none" for *_, tilt, _ in rows],
    }
    return star.StarTable(
        name="tilts", columns={label: np.array(values, dtype=object) for label, values in columns.items()}
    )
