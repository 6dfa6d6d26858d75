"""What ``halfmap ctf`` does: micrographs in, their CTF table, pictures and page out."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from halfmap.ctf_estimation.concerns import concerns
from halfmap.ctf_estimation.params import check_resolution
from halfmap.ctf_estimation.periodogram import FINEST_PIXEL_ANGSTROM
from halfmap.ctf_estimation.rings import Microscope
from halfmap.data.micrographs import MicrographSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import relion, star
from halfmap.io.images import MICROGRAPH_SUFFIXES
from halfmap.io.relion_paths import path_in_job
from halfmap.jobs import ctf_report
from halfmap.jobs.ctf import CtfJobParams
from halfmap.jobs.ctf_micrograph import CtfMicrograph, CtfTask, estimate_micrograph
from halfmap.jobs.extract_inputs import DEFOCUS_SLOPES
from halfmap.jobs.given_files import files_of
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs, open_micrographs_named
from halfmap.jobs.per_micrograph import Rejected, forget_states, rejected_micrographs, resumable_map
from halfmap.project.job import JobContext

DETAILS = 60
"""Micrographs whose spectrum is shown large on the page, evenly spaced; the others as cards."""

_SPECTRUM = "rlnCtfPowerSpectrum"
_HIGHEST_VOLTAGE_KV = 1000.0
_OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")


def estimate_all(context: JobContext, params: CtfJobParams) -> Path:
    """Estimate the CTF of all micrographs.

    Returns
    -------
    Path
        Of ``micrographs_ctf.star``.

    Raises
    ------
    InputError
        The resolution limits lie beyond what the pixels hold.
    InconsistentDataError
        What the CTF depends on is not known.
    JobFailed
        More than a tenth of the micrographs cannot be read.
    """
    opened = _opened(context, params)
    micrographs = _with_optics(opened.micrographs, params)
    for size in np.unique(opened.pixel_size_angstrom):
        check_resolution(max(float(size), FINEST_PIXEL_ANGSTROM), params)
    tasks = _tasks(context, opened, micrographs, params)
    largest = max(height * width for height, width in opened.shapes)
    context.expect_memory(12 * largest + 300 * params.box_pixel**2 + 2**28, "one micrograph in each worker")
    done: list[tuple[int, CtfMicrograph]] = []
    rejected = list(opened.rejected)
    results = resumable_map(
        context,
        estimate_micrograph,
        tasks,
        names=opened.names,
        result_type=CtfMicrograph,
        label="Estimating the CTF",
    )
    for index, result in enumerate(results):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            done.append((index, result))
    found = [(index, one) for index, one in done if not one.estimate.failure]
    failed = [Rejected(name=tasks[i].name, reason=one.estimate.failure) for i, one in done if one.estimate.failure]
    said = concerns([one.estimate for _, one in found])
    output = context.folder / "micrographs_ctf.star"
    relion.write_micrographs(output, _table(context, micrographs, tasks, found, said, params))
    _write_rest(context, tasks, found, failed, rejected)
    context.progress.message(
        f"Found the CTF of {len(found)} of {len(tasks)} micrographs; no rings in {len(failed)}; set aside "
        f"{len(rejected)}; {sum(bool(one) for one in said)} give cause for concern."
    )
    shown = [
        ctf_report.ShownMicrograph(name=tasks[index].name, found=one, concerns=words)
        for (index, one), words in zip(found, said, strict=True)
    ]
    lost = [
        ctf_report.ShownMicrograph(name=tasks[i].name, found=one, concerns=())
        for i, one in done
        if one.estimate.failure
    ]
    context.report(ctf_report.page(shown, lost, rejected))
    forget_states(context)
    return output


def _opened(context: JobContext, params: CtfJobParams) -> OpenedMicrographs:
    paths = params.micrographs
    tables = [path for path in paths if path.suffix == ".star"]
    if tables and len(paths) > 1:
        raise InputError(
            f"--micrographs must be one STAR file, or micrographs alone; got {len(paths)} files with "
            f"{tables[0].name} among them; give one of these."
        )
    if tables:
        return open_micrographs(context, tables[0], pixel_size_angstrom=params.pixel_size_angstrom)
    paths = tuple(files_of(paths, MICROGRAPH_SUFFIXES, "micrographs"))
    names = [context.relative(path) for path in paths]
    return open_micrographs_named(context, paths[0], names, pixel_size_angstrom=params.pixel_size_angstrom)


def _with_optics(micrographs: MicrographSet, params: CtfJobParams) -> MicrographSet:
    optics = micrographs.optics
    for name in _OPTICS:
        value = getattr(params, name)
        if value is not None:
            optics = optics.with_columns(**{name: np.full(len(optics), value)})
    missing = [name for name in _OPTICS if name not in optics]
    if missing:
        flags = {"voltage_kv": "--voltage", "spherical_aberration_mm": "--spherical-aberration"}
        wanted = " ".join(flags.get(name, "--amplitude-contrast") for name in missing)
        raise InconsistentDataError(
            f"Voltage, spherical aberration and amplitude contrast must be known; got no {', '.join(missing)} for "
            f"the micrographs; give {wanted}."
        )
    voltage = float(np.max(optics["voltage_kv"]))
    if voltage > _HIGHEST_VOLTAGE_KV:
        raise InconsistentDataError(
            f"The voltage of micrographs must be at most {_HIGHEST_VOLTAGE_KV:g} kV; got {voltage:g} kV; give it in kV "
            "with --voltage."
        )
    return replace(micrographs, optics=optics)


def _tasks(
    context: JobContext, opened: OpenedMicrographs, micrographs: MicrographSet, params: CtfJobParams
) -> list[CtfTask]:
    values = {name: micrographs.optics_values(name) for name in _OPTICS}
    spectra = micrographs[_SPECTRUM] if params.given_spectra and _SPECTRUM in micrographs else None
    pictures = [path_in_job(name, "_ctf.mrc") for name in opened.names]
    if len(set(pictures)) < len(pictures):
        raise InconsistentDataError(
            "Micrographs must differ in their path after JobType/jobNNN/ and without ending; got two alike; rename one."
        )
    large = set(np.linspace(0, len(pictures) - 1, min(len(pictures), DETAILS)).astype(int).tolist())
    return [
        CtfTask(
            name=name,
            path=path,
            spectrum=None if spectra is None else context.resolve(str(spectra[index])),
            picture=context.folder / pictures[index],
            pixel_size_angstrom=float(opened.pixel_size_angstrom[index]),
            microscope=Microscope(**{key: float(column[index]) for key, column in values.items()}),
            params=params,
            phase_shift_degrees=params.known_phase_shift_degrees,
            patches=params.patches,
            detail=index in large,
        )
        for index, (name, path) in enumerate(zip(opened.names, opened.paths, strict=True))
    ]


def _table(
    context: JobContext,
    micrographs: MicrographSet,
    tasks: Sequence[CtfTask],
    found: Sequence[tuple[int, CtfMicrograph]],
    said: Sequence[tuple[str, ...]],
    params: CtfJobParams,
) -> MicrographSet:
    rows = np.array([index for index, _ in found], dtype=np.int64)
    estimates = [one.estimate for _, one in found]
    lenses = [one.lens for one in estimates]
    u = np.array([lens.defocus_u_angstrom for lens in lenses])
    v = np.array([lens.defocus_v_angstrom for lens in lenses])
    columns = {
        "ctf_image_name": _text(context.relative(tasks[index].picture) for index in rows),
        "defocus_u_angstrom": u,
        "defocus_v_angstrom": v,
        "ctf_astigmatism_angstrom": u - v,
        "defocus_angle_degrees": np.array([lens.angle_degrees for lens in lenses]),
        "ctf_figure_of_merit": np.array([one.figure_of_merit for one in estimates]),
        "ctf_max_resolution_angstrom": np.array([one.max_resolution_angstrom for one in estimates]),
        "rlnCtfIceRingDensity": _text(f"{np.nan_to_num(one.ice_ring_density):.6f}" for one in estimates),
        "halfmapCtfRingDepth": _text(f"{one.ring_depth:.4f}" for one in estimates),
        "halfmapCtfConcerns": _text(str(len(one)) for one in said),
        "halfmapCtfConcern": _text("; ".join(one) or "none" for one in said),
    }
    if params.phase_shift or params.known_phase_shift_degrees or "phase_shift_degrees" in micrographs:
        columns["phase_shift_degrees"] = np.array([lens.phase_shift_degrees for lens in lenses])
    if params.patches != (1, 1):
        slopes = [(0.0, 0.0) if one.local is None else one.local.slope for _, one in found]
        columns |= {
            name: _text(f"{slope[number]:.6f}" for slope in slopes) for number, name in enumerate(DEFOCUS_SLOPES)
        }
    return micrographs.take(rows).with_columns(**columns)


def _write_rest(
    context: JobContext,
    tasks: Sequence[CtfTask],
    found: Sequence[tuple[int, CtfMicrograph]],
    failed: Sequence[Rejected],
    rejected: Sequence[Rejected],
) -> None:
    """Write lists of what failed and was set aside, and the defoci of patches."""
    for name, some in (("failed.star", failed), ("rejected.star", rejected)):
        if some:
            star.write(context.folder / name, [star.with_version(rejected_micrographs(some))])
    patches = [
        (tasks[index].name, *position, defocus)
        for index, one in found
        if one.local is not None
        for position, defocus in zip(one.local.position_angstrom, one.local.defocus_angstrom, strict=True)
    ]
    if patches:
        names, x, y, defocus = zip(*patches, strict=True)
        columns = {"rlnMicrographName": _text(names)}
        columns |= {
            label: _text(f"{value:.2f}" for value in values)
            for label, values in (
                ("halfmapPatchXAngst", x),
                ("halfmapPatchYAngst", y),
                ("halfmapPatchDefocus", defocus),
            )
        }
        table = star.StarTable(name="local_defocus", columns=columns)
        star.write(context.folder / "local_defocus.star", [star.with_version(table)])


def _text(words: Iterable[str]) -> np.ndarray:
    return np.array(list(words), dtype=object)
