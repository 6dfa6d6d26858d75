"""`ClassAverages`: the classes of a 2D classification, one a row, and `ClassRun`: all that one leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.table import NUMBER, TEXT, WHOLE, ColumnKind, Table
from halfmap.errors import ShapeError
from halfmap.grid import ImageGrid

IMAGE = ColumnKind(np.float32, (None, None))
SPECTRUM = ColumnKind(np.float64, (None,))


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAverages(Table):
    """Classes, one a row.

    Parameters
    ----------
    grid : of the images.

    Known columns
    -------------
    class_number (from 1); average, unmasked_average (float32, (n, side, side): with and without the solvent
    mask, particles bright, in units of the particles' background deviation); n_particles (hard assignments);
    fraction (expected share of all particles, sums to 1); score (of the ranker, 0 to 1, nan: none);
    frc_resolution_angstrom (of the closing stage, from two halves classified apart; nan: none, or no more than
    chance);
    ssnr_resolution_angstrom (last shell before the model's signal-to-noise ratio falls below 1; RELION's
    rlnEstimatedResolution; inf: none); rotation_accuracy_degrees, offset_accuracy_angstrom (estimated
    errors of a particle's pose; nan: not estimated); prior_offset_angstrom (n, 2); fourier_completeness
    (0 to 1); image_name (``000001@run_it025_classes.mrcs``). Spectra, shape (n, n_shells), one value for
    each shell from DC on: frc (nan: none), ssnr, prior_variance (τ², of one real component of a
    coefficient of `ImageGrid.rfft`), error_variance (σ² of the average, the same), completeness.

    Raises
    ------
    ShapeError
        Images have other sides than the grid.
    """

    grid: ImageGrid

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {
        "class_number": WHOLE,
        "average": IMAGE,
        "unmasked_average": IMAGE,
        "n_particles": WHOLE,
        "fraction": NUMBER,
        "score": NUMBER,
        "frc_resolution_angstrom": NUMBER,
        "ssnr_resolution_angstrom": NUMBER,
        "rotation_accuracy_degrees": NUMBER,
        "offset_accuracy_angstrom": NUMBER,
        "prior_offset_angstrom": ColumnKind(np.float64, (2,)),
        "fourier_completeness": NUMBER,
        "image_name": TEXT,
        "frc": SPECTRUM,
        "ssnr": SPECTRUM,
        "prior_variance": SPECTRUM,
        "error_variance": SPECTRUM,
        "completeness": SPECTRUM,
    }
    NOUN: ClassVar[str] = "table of classes"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("average", "unmasked_average"):
            if name in self and self[name].shape[1:] != self.grid.shape:
                raise ShapeError(
                    f"Class averages must have the sides {self.grid.shape}; got {self[name].shape[1:]} in {name}."
                )

    def _complete(self, columns: dict[str, NDArray]) -> None:
        if "class_number" not in columns and columns:
            columns["class_number"] = np.arange(1, len(next(iter(columns.values()))) + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseModel:
    """What differs between optics groups and micrographs.

    Parameters
    ----------
    optics_group : numbers, shape (g,).
    noise_variance : float64, shape (g, n_shells): σ² of one real component of a coefficient of `ImageGrid.rfft`.
    group_name : of the micrographs, shape (m,); particles have the column ``group_name``.
    group_scale : grey scale of each micrograph, about 1, shape (m,).
    """

    optics_group: NDArray[np.int64]
    noise_variance: NDArray[np.float64]
    group_name: NDArray
    group_scale: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassRun:
    """A 2D classification after an iteration.

    Parameters
    ----------
    averages : its classes.
    particles : with class_number (0: none yet), rotation (in plane), origin_angstrom, norm_correction,
        max_probability, log_likelihood, n_significant, group_name. Those set aside are not in it.
    noise : of optics groups and micrographs.
    mask_diameter_angstrom : of the circular mask.
    iteration, n_iterations : the last one done, and how many there shall be.
    algorithm : ``em`` or ``vdam``.
    regularisation : T, RELION's tau fudge.
    psi_step_degrees, offset_range_angstrom, offset_step_angstrom : the fine sampling of angles; search range and
        fine step of offsets.
    offset_sigma_angstrom : of the prior of offsets, along one axis.
    perturbation, perturbation_factor : by which share of the first pass's steps the last iteration's sampling was
        moved, and how far that may be at most.
    current_size_pixel : side of the box that the band of the last iteration corresponds to.
    mean_norm : mean of the particles' norm corrections.
    log_likelihood : sum over particles.
    mean_max_probability : mean over particles.
    seed : of the run.
    settings : RELION label → value of what else was set (``rlnDoCorrectCtf`` …), for its optimiser file.
    """

    averages: ClassAverages
    particles: ParticleSet
    noise: NoiseModel
    mask_diameter_angstrom: float
    iteration: int
    n_iterations: int
    algorithm: str
    regularisation: float
    psi_step_degrees: float
    offset_range_angstrom: float
    offset_step_angstrom: float
    offset_sigma_angstrom: float
    current_size_pixel: int
    mean_norm: float = 1.0
    log_likelihood: float = 0.0
    mean_max_probability: float = 0.0
    seed: int = 1
    perturbation: float = 0.0
    perturbation_factor: float = 0.5
    settings: Mapping[str, str] | None = None

    def with_averages(self, averages: ClassAverages) -> "ClassRun":
        """Return the run with another table of its classes."""
        return replace(self, averages=averages)
