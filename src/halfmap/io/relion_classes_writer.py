"""A 2D classification as RELION's files: data, model, sampling, optimiser, and the stacks of class averages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun
from halfmap.io import relion, star
from halfmap.io.mrc import StackWriter
from halfmap.io.relion_columns import CLASS_FIELDS, encode
from halfmap.io.relion_models import (
    NOT_KNOWN,
    OPTIMISER_DEFAULTS,
    OVERSAMPLING,
    ParticleGroups,
    class_spectra,
    finite_or,
    list_table,
    model_general,
    strings,
    write_tables,
)

NO_SCORE = -999.0
"""RELION's score of a class that was not ranked."""

SPECTRA: Mapping[str, str] = {
    "ssnr": "rlnSsnrMap",
    "frc": "rlnGoldStandardFsc",
    "completeness": "rlnFourierCompleteness",
    "error_variance": "rlnReferenceSigma2",
    "prior_variance": "rlnReferenceTau2",
}
"""Spectra of a class and their labels in ``data_model_class_k``."""

_DEFAULT_OF_SPECTRUM = {"completeness": 1.0}

_OWN_STATE = frozenset({"rlnModelStarFile2", "rlnDoGradientRefine"})  # of a run that ours does not go on with


def write_class_run(folder: str | Path, prefix: str, run: ClassRun, *, relative: Callable[[Path], str] = str) -> Path:
    """Write a run after an iteration: ``run_it025_{data,model,sampling,optimiser}.star`` and its stacks.

    The averages go to ``run_it025_classes.mrcs``, those without solvent mask, where the run has them, to
    ``run_unmasked_classes.mrcs``, which every iteration writes anew. Each file appears by rename; the optimiser
    file is the last, so where it lies the iteration is complete.

    Parameters
    ----------
    folder : of the job.
    prefix : of the files: ``run``.
    run : what is written. Image names of its particles must hold from the project.
    relative : turns the path of a file into the name that other files give it, `JobContext.relative`.

    Returns
    -------
    Path
        The optimiser file.

    Raises
    ------
    InputError
        A number that must be finite is not.
    InconsistentDataError
        Particles name a group or an optics group of which the noise model says nothing.
    ProjectError
        A file cannot be written.

    Notes
    -----
    ``rlnGoldStandardFsc`` of a class holds its FRC between halves classified apart (0 where there is none), and
    ``rlnEstimatedResolution`` is RELION's: the last shell whose signal-to-noise ratio reaches 1. What RELION has no
    label for is written under ours (``halfmapNrParticles``, ``halfmapFrcResolution``, ``halfmapAlgorithm``), which
    it skips. Runs of VDAM are written as ones that go on by EM, since the moments that RELION wants are not ours.
    """
    folder = Path(folder)
    stem = folder / f"{prefix}_it{run.iteration:03d}"
    paths = {kind: Path(f"{stem}_{kind}.star") for kind in ("data", "model", "sampling", "optimiser")}
    stack = Path(f"{stem}_classes.mrcs")
    averages = run.averages
    groups = ParticleGroups(run.particles.without_unused_optics(), run.noise)
    _write_stack(stack, averages, "average")
    if "unmasked_average" in averages:
        _write_stack(folder / f"{prefix}_unmasked_classes.mrcs", averages, "unmasked_average")
    relion.write_particles(paths["data"], groups.particles)
    named = averages.with_columns(image_name=_names_in(relative(stack), len(averages)))
    write_tables(paths["model"], _model(run, named, groups))
    write_tables(paths["sampling"], [_sampling(run)])
    write_tables(
        paths["optimiser"], [_optimiser(run, relative(folder / prefix), {k: relative(p) for k, p in paths.items()})]
    )
    return paths["optimiser"]


def class_table(averages: ClassAverages, *, name: str) -> star.StarTable:
    """Return the table of classes as RELION has it, without images and spectra.

    Parameters
    ----------
    averages : with ``image_name``.
    name : of its block.
    """
    columns: dict[str, Any] = {}
    for column, stands_for in (
        ("rotation_accuracy_degrees", NOT_KNOWN),
        ("offset_accuracy_angstrom", NOT_KNOWN),
        ("ssnr_resolution_angstrom", NOT_KNOWN),
        ("fourier_completeness", 1.0),
    ):
        columns[column] = finite_or(averages.get(column, np.nan), stands_for)
    columns["prior_offset_angstrom"] = np.zeros((len(averages), 2)) + averages.get("prior_offset_angstrom", 0.0)
    if "score" in averages:
        columns["score"] = finite_or(averages["score"], NO_SCORE)
    known = {field.column for field in CLASS_FIELDS}
    plain = averages.without_columns(*(set(averages.columns) - known)).with_columns(**columns)
    return star.StarTable(name=name, columns=encode(plain, CLASS_FIELDS))


