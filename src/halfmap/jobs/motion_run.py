"""What ``halfmap motion`` does: movies in, their sums, tables and page out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from halfmap.data.image_series import SeriesOptics
from halfmap.data.micrographs import MicrographSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import relion, star
from halfmap.io.eer import EerFrames
from halfmap.io.frames import MovieSource
from halfmap.io.gain_orientation import fit_gain
from halfmap.io.relion_paths import path_in_job
from halfmap.jobs import motion_report
from halfmap.jobs.motion import MotionJobParams
from halfmap.jobs.motion_inputs import OpenedMovies, open_movies
from halfmap.jobs.motion_movie import MotionTask, MovieResult, binned_grid, correct_movie, memory_bytes
from halfmap.jobs.per_micrograph import Rejected, forget_states, rejected_micrographs, resumable_map
from halfmap.optics.dose import critical_exposure
from halfmap.project.job import JobContext


def correct_all(context: JobContext, params: MotionJobParams) -> Path:
    """Correct all movies.

    Returns
    -------
    Path
        Of ``corrected_micrographs.star``.

    Raises
    ------
    InputError, InconsistentDataError
        What all movies share is at fault; the gain lies another way round.
    JobFailed
        More than a tenth of the movies are bad.
    """
    opened = open_movies(context, params)
    _check_voltage(opened, params)
    if params.check_gain:
        _check_gain(opened.sources[0])
    if params.dose_per_frame_e_per_angstrom2 is None and params.dose_weighting:
        context.progress.message("No --dose-per-frame: sums are not weighted by exposure.")
    tasks = _tasks(context, opened, params)
    context.expect_memory(
        max(memory_bytes(source) for source in opened.sources), "one movie in each worker", n_tasks=len(tasks)
    )
    done: list[tuple[MotionTask, int, MovieResult]] = []
    rejected = list(opened.rejected)
    results = resumable_map(
        context,
        correct_movie,
        tasks,
        names=opened.names,
        result_type=MovieResult,
        label="Correcting motion",
        is_whole=_is_written,
        what="movies",
    )
    for row, result in enumerate(results):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            done.append((tasks[row], row, result))
    output = context.folder / "corrected_micrographs.star"
    relion.write_micrographs(output, _table(context, opened, params, done))
    if rejected:
        star.write(context.folder / "rejected.star", [star.with_version(rejected_micrographs(rejected))])
    n_bad = sum(len(result.bad_frames) for _, _, result in done)
    context.progress.message(
        f"Corrected {len(done)} of {len(opened.names) + len(opened.rejected)} movies; left out {n_bad} bad frames; set "
        f"aside {len(rejected)}; {sum(bool(result.concerns) for _, _, result in done)} give cause for concern."
    )
    context.report(motion_report.page([(task.name, result) for task, _, result in done], rejected))
    forget_states(context)
    return output


def _is_written(task: MotionTask) -> bool:
    return task.path(".mrc").exists() and task.path(".star").exists()


def _check_voltage(opened: OpenedMovies, params: MotionJobParams) -> None:
    if params.dose_weighting and params.dose_per_frame_e_per_angstrom2 is not None:
        import torch

        for voltage in opened.optics["voltage_kv"].tolist():
            critical_exposure(torch.ones(1), voltage)  # raises outside the range that exposure weights are known for


def _check_gain(source: MovieSource) -> None:
    if source.detector.gain_path is None:
        return
    fitted = fit_gain(source.raw_total(), source.detector, is_eer=isinstance(source.frames, EerFrames))
    if fitted is not None and fitted.said():
        raise InputError(
            f"The gain must lie on the frames as the detector counts; got of {source.path.name} that {fitted.said()}; "
            "mend that, or go on with --no-check-gain."
        )


def _tasks(context: JobContext, opened: OpenedMovies, params: MotionJobParams) -> list[MotionTask]:
    stems = [path_in_job(name, "") for name in opened.names]
    if len(set(stems)) < len(stems):
        raise InconsistentDataError(
            "Movies must differ in their path after JobType/jobNNN/ and without ending; got two alike; rename one."
        )
    values = {
        name: opened.optics.values(name, opened.optics_group)
        for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    }
    general = []
    if params.gain is not None:
        general.append(("rlnMicrographGainName", context.relative(params.gain)))
    if params.defects is not None:
        general.append(("rlnMicrographDefectFile", context.relative(params.defects)))
    return [
        MotionTask(
            name=name,
            source=source,
            stem=context.folder / stem,
            optics=SeriesOptics(
                pixel_size_angstrom=source.grid.pixel_size_angstrom,
                voltage_kv=float(values["voltage_kv"][row]),
                spherical_aberration_mm=float(values["spherical_aberration_mm"][row]),
                amplitude_contrast=float(values["amplitude_contrast"][row]),
            ),
            params=params,
            general=(*general, *_of_eer(source)),
        )
        for row, (name, source, stem) in enumerate(zip(opened.names, opened.sources, stems, strict=True))
    ]


def _of_eer(source: MovieSource) -> tuple[tuple[str, str], ...]:
    if not isinstance(source.frames, EerFrames):
        return ()
    grouping = source.frames.grouping
    return (
        ("rlnEERUpsampling", str(grouping.upsampling)),
        ("rlnEERGrouping", str(grouping.frames_per_fraction)),
    )


def _table(
    context: JobContext,
    opened: OpenedMovies,
    params: MotionJobParams,
    done: Sequence[tuple[MotionTask, int, MovieResult]],
) -> MicrographSet:
    rows = np.array([row for _, row, _ in done], dtype=np.int64)
    results = [result for _, _, result in done]

    def names(suffix: str) -> np.ndarray:
        return _text(context.relative(task.path(suffix)) for task, _, _ in done)

    columns: dict[str, np.ndarray] = {
        "micrograph_name": names(".mrc"),
        "metadata_name": names(".star"),
        "optics_group": opened.optics_group[rows],
        "rlnCtfPowerSpectrum": names("_PS.mrc"),
        "rlnAccumMotionTotal": _text(f"{one.total_angstrom:.6f}" for one in results),
        "halfmapBadFrames": _text(str(len(one.bad_frames)) for one in results),
        "halfmapFrameAgreement": _text(f"{np.median(one.agreement):.6f}" for one in results),
        "halfmapMotionConcern": _text("; ".join(one.concerns) or "none" for one in results),
    }
    if params.dose_per_frame_e_per_angstrom2 is not None:
        columns["rlnAccumMotionEarly"] = _text(f"{one.early_angstrom:.6f}" for one in results)
        columns["rlnAccumMotionLate"] = _text(f"{one.late_angstrom:.6f}" for one in results)
    is_weighted = params.dose_weighting and params.dose_per_frame_e_per_angstrom2 is not None
    if is_weighted and params.save_unweighted:
        columns["rlnMicrographNameNoDW"] = names("_noDW.mrc")
    if params.save_halves:
        columns |= {"rlnMicrographNameEven": names("_EVN.mrc"), "rlnMicrographNameOdd": names("_ODD.mrc")}
    optics = opened.optics
    size = optics["original_pixel_size_angstrom"] * params.bin
    for task, row, _ in reversed(done):  # sides are even, so not quite the factor; that of a group's first movie counts
        of_group = optics["optics_group"] == opened.optics_group[row]
        size[of_group] = binned_grid(task.source.grid, params.bin).pixel_size_angstrom
    return MicrographSet(columns=columns, optics=optics.with_columns(micrograph_pixel_size_angstrom=size))


def _text(words: Iterable[str]) -> np.ndarray:
    return np.array(list(words), dtype=object)
