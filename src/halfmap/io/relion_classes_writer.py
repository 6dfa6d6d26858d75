"""A 2D classification as RELION's files: data, model, sampling, optimiser, and the stacks of class averages.

Versions 3.1 and 5 differ in where they keep noise spectra (one for each micrograph, one for each optics group); both
are written, so that both can go on from the run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun, NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.io import relion, star
from halfmap.io.mrc import StackWriter
from halfmap.io.relion_columns import CLASS_FIELDS, encode, number_texts

NOT_KNOWN = 999.0
"""What RELION writes for an accuracy that was not estimated, and for the resolution of shell 0."""

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
_OVERSAMPLING = 1  # RELION's first pass takes steps twice as wide as the fine ones that a run states

_OPTIMISER_DEFAULTS: Mapping[str, str] = {
    "rlnDoSplitRandomHalves": "0",
    "rlnJoinHalvesUntilThisResolution": "-1",
    "rlnAdaptiveOversampleFraction": "0.999",
    "rlnWidthMaskEdge": "5",
    "rlnDoZeroMask": "1",
    "rlnDoSolventFlattening": "1",
    "rlnDoSolventFscCorrection": "0",
    "rlnSolventMaskName": "None",
    "rlnSolventMask2Name": "None",
    "rlnBodyStarFile": "None",
    "rlnTauSpectrumName": "None",
    "rlnMaximumCoarseImageSize": "-1",
    "rlnHighresLimitExpectation": "-1",
    "rlnLowresLimitExpectation": "-1",
    "rlnIncrementImageSize": "10",
    "rlnDoMapEstimation": "1",
    "rlnDoAutoRefine": "0",
    "rlnAutoLocalSearchesHealpixOrder": "4",
    "rlnNumberOfIterWithoutResolutionGain": "0",
    "rlnNumberOfIterWithoutChangingAssignments": "0",
    "rlnDoSkipAlign": "0",
    "rlnDoSkipRotate": "0",
    "rlnChangesOptimalOrientations": "999",
    "rlnChangesOptimalOffsets": "999",
    "rlnChangesOptimalClasses": "9999999",
    "rlnSmallestChangesOrientations": "999",
    "rlnSmallestChangesOffsets": "999",
    "rlnSmallestChangesClasses": "9999999",
    "rlnHasConverged": "0",
    "rlnHasHighFscAtResolLimit": "0",
    "rlnHasLargeSizeIncreaseIterationsAgo": "0",
    "rlnDoCorrectNorm": "1",
    "rlnDoCorrectScale": "1",
    "rlnDoCorrectCtf": "1",
    "rlnDoIgnoreCtfUntilFirstPeak": "0",
    "rlnCtfDataArePhaseFlipped": "0",
    "rlnDoOnlyFlipCtfPhases": "0",
    "rlnRefsAreCtfCorrected": "1",
    "rlnFixSigmaNoiseEstimates": "0",
    "rlnFixSigmaOffsetEstimates": "0",
    "rlnMaxNumberOfPooledParticles": "3",
}
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
    groups = _Groups(run.particles.without_unused_optics(), run.noise)
    _write_stack(stack, averages, "average")
    if "unmasked_average" in averages:
        _write_stack(folder / f"{prefix}_unmasked_classes.mrcs", averages, "unmasked_average")
    relion.write_particles(paths["data"], groups.particles)
    named = averages.with_columns(image_name=_names_in(relative(stack), len(averages)))
    _write(paths["model"], _model(run, named, groups))
    _write(paths["sampling"], [_sampling(run)])
    _write(paths["optimiser"], [_optimiser(run, relative(folder / prefix), {k: relative(p) for k, p in paths.items()})])
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
        columns[column] = _finite_or(averages.get(column, np.nan), stands_for)
    columns["prior_offset_angstrom"] = np.zeros((len(averages), 2)) + averages.get("prior_offset_angstrom", 0.0)
    if "score" in averages:
        columns["score"] = _finite_or(averages["score"], NO_SCORE)
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
    _write(path, [star.StarTable(name="", columns=renamed)])
    return path


class _Groups:
    """The groups of a run, numbered in the order in which its particles name them, as RELION counts them."""

    def __init__(self, particles: ParticleSet, noise: NoiseModel) -> None:
        given = [str(name) for name in noise.group_name]
        found = list(dict.fromkeys(str(name) for name in particles["group_name"]))
        missing = set(found) - set(given)
        if missing:
            raise InconsistentDataError(
                f"Every group of particles must be in the noise model; got {sorted(missing)[0]!r} and "
                f"{len(missing) - 1} more that are not; give the scale of each."
            )
        self.names = [*found, *(name for name in given if name not in set(found))]
        number_of = {name: number for number, name in enumerate(self.names, start=1)}
        numbers = np.array([number_of[str(name)] for name in particles["group_name"]], dtype=np.int64)
        scale_of = dict(zip(given, noise.group_scale.tolist(), strict=True))
        self.scale = np.array([scale_of[name] for name in self.names])
        self.n_particles = np.bincount(numbers - 1, minlength=len(self.names))
        self.particles = particles.with_columns(group_number=numbers)
        self._row_of = {int(number): row for row, number in enumerate(noise.optics_group.tolist())}
        unknown = [number for number in particles.optics.numbers.tolist() if number not in self._row_of]
        if unknown:
            raise InconsistentDataError(
                f"Every optics group of particles must be in the noise model; got {unknown[0]}, which is not; "
                "give its spectrum."
            )
        self._noise = noise.noise_variance
        first: NDArray[np.int64] = np.unique(numbers, return_index=True)[1]
        self._optics_of = particles["optics_group"][first].tolist()

    def noise_of_optics(self) -> list[NDArray[np.float64]]:
        """Return the spectrum of each optics group, in the order of the optics table."""
        return [self._noise[self._row_of[number]] for number in self.particles.optics.numbers.tolist()]

    def noise_of_groups(self) -> Iterable[int]:
        """Return for each group that has particles the place of its optics group in the optics table."""
        place = {number: row for row, number in enumerate(self.particles.optics.numbers.tolist())}
        return [place[number] for number in self._optics_of]


def _model(run: ClassRun, averages: ClassAverages, groups: _Groups) -> list[star.StarTable]:
    side = averages.grid.side
    shells = _shells(side, averages.grid.pixel_size_angstrom)
    n_shells = side // 2 + 1
    resolution = _finite_or(averages.get("ssnr_resolution_angstrom", np.inf), NOT_KNOWN)
    optics_noise = [_resized(spectrum, n_shells, last=True) for spectrum in groups.noise_of_optics()]
    general = {
        "rlnReferenceDimensionality": 2,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": side,
        "rlnCurrentResolution": float(resolution.min(initial=NOT_KNOWN)),
        "rlnCurrentImageSize": run.current_size_pixel,
        "rlnPaddingFactor": 2.0,
        "rlnIsHelix": 0,
        "rlnFourierSpaceInterpolator": 1,
        "rlnMinRadiusNnInterpolation": 10,
        "rlnPixelSize": averages.grid.pixel_size_angstrom,
        "rlnNrClasses": len(averages),
        "rlnNrBodies": 1,
        "rlnNrGroups": len(groups.names),
        "rlnNrOpticsGroups": len(optics_noise),
        "rlnTau2FudgeFactor": run.regularisation,
        "rlnNormCorrectionAverage": run.mean_norm,
        "rlnSigmaOffsetsAngst": run.offset_sigma_angstrom,
        "rlnOrientationalPriorMode": 0,
        "rlnSigmaPriorRotAngle": 0.0,
        "rlnSigmaPriorTiltAngle": 0.0,
        "rlnSigmaPriorPsiAngle": 0.0,
        "rlnLogLikelihood": run.log_likelihood,
        "rlnAveragePmax": run.mean_max_probability,
    }
    tables = [_list("model_general", general), class_table(averages, name="model_classes")]
    spectra = {
        label: averages[column]
        if column in averages
        else np.full((len(averages), n_shells), _DEFAULT_OF_SPECTRUM.get(column, 0.0))
        for column, label in SPECTRA.items()
    }
    for row in range(len(averages)):
        columns = dict(shells)
        for label, values in spectra.items():
            columns[label] = _texts(label, _resized(_finite_or(values[row], 0.0), n_shells))
        tables.append(star.StarTable(name=f"model_class_{row + 1}", columns=columns))
    numbers = range(1, len(groups.names) + 1)
    of_groups = {
        "rlnGroupNumber": _strings(numbers),
        "rlnGroupName": _strings(groups.names),
        "rlnGroupNrParticles": _strings(groups.n_particles.tolist()),
        "rlnGroupScaleCorrection": _texts("group_scale", groups.scale),
    }
    tables.append(star.StarTable(name="model_groups", columns=of_groups))
    noise = [
        {
            "rlnSpectralIndex": shells["rlnSpectralIndex"],
            "rlnResolution": shells["rlnResolution"],
            "rlnSigma2Noise": _texts("noise_variance", spectrum),
        }
        for spectrum in optics_noise
    ]
    tables += [star.StarTable(name=f"model_optics_group_{k}", columns=one) for k, one in enumerate(noise, start=1)]
    tables += [
        star.StarTable(name=f"model_group_{k}", columns=noise[place])
        for k, place in enumerate(groups.noise_of_groups(), start=1)
    ]
    return tables


def _sampling(run: ClassRun) -> star.StarTable:
    coarse = 2.0**_OVERSAMPLING
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
        "rlnSamplingPerturbInstance": 0.0,
        "rlnSamplingPerturbFactor": 0.5,
        "rlnHealpixOrderOriginal": 2,
        **{f"{label}Original": value for label, value in steps.items()},
    }
    return _list("sampling_general", general)


def _optimiser(run: ClassRun, root: str, names: Mapping[str, str]) -> star.StarTable:
    averages = run.averages
    resolution = _finite_or(averages.get("ssnr_resolution_angstrom", np.inf), NOT_KNOWN)
    smallest = {
        label: float(_finite_or(averages.get(column, np.nan), NOT_KNOWN).min(initial=NOT_KNOWN))
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
        "rlnAdaptiveOversampleOrder": _OVERSAMPLING,
        "rlnRandomSeed": run.seed,
        "rlnParticleDiameter": run.mask_diameter_angstrom,
        "rlnBestResolutionThusFar": float(1.0 / resolution.min(initial=NOT_KNOWN)),
        **smallest,
        "rlnDoStochasticGradientDescent": 0,
        "halfmapAlgorithm": run.algorithm,
    }
    kept = {label: value for label, value in (run.settings or {}).items() if label not in _OWN_STATE}
    return _list("optimiser_general", {**_OPTIMISER_DEFAULTS, **kept, **state})


def _write_stack(path: Path, averages: ClassAverages, column: str) -> None:
    with StackWriter(path, averages.grid, len(averages)) as writer:
        writer.write(averages[column])


def _write(path: Path, tables: Iterable[star.StarTable]) -> None:
    star.write(path, [star.with_version(table) for table in tables])


def _names_in(stack: str, n: int) -> NDArray[np.object_]:
    return _strings(f"{number:06d}@{stack}" for number in range(1, n + 1))


def _shells(side: int, pixel_size_angstrom: float) -> dict[str, NDArray]:
    numbers = np.arange(side // 2 + 1)
    frequency = numbers / (side * pixel_size_angstrom)
    angstrom = np.append(NOT_KNOWN, 1.0 / frequency[1:])
    return {
        "rlnSpectralIndex": _strings(numbers.tolist()),
        "rlnResolution": _texts("resolution", frequency),
        "rlnAngstromResolution": _texts("resolution", angstrom),
    }


def _resized(spectrum: NDArray[np.float64], n_shells: int, *, last: bool = False) -> NDArray[np.float64]:
    """Return a spectrum to the last shell of the box, continued by zeros or by its last positive value."""
    short = spectrum[:n_shells]
    positive = short[short > 0]
    fill = positive[-1] if last and len(positive) else 0.0
    return np.append(short, np.full(n_shells - len(short), fill))


def _finite_or(values: ArrayLike, otherwise: float) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, otherwise)


def _list(name: str, values: Mapping[str, Any]) -> star.StarTable:
    texts = {
        label: number_texts(label, np.array([value]))[0] if isinstance(value, float) else str(value)
        for label, value in values.items()
    }
    return star.StarTable(name=name, columns={label: _strings([text]) for label, text in texts.items()}, is_loop=False)


def _texts(name: str, values: NDArray[np.float64]) -> NDArray[np.object_]:
    return _strings(number_texts(name, values))


def _strings(values: Iterable[Any]) -> NDArray[np.object_]:
    texts: Sequence[str] = [str(value) for value in values]
    return np.array(texts, dtype=object)