def write_class_averages(path: str | Path, averages: ClassAverages, *, relative: Callable[[Path], str] = str) -> Path:
    """Write classes as a stack and a table beside it: ``class_averages.star`` and ``class_averages.mrcs``.

    Parameters
    ----------
    path : of the table.
    averages : written in their order.
    relative : as of `write_class_run`.

    Returns
    -------
    Path
        The table.
    """
    path = Path(path)
    stack = path.with_suffix(".mrcs")
    _write_stack(stack, averages, "average")
    named = averages.with_columns(image_name=_names_in(relative(stack), len(averages)))
    columns = class_table(named, name="").columns
    renamed = {"rlnPredictedClassScore" if label == "rlnClassScore" else label: v for label, v in columns.items()}
    write_tables(path, [star.StarTable(name="", columns=renamed)])
    return path


def _model(run: ClassRun, averages: ClassAverages, groups: ParticleGroups) -> list[star.StarTable]:
    grid = averages.grid
    resolution = finite_or(averages.get("ssnr_resolution_angstrom", np.inf), NOT_KNOWN)
    general = model_general(
        groups,
        grid,
        n_classes=len(averages),
        resolution_angstrom=float(resolution.min(initial=NOT_KNOWN)),
        current_size_pixel=run.current_size_pixel,
        padding=2.0,
        regularisation=run.regularisation,
        mean_norm=run.mean_norm,
        offset_sigma_angstrom=run.offset_sigma_angstrom,
        local_sigma_degrees=0.0,
        log_likelihood=run.log_likelihood,
        mean_max_probability=run.mean_max_probability,
    )
    spectra = {
        label: averages[column]
        if column in averages
        else np.full((len(averages), grid.side // 2 + 1), _DEFAULT_OF_SPECTRUM.get(column, 0.0))
        for column, label in SPECTRA.items()
    }
    of_classes = [
        class_spectra(row + 1, grid, {label: values[row] for label, values in spectra.items()})
        for row in range(len(averages))
    ]
    return [general, class_table(averages, name="model_classes"), *of_classes, *groups.tables(grid)]


def _sampling(run: ClassRun) -> star.StarTable:
    coarse = 2.0**OVERSAMPLING
    steps = {
        "rlnPsiStep": coarse * run.psi_step_degrees,
        "rlnOffsetRange": run.offset_range_angstrom,
        "rlnOffsetStep": coarse * run.offset_step_angstrom,
    }
    general = {
        "rlnIs3DSampling": 0,
        "rlnIs3DTranslationalSampling": 0,
        **steps,
        "rlnHelicalOffsetStep": -1.0,
        "rlnSamplingPerturbInstance": run.perturbation,
        "rlnSamplingPerturbFactor": run.perturbation_factor,
        "rlnHealpixOrderOriginal": 2,
        **{f"{label}Original": value for label, value in steps.items()},
    }
    return list_table("sampling_general", general)


def _optimiser(run: ClassRun, root: str, names: Mapping[str, str]) -> star.StarTable:
    averages = run.averages
    resolution = finite_or(averages.get("ssnr_resolution_angstrom", np.inf), NOT_KNOWN)
    smallest = {
        label: float(finite_or(averages.get(column, np.nan), NOT_KNOWN).min(initial=NOT_KNOWN))
        for label, column in (
            ("rlnOverallAccuracyRotations", "rotation_accuracy_degrees"),
            ("rlnOverallAccuracyTranslationsAngst", "offset_accuracy_angstrom"),
        )
    }
    state = {
        "rlnOutputRootName": root,
        "rlnModelStarFile": names["model"],
        "rlnExperimentalDataStarFile": names["data"],
        "rlnOrientSamplingStarFile": names["sampling"],
        "rlnCurrentIteration": run.iteration,
        "rlnNumberOfIterations": max(run.n_iterations, run.iteration),
        "rlnAdaptiveOversampleOrder": OVERSAMPLING,
        "rlnRandomSeed": run.seed,
        "rlnParticleDiameter": run.mask_diameter_angstrom,
        "rlnBestResolutionThusFar": float(1.0 / resolution.min(initial=NOT_KNOWN)),
        **smallest,
        "rlnDoStochasticGradientDescent": 0,
        "halfmapAlgorithm": run.algorithm,
    }
    kept = {label: value for label, value in (run.settings or {}).items() if label not in _OWN_STATE}
    return list_table("optimiser_general", {**OPTIMISER_DEFAULTS, **kept, **state})


def _write_stack(path: Path, averages: ClassAverages, column: str) -> None:
    with StackWriter(path, averages.grid, len(averages)) as writer:
        writer.write(averages[column])


def _names_in(stack: str, n: int) -> NDArray[np.object_]:
    return strings(f"{number:06d}@{stack}" for number in range(1, n + 1))
