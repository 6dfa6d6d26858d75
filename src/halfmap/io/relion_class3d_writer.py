"""A 3D classification as RELION's files: maps of the classes, data, model, sampling, optimiser."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from halfmap.data.class3d_run import Class3DRun
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.geometry.view_counts import counts_in_asymmetric_unit
from halfmap.io import mrc, relion, star
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
    texts,
    write_tables,
)

HISTORY = "halfmap_history"
"""Block of the optimiser file with one row for each iteration; RELION passes over it."""

_LOCAL_STEPS = 2.0  # spread of a local search's prior in fine steps
_FINE_STEP_AT_ORDER_0 = 30.0  # degrees


def write_class3d_run(folder: str | Path, name: str, run: Class3DRun, *, relative: Callable[[Path], str] = str) -> Path:
    """Write a run after an iteration.

    ``run_it012_class001.mrc`` … and ``run_it012_{data,model,sampling,optimiser}.star``. Each file appears by rename;
    the optimiser file is the last, so where it lies the iteration is complete.

    Parameters
    ----------
    folder : of the job.
    name : first part of the files' names: ``run``.
    run : what is written. Image names of its particles must hold from the project.
    relative : turns the path of a file into the name that other files give it, `JobContext.relative`.

    Returns
    -------
    Path
        The ``_data.star``.

    Raises
    ------
    InputError
        A number that must be finite is not.
    ProjectError
        A file cannot be written.

    Notes
    -----
    Variances of maps are side² times ours, as in `halfmap.io.relion_refinement_writer`.
    """
    stem = Path(folder) / f"{name}_it{run.iteration:03d}"

    def path(ending: str) -> Path:
        return stem.with_name(stem.name + ending)

    def named(ending: str) -> str:
        return relative(path(ending))

    maps = [f"_class{number:03d}.mrc" for number in range(1, len(run.maps) + 1)]
    for ending, volume in zip(maps, run.maps, strict=True):
        mrc.write_volume(path(ending), volume)
    groups = ParticleGroups(run.particles.without_unused_optics(), run.noise)
    relion.write_particles(path("_data.star"), groups.particles)
    write_tables(path("_model.star"), _model(run, groups, [named(ending) for ending in maps]))
    write_tables(path("_sampling.star"), _sampling(run))
    files = {
        "rlnOutputRootName": relative(Path(folder) / name),
        "rlnModelStarFile": named("_model.star"),
        "rlnExperimentalDataStarFile": named("_data.star"),
        "rlnOrientSamplingStarFile": named("_sampling.star"),
    }
    write_tables(path("_optimiser.star"), _optimiser(run, files))
    return path("_data.star")


def _model(run: Class3DRun, groups: ParticleGroups, images: list[str]) -> list[star.StarTable]:
    particles, K = run.particles, len(run.maps)
    local = _LOCAL_STEPS * _FINE_STEP_AT_ORDER_0 / 2**run.healpix_order if run.is_local else 0.0
    general = model_general(
        groups,
        run.grid,
        n_classes=K,
        resolution_angstrom=float(finite_or(run.resolution_angstrom.min(), NOT_KNOWN)),
        current_size_pixel=run.current_size_pixel,
        padding=run.padding,
        regularisation=run.regularisation,
        mean_norm=float(np.mean(particles.get("norm_correction", 1.0))),
        offset_sigma_angstrom=run.offset_sigma_angstrom,
        local_sigma_degrees=local,
        log_likelihood=float(np.nansum(particles["log_likelihood"])),
        mean_max_probability=float(np.nanmean(particles["max_probability"])),
    )
    last = max(1, run.current_size_pixel // 2)
    not_known = np.full(K, NOT_KNOWN)
    numbers = {
        "rlnClassDistribution": run.fractions,
        "rlnAccuracyRotations": not_known,
        "rlnAccuracyTranslationsAngst": not_known,
        "rlnEstimatedResolution": finite_or(run.resolution_angstrom, NOT_KNOWN),
        "rlnOverallFourierCompleteness": run.completeness[:, 1 : last + 1].mean(axis=1),
    }
    classes = {"rlnReferenceImage": strings(images)} | {
        label: texts(label, values) for label, values in numbers.items()
    }
    in_slices = run.grid.side**2
    spectra = [
        class_spectra(
            k + 1,
            run.grid,
            {
                "rlnSsnrMap": run.ssnr[k],
                "rlnFourierCompleteness": run.completeness[k],
                "rlnReferenceSigma2": in_slices * run.error_variance[k],
                "rlnReferenceTau2": in_slices * run.error_variance[k] * run.ssnr[k],
            },
        )
        for k in range(K)
    ]
    views = []
    for k in range(K):
        mine = torch.from_numpy(np.array(particles["rotation"][particles["class_number"] == k + 1]))
        _, counts = counts_in_asymmetric_unit(mine.reshape(-1, 3, 3), run.healpix_order, run.symmetry)
        share = counts.double().numpy() / max(len(particles), 1)
        views.append(
            star.StarTable(
                name=f"model_pdf_orient_class_{k + 1}",
                columns={"rlnOrientationDistribution": texts("orientation", share)},
            )
        )
    return [general, star.StarTable(name="model_classes", columns=classes), *spectra, *groups.tables(run.grid), *views]


def _sampling(run: Class3DRun) -> list[star.StarTable]:
    grid = OrientationGrid(run.healpix_order)
    steps = {
        "rlnPsiStep": grid.spacing_degrees,
        "rlnOffsetRange": run.offset_range_angstrom,
        "rlnOffsetStep": 2.0**OVERSAMPLING * run.offset_step_angstrom,
    }
    general = {
        "rlnIs3DSampling": 1,
        "rlnIs3DTranslationalSampling": 0,
        "rlnHealpixOrder": run.healpix_order,
        "rlnSymmetryGroup": canonical_name(run.symmetry),
        "rlnTiltAngleLimit": -91.0,
        **steps,
        "rlnHelicalOffsetStep": -1.0,
        "rlnSamplingPerturbInstance": float(run.perturbation),
        "rlnSamplingPerturbFactor": 0.5,
        "rlnHealpixOrderOriginal": run.healpix_order,
        **{f"{label}Original": value for label, value in steps.items()},
    }
    x, y, z = grid.directions(grid.direction_numbers(run.symmetry)).T.numpy()
    directions = {
        "rlnAngleRot": texts("rot", np.degrees(np.arctan2(y, x))),
        "rlnAngleTilt": texts("tilt", np.degrees(np.arccos(np.clip(z, -1, 1)))),
    }
    return [
        list_table("sampling_general", general),
        star.StarTable(name="sampling_directions", columns=directions),
    ]


def _optimiser(run: Class3DRun, files: dict[str, str]) -> list[star.StarTable]:
    changed = float(run.history["changed_share"][-1]) * len(run.particles)
    state = {
        **files,
        "rlnCurrentIteration": run.iteration,
        "rlnNumberOfIterations": run.iteration if run.is_final else 999,
        "rlnAdaptiveOversampleOrder": OVERSAMPLING,
        "rlnRandomSeed": run.seed,
        "rlnParticleDiameter": run.mask_diameter_angstrom,
        "rlnOverallAccuracyRotations": NOT_KNOWN,
        "rlnOverallAccuracyTranslationsAngst": NOT_KNOWN,
        "rlnDoStochasticGradientDescent": 0,
        **({"rlnChangesOptimalClasses": changed} if math.isfinite(changed) else {}),
    }
    columns = {name: strings([repr(float(value)) for value in values]) for name, values in run.history.columns.items()}
    return [
        list_table("optimiser_general", {**OPTIMISER_DEFAULTS, **run.settings, **state}),
        star.StarTable(name=HISTORY, columns=columns),
    ]
