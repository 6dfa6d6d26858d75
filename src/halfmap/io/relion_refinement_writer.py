"""A 3D refinement as RELION's files: half maps, data, models, sampling, optimiser, and the angular distribution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.refinement_run import RefinementRun
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.geometry.view_counts import counts_in_asymmetric_unit, view_counts
from halfmap.io import mrc, relion, star
from halfmap.io.atomic import write_text
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

HALVES = (1, 2)

HISTORY = "halfmap_history"
"""Block of the optimiser file with one row for each iteration; RELION passes over it."""

UNMASKED_FSC = "rlnFourierShellCorrelationUnmaskedMaps"
"""Label of the FSC without mask, beside ``rlnGoldStandardFsc``, which is the one that was used."""

_OWN_STATE = frozenset({"rlnModelStarFile2", "rlnDoGradientRefine"})
_LOCAL_STEPS = 2.0  # spread of a local search's prior in fine steps, as RELION states it
_BILD_ORDER = 4  # finest HEALPix order of the angular distribution: 3072 directions
_BILD_LENGTH = 0.3  # of the longest cylinder, over half the box


def write_refinement_run(
    folder: str | Path, name: str, run: RefinementRun, *, relative: Callable[[Path], str] = str
) -> Path:
    """Write a run after an iteration.

    Before the end: ``run_it012_half{1,2}_class001.mrc`` (regularised), ``run_it012_half{1,2}_model.star`` and
    ``run_it012_{data,sampling,optimiser}.star``. At the end, without number: ``run_class001.mrc`` (of all particles),
    ``run_half{1,2}_class001_unfil.mrc``, ``run_class001_angdist.bild``, ``run_half{1,2}_model.star`` and
    ``run_{data,model,sampling,optimiser}.star``. Each file appears by rename; the optimiser file is the last, so where
    it lies the iteration is complete.

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
    InconsistentDataError
        Particles name a group or an optics group of which a noise model says nothing.
    ProjectError
        A file cannot be written.

    Notes
    -----
    RELION keeps variances of a map in units of its slices, which are side times the coefficients of `ImageGrid.rfft`;
    so ``rlnReferenceSigma2`` and ``rlnReferenceTau2`` are side² times ours. The models of the halves are written at the
    end too, where RELION leaves only the joint one, so that the run can be read back whole.

    All programs of RELION read the maps and the particles. RELION's refinement goes on from the optimiser file where
    its list of directions in the asymmetric unit is as long as ours, so for C1, C2, C4, D2 and D4; for other groups
    the two programs cut the sphere differently, and it must begin anew from the half maps and the particles.
    """
    files = _Names(Path(folder), name, run, relative)
    particles = run.particles.without_unused_optics()
    for half, number in zip(run.halves, HALVES, strict=True):
        if run.is_final:
            if half.unregularised is not None:
                mrc.write_volume(files.path(f"_half{number}_class001_unfil.mrc"), half.unregularised)
        else:
            mrc.write_volume(files.path(f"_half{number}_class001.mrc"), half.map)
    if run.joined is not None:
        mrc.write_volume(files.path("_class001.mrc"), run.joined)
        write_angular_distribution(files.path("_class001_angdist.bild"), run)
    groups = ParticleGroups(particles, run.joined_noise())
    relion.write_particles(files.path("_data.star"), groups.particles)
    for number in HALVES:
        write_tables(files.path(f"_half{number}_model.star"), _model_of_half(run, number, files))
    if run.is_final:
        write_tables(files.path("_model.star"), _joined_model(run, groups, files))
    write_tables(files.path("_sampling.star"), _sampling(run))
    write_tables(files.path("_optimiser.star"), _optimiser(run, files))
    return files.path("_data.star")


def write_angular_distribution(path: str | Path, run: RefinementRun) -> None:
    """Write how often each direction was viewed, as cylinders around the map for ChimeraX (BILD).

    Parameters
    ----------
    path : ``run_class001_angdist.bild``.

    Notes
    -----
    Cylinders stand on a sphere of the box's diameter about its centre, one for each direction of a HEALPix grid from
    which a particle was seen, up to symmetry. The most frequent one is 0.3 times the sphere's radius long and red, the
    rarest blue. Coordinates are Å from the box's first voxel, as of the map in `run_class001.mrc`.
    """
    order = min(run.healpix_order, _BILD_ORDER)
    counts = view_counts(torch.from_numpy(np.array(run.particles["rotation"])), order, run.symmetry).numpy()
    seen = np.flatnonzero(counts)
    directions = OrientationGrid(order).directions(torch.from_numpy(seen)).numpy()
    radius = run.grid.side * run.grid.pixel_size_angstrom / 2
    centre = np.array(run.grid.centre[::-1]) * run.grid.pixel_size_angstrom
    share = counts[seen] / counts.max(initial=1)
    width = radius * math.radians(OrientationGrid(order).spacing_degrees) / 4
    starts = centre + radius * directions
    ends = centre + radius * directions * (1 + _BILD_LENGTH * share[:, None])
    lines = []
    for start, end, red in zip(starts.tolist(), ends.tolist(), share.tolist(), strict=True):
        points = " ".join(f"{value:.3f}" for value in (*start, *end))
        lines += [f".color {red:.3f} 0 {1 - red:.3f}", f".cylinder {points} {width:.3f}"]
    write_text(Path(path), "\n".join([*lines, ""]))


@dataclass(frozen=True)
class _Names:
    """The files of an iteration."""

    folder: Path
    name: str
    run: RefinementRun
    relative: Callable[[Path], str]

    @property
    def stem(self) -> str:
        return self.name if self.run.is_final else f"{self.name}_it{self.run.iteration:03d}"

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.stem}{ending}"

    def named(self, ending: str) -> str:
        return self.relative(self.path(ending))


def _model_of_half(run: RefinementRun, number: int, files: _Names) -> list[star.StarTable]:
    half = run.halves[number - 1]
    is_mine = run.particles["random_subset"] == number
    groups = ParticleGroups(run.particles.without_unused_optics(), half.noise, is_counted=is_mine)
    ending = f"_half{number}_class001_unfil.mrc" if run.is_final else f"_half{number}_class001.mrc"
    return _model(
        run,
        groups,
        is_mine,
        image=files.named(ending),
        ssnr=half.ssnr,
        error_variance=half.error_variance,
        completeness=half.completeness,
        offset_sigma_angstrom=half.offset_sigma_angstrom,
    )


def _joined_model(run: RefinementRun, groups: ParticleGroups, files: _Names) -> list[star.StarTable]:
    first, second = run.halves
    sigma = math.sqrt((first.offset_sigma_angstrom**2 + second.offset_sigma_angstrom**2) / 2)
    return _model(
        run,
        groups,
        np.ones(len(run.particles), dtype=bool),
        image=files.named("_class001.mrc"),
        ssnr=run.joined_ssnr(),
        error_variance=run.joined_error_variance(),
        completeness=np.maximum(first.completeness, second.completeness),
        offset_sigma_angstrom=sigma,
    )


def _model(
    run: RefinementRun,
    groups: ParticleGroups,
    is_mine: NDArray[np.bool_],
    *,
    image: str,
    ssnr: NDArray[np.float64],
    error_variance: NDArray[np.float64],
    completeness: NDArray[np.float64],
    offset_sigma_angstrom: float,
) -> list[star.StarTable]:
    mine = run.particles.take(is_mine)
    resolution = float(finite_or(run.resolution_angstrom, NOT_KNOWN))
    last = max(1, min(run.current_size_pixel // 2, run.n_shells - 1))
    general = model_general(
        groups,
        run.grid,
        n_classes=1,
        resolution_angstrom=resolution,
        current_size_pixel=run.current_size_pixel,
        padding=run.padding,
        regularisation=run.regularisation,
        mean_norm=_mean(mine.get("norm_correction", 1.0), 1.0),
        offset_sigma_angstrom=offset_sigma_angstrom,
        local_sigma_degrees=_LOCAL_STEPS * run.rotation_step_degrees if run.is_local else 0.0,
        log_likelihood=float(np.nansum(mine.get("log_likelihood", 0.0))),
        mean_max_probability=_mean(mine.get("max_probability", 0.0), 0.0),
    )
    numbers = {
        "rlnClassDistribution": 1.0,
        "rlnAccuracyRotations": float(finite_or(run.rotation_accuracy_degrees, NOT_KNOWN)),
        "rlnAccuracyTranslationsAngst": float(finite_or(run.offset_accuracy_angstrom, NOT_KNOWN)),
        "rlnEstimatedResolution": resolution,
        "rlnOverallFourierCompleteness": float(completeness[1 : last + 1].mean()),
    }
    classes = {"rlnReferenceImage": strings([image])}
    classes |= {label: texts(label, np.array([value])) for label, value in numbers.items()}
    in_slices = run.grid.side**2
    spectra = {
        "rlnSsnrMap": ssnr,
        "rlnGoldStandardFsc": run.used_fsc,
        UNMASKED_FSC: run.fsc,
        "rlnFourierCompleteness": completeness,
        "rlnReferenceSigma2": in_slices * error_variance,
        "rlnReferenceTau2": in_slices * error_variance * ssnr,
    }
    rotations = torch.from_numpy(np.array(mine["rotation"]))
    _, counts = counts_in_asymmetric_unit(rotations, run.healpix_order, run.symmetry)
    share = counts.double().numpy() / max(len(mine), 1)
    return [
        general,
        star.StarTable(name="model_classes", columns=classes),
        class_spectra(1, run.grid, spectra),
        *groups.tables(run.grid),
        star.StarTable(
            name="model_pdf_orient_class_1", columns={"rlnOrientationDistribution": texts("orientation", share)}
        ),
    ]


def _sampling(run: RefinementRun) -> list[star.StarTable]:
    coarse = 2.0**OVERSAMPLING
    steps = {
        "rlnPsiStep": OrientationGrid(run.healpix_order).spacing_degrees,
        "rlnOffsetRange": run.offset_range_angstrom,
        "rlnOffsetStep": coarse * run.offset_step_angstrom,
    }
    first = {
        "rlnHealpixOrderOriginal": int(_first(run, "healpix_order", run.healpix_order)),
        "rlnPsiStepOriginal": OrientationGrid(int(_first(run, "healpix_order", run.healpix_order))).spacing_degrees,
        "rlnOffsetRangeOriginal": _first(run, "offset_range_angstrom", run.offset_range_angstrom),
        "rlnOffsetStepOriginal": coarse * _first(run, "offset_step_angstrom", run.offset_step_angstrom),
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
        "rlnSamplingPerturbFactor": float(run.perturbation_factor),
        **first,
    }
    grid = OrientationGrid(run.healpix_order)
    x, y, z = grid.directions(grid.direction_numbers(run.symmetry)).T.numpy()
    directions = {
        "rlnAngleRot": texts("rot", np.degrees(np.arctan2(y, x))),
        "rlnAngleTilt": texts("tilt", np.degrees(np.arccos(np.clip(z, -1, 1)))),
    }
    return [
        list_table("sampling_general", general),
        star.StarTable(name="sampling_directions", columns=directions),
    ]


def _optimiser(run: RefinementRun, files: _Names) -> list[star.StarTable]:
    models = (
        {"rlnModelStarFile": files.named("_model.star")}
        if run.is_final
        else {
            "rlnModelStarFile": files.named("_half1_model.star"),
            "rlnModelStarFile2": files.named("_half2_model.star"),
        }
    )
    changes = {
        "rlnChangesOptimalOrientations": _last(run, "rotation_change_degrees"),
        "rlnChangesOptimalOffsets": _last(run, "offset_change_angstrom"),
    }
    state = {
        "rlnOutputRootName": files.relative(files.folder / files.name),
        **models,
        "rlnExperimentalDataStarFile": files.named("_data.star"),
        "rlnOrientSamplingStarFile": files.named("_sampling.star"),
        "rlnCurrentIteration": run.iteration,
        "rlnNumberOfIterations": 999,
        "rlnDoSplitRandomHalves": 1,
        "rlnJoinHalvesUntilThisResolution": float(finite_or(run.join_resolution_angstrom, -1.0)),
        "rlnDoAutoRefine": 1,
        "rlnAdaptiveOversampleOrder": OVERSAMPLING,
        "rlnRandomSeed": run.seed,
        "rlnParticleDiameter": run.mask_diameter_angstrom,
        "rlnBestResolutionThusFar": 1.0 / run.resolution_angstrom,
        "rlnOverallAccuracyRotations": float(finite_or(run.rotation_accuracy_degrees, NOT_KNOWN)),
        "rlnOverallAccuracyTranslationsAngst": float(finite_or(run.offset_accuracy_angstrom, NOT_KNOWN)),
        "rlnHasConverged": int(run.is_final),
        "rlnDoStochasticGradientDescent": 0,
        "halfmapIsLocalSearch": int(run.is_local),
        **{label: value for label, value in changes.items() if math.isfinite(value)},
    }
    kept = {label: value for label, value in (run.settings or {}).items() if label not in _OWN_STATE}
    tables = [list_table("optimiser_general", {**OPTIMISER_DEFAULTS, **kept, **state})]
    if len(run.history):
        # nan and inf are kept as they are: STAR holds text, and RELION does not read the block
        columns = {column: _plain(values) for column, values in run.history.columns.items()}
        tables.append(star.StarTable(name=HISTORY, columns=columns))
    return tables


def _plain(values: NDArray) -> NDArray[np.object_]:
    return strings(f"{float(value):.9g}" for value in values)


def _first(run: RefinementRun, column: str, otherwise: float) -> float:
    values = run.history[column] if column in run.history and len(run.history) else np.array([otherwise])
    return float(values[0])


def _last(run: RefinementRun, column: str) -> float:
    return float(run.history[column][-1]) if column in run.history and len(run.history) else math.nan


def _mean(values: NDArray[np.float64], otherwise: float) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else otherwise
