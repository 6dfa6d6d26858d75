"""What RELION's files of classifications and refinements have in common when they are written.

Versions 3.1 and 5 differ in where they keep noise spectra (one for each micrograph, one for each optics group); both
are written, so that both can go on from a run.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.class_averages import NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import star
from halfmap.io.relion_columns import number_texts

NOT_KNOWN = 999.0
"""What RELION writes for an accuracy that was not estimated, and for the resolution of shell 0."""

OVERSAMPLING = 1
"""RELION's first pass takes steps twice as wide as the fine ones that a run states."""

OPTIMISER_DEFAULTS: Mapping[str, str] = {
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
"""What an optimiser file says of everything that a run does not set."""


class ParticleGroups:
    """The groups of a run, numbered in the order in which its particles name them, as RELION counts them.

    Parameters
    ----------
    particles : with group_name.
    noise : of all their groups and optics groups.
    is_counted : bool, one for each particle: which of them the groups' sizes count; None: all.

    Raises
    ------
    InconsistentDataError
        Particles name a group or an optics group of which the noise model says nothing.
    """

    def __init__(
        self, particles: ParticleSet, noise: NoiseModel, *, is_counted: NDArray[np.bool_] | None = None
    ) -> None:
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
        counted = np.ones(len(numbers), dtype=bool) if is_counted is None else is_counted
        self.scale = np.array([scale_of[name] for name in self.names])
        self.n_particles = np.bincount(numbers[counted] - 1, minlength=len(self.names))
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

    @property
    def n_optics_groups(self) -> int:
        """Number of optics groups."""
        return len(self.particles.optics)

    def tables(self, grid: ImageGrid) -> list[star.StarTable]:
        """Return ``model_groups`` and the tables of noise spectra.

        Parameters
        ----------
        grid : of the references; spectra are written to the last shell of its box.
        """
        of_groups = {
            "rlnGroupNumber": strings(range(1, len(self.names) + 1)),
            "rlnGroupName": strings(self.names),
            "rlnGroupNrParticles": strings(self.n_particles.tolist()),
            "rlnGroupScaleCorrection": texts("group_scale", self.scale),
        }
        numbers = self.particles.optics.numbers.tolist()
        shells, n_shells = shell_columns(grid), grid.side // 2 + 1
        noise = [
            {
                "rlnSpectralIndex": shells["rlnSpectralIndex"],
                "rlnResolution": shells["rlnResolution"],
                "rlnSigma2Noise": texts(
                    "noise_variance", resized(self._noise[self._row_of[number]], n_shells, last=True)
                ),
            }
            for number in numbers
        ]
        place = {number: row for row, number in enumerate(numbers)}
        of_group = [noise[place[number]] for number in self._optics_of]
        return [
            star.StarTable(name="model_groups", columns=of_groups),
            *(star.StarTable(name=f"model_optics_group_{k}", columns=one) for k, one in enumerate(noise, start=1)),
            *(star.StarTable(name=f"model_group_{k}", columns=one) for k, one in enumerate(of_group, start=1)),
        ]


def model_general(
    groups: ParticleGroups,
    grid: ImageGrid,
    *,
    n_classes: int,
    resolution_angstrom: float,
    current_size_pixel: int,
    padding: float,
    regularisation: float,
    mean_norm: float,
    offset_sigma_angstrom: float,
    local_sigma_degrees: float,
    log_likelihood: float,
    mean_max_probability: float,
) -> star.StarTable:
    """Return the list ``model_general``.

    Parameters
    ----------
    groups, grid : of the model; a grid of three sides makes it one of maps.
    local_sigma_degrees : of the prior of angles in a local search; 0: there is none.
    """
    return list_table(
        "model_general",
        {
            "rlnReferenceDimensionality": grid.ndim,
            "rlnDataDimensionality": 2,
            "rlnOriginalImageSize": grid.side,
            "rlnCurrentResolution": resolution_angstrom,
            "rlnCurrentImageSize": current_size_pixel,
            "rlnPaddingFactor": padding,
            "rlnIsHelix": 0,
            "rlnFourierSpaceInterpolator": 1,
            "rlnMinRadiusNnInterpolation": 10,
            "rlnPixelSize": grid.pixel_size_angstrom,
            "rlnNrClasses": n_classes,
            "rlnNrBodies": 1,
            "rlnNrGroups": len(groups.names),
            "rlnNrOpticsGroups": groups.n_optics_groups,
            "rlnTau2FudgeFactor": regularisation,
            "rlnNormCorrectionAverage": mean_norm,
            "rlnSigmaOffsetsAngst": offset_sigma_angstrom,
            "rlnOrientationalPriorMode": int(local_sigma_degrees > 0),
            "rlnSigmaPriorRotAngle": local_sigma_degrees,
            "rlnSigmaPriorTiltAngle": local_sigma_degrees,
            "rlnSigmaPriorPsiAngle": local_sigma_degrees,
            "rlnLogLikelihood": log_likelihood,
            "rlnAveragePmax": mean_max_probability,
        },
    )


def class_spectra(number: int, grid: ImageGrid, spectra: Mapping[str, NDArray[np.float64]]) -> star.StarTable:
    """Return ``model_class_k``: spectra by their labels; what is not finite is written as 0, as RELION does."""
    n_shells = grid.side // 2 + 1
    columns = shell_columns(grid)
    for label, values in spectra.items():
        columns[label] = texts(label, resized(finite_or(values, 0.0), n_shells))
    return star.StarTable(name=f"model_class_{number}", columns=columns)


def write_tables(path: Path, tables: Iterable[star.StarTable]) -> None:
    """Write tables with the version that RELION tells its dialects by."""
    star.write(path, [star.with_version(table) for table in tables])


def shell_columns(grid: ImageGrid) -> dict[str, NDArray]:
    """Return number, frequency and resolution of each shell by their labels."""
    numbers = np.arange(grid.side // 2 + 1)
    frequency = numbers / (grid.side * grid.pixel_size_angstrom)
    angstrom = np.append(NOT_KNOWN, 1.0 / frequency[1:])
    return {
        "rlnSpectralIndex": strings(numbers.tolist()),
        "rlnResolution": texts("resolution", frequency),
        "rlnAngstromResolution": texts("resolution", angstrom),
    }


def resized(spectrum: NDArray[np.float64], n_shells: int, *, last: bool = False) -> NDArray[np.float64]:
    """Return a spectrum to the last shell of the box, continued by zeros or by its last positive value."""
    short = spectrum[:n_shells]
    positive = short[short > 0]
    fill = positive[-1] if last and len(positive) else 0.0
    return np.append(short, np.full(n_shells - len(short), fill))


def finite_or(values: ArrayLike, otherwise: float) -> NDArray[np.float64]:
    """Return values with a number in place of those that are not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, otherwise)


def list_table(name: str, values: Mapping[str, Any]) -> star.StarTable:
    """Return a block with one value for each label; floats are written as numbers of a loop are."""
    written = {
        label: number_texts(label, np.array([value]))[0] if isinstance(value, float) else str(value)
        for label, value in values.items()
    }
    return star.StarTable(name=name, columns={label: strings([text]) for label, text in written.items()}, is_loop=False)


def texts(name: str, values: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return numbers as text; the name is for the error about one that is not finite."""
    return strings(number_texts(name, values))


def strings(values: Iterable[Any]) -> NDArray[np.object_]:
    """Return values as text, in a column of a table."""
    return np.array([str(value) for value in values], dtype=object)
