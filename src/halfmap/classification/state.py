"""`ClassificationState`: everything that survives an iteration of a 2D classification."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.table import Table
from halfmap.inference.vdam import Moments


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """Class averages and what was measured of them; C classes.

    Parameters
    ----------
    masked, unmasked : float32, shape (C, side, side): with the solvent mask, as images are compared with them,
        and without it.
    plain : float32, shape (C, side, side): the averages without regularisation and mask.
    fractions : expected shares, float64, shape (C,).
    prior_offset_angstrom : mean origin of the particles of each class, float64, shape (C, 2).
    offset_sigma_angstrom : spread of the origins around it, along one axis.
    ssnr, prior_variance, error_variance, completeness : float64, shape (C, n_shells); see `ClassAverages`.
    """

    masked: Tensor
    unmasked: Tensor
    plain: Tensor
    fractions: Tensor
    prior_offset_angstrom: Tensor
    offset_sigma_angstrom: float
    ssnr: Tensor
    prior_variance: Tensor
    error_variance: Tensor
    completeness: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignments:
    """What is known of each of N particles.

    Parameters
    ----------
    class_index : from 0; -1 for particles not yet seen.
    psi_degrees, origin_angstrom : most probable pose; shapes (N,) and (N, 2).
    norm : contrast relative to the mean.
    max_probability, log_likelihood, lost_mass : float64; n_significant : int64; all of shape (N,).
    """

    class_index: NDArray[np.int64]
    psi_degrees: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    norm: NDArray[np.float64]
    max_probability: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    lost_mass: NDArray[np.float64]
    n_significant: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosingStage:
    """The particles split in two for good, each half with references of its own.

    Parameters
    ----------
    n_done : passes done.
    halves : references of both halves.
    assignments : of all particles, each within its half.
    frc : between the halves' averages, float64, shape (C, n_shells); nan before the last pass.
    join_shell : up to this shell the halves are joined after each pass.
    """

    n_done: int
    halves: tuple[References, References]
    assignments: Assignments
    frc: Tensor
    join_shell: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassificationState:
    """A 2D classification after an iteration; resuming is loading it.

    Parameters
    ----------
    iteration : done; 0 after the start.
    algorithm : ``em`` or ``vdam``.
    reason : why this one.
    references : of the classes.
    assignments : of the particles.
    noise_variance : σ², float64, shape (groups, n_shells).
    scale : of micrographs, float64, shape (M,).
    shell : the last shell that the next M-step gets.
    reference_shell : the last shell in which the references hold anything.
    perturbation : of the last iteration's sampling, as a share of the coarse steps.
    psi_step_degrees, offset_step_angstrom : fine steps of the next iteration.
    rotation_accuracy_degrees, offset_accuracy_angstrom : of each class, float64, shape (C,).
    moments : of VDAM, else None.
    outcome : ``running``; ``converged`` or ``iteration limit`` once the main iterations are done.
    closing : the closing stage, None before it.
    history : column → one value for each iteration.
    """

    iteration: int
    algorithm: str
    reason: str
    references: References
    assignments: Assignments
    noise_variance: Tensor
    scale: NDArray[np.float64]
    shell: int
    reference_shell: int
    perturbation: float
    psi_step_degrees: float
    offset_step_angstrom: float
    rotation_accuracy_degrees: Tensor
    offset_accuracy_angstrom: Tensor
    moments: Moments | None = None
    outcome: str = "running"
    closing: ClosingStage | None = None
    history: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def history_table(self) -> Table:
        """The history, one iteration a row."""
        return Table(columns=self.history)
