"""`RefinementState`: everything that survives an iteration of a 3D refinement."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.table import Table


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfMap:
    """What one half of the particles has made.

    Parameters
    ----------
    reference : regularised and masked, as images are compared with it, float32, shape (z, y, x).
    unregularised : without prior and mask, float32, shape (z, y, x); zeros before the first reconstruction.
    noise_variance : σ², float64, shape (groups, n_shells).
    scale : of micrographs, float64, shape (M,).
    offset_sigma_angstrom : spread of the origins, along one axis.
    error_variance : variance of one real component of the unregularised map's transform, float64, shape (n_shells,).
    ssnr : of the map, float64, shape (n_shells,); RELION's data against prior.
    completeness : share of each shell that was seen, float64, shape (n_shells,).
    """

    reference: Tensor
    unregularised: Tensor
    noise_variance: Tensor
    scale: NDArray[np.float64]
    offset_sigma_angstrom: float
    error_variance: Tensor
    ssnr: Tensor
    completeness: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Orientations:
    """What is known of each of N particles.

    Parameters
    ----------
    rotation : most probable, float64, shape (N, 3, 3).
    origin_angstrom : float64, shape (N, 2).
    norm : contrast relative to the mean, float64, shape (N,).
    max_probability, log_likelihood, lost_mass : float64; n_significant : int64; all of shape (N,).
    """

    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    norm: NDArray[np.float64]
    max_probability: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    lost_mass: NDArray[np.float64]
    n_significant: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseSampling:
    """The steps of an iteration's search.

    Parameters
    ----------
    healpix_order : of the coarse rotations; the fine ones are one order finer.
    is_local : whether each particle is searched around its last pose alone.
    offset_range_angstrom : radius of the offset search.
    offset_step_angstrom : its fine step; the coarse one is twice that.
    perturbation : shift of the grid, as a share of the coarse steps.
    """

    healpix_order: int
    is_local: bool
    offset_range_angstrom: float
    offset_step_angstrom: float
    perturbation: float = 0.0

    @property
    def rotation_step_degrees(self) -> float:
        """Fine step of the rotations: 7.5° at order 2, half of it at each order more."""
        return 30.0 / 2**self.healpix_order


@dataclass(frozen=True, kw_only=True, eq=False)
class Progression:
    """What the decisions on sampling and convergence remember from iteration to iteration.

    Parameters
    ----------
    resolution_angstrom : best so far (half-map FSC 0.5 or more); inf before the first.
    iterations_without_gain : of resolution.
    iterations_without_large_changes : of poses.
    smallest_rotation_change_degrees, smallest_offset_change_angstrom : so far at this sampling; inf at first.
    is_fine_enough : whether finer steps would tell nothing.
    tells_poses : whether the maps of any iteration have told rotations to 10°; from then on searches are thorough.
    """

    resolution_angstrom: float = float("inf")
    iterations_without_gain: int = 0
    iterations_without_large_changes: int = 0
    smallest_rotation_change_degrees: float = float("inf")
    smallest_offset_change_angstrom: float = float("inf")
    is_fine_enough: bool = False
    tells_poses: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementState:
    """A 3D refinement after an iteration; resuming is loading it.

    Parameters
    ----------
    iteration : done; 0 after the start.
    halves : maps of both halves.
    joined : from all particles, regularised, without mask, float32, shape (z, y, x); zeros before the last iteration.
    orientations : of all particles, each found by its half's map alone.
    fsc : between the unregularised half-maps, without mask, float64, shape (n_shells,); nan before the first.
    used_fsc : what regularised them: the same, or corrected for the mask.
    join_shell : up to this shell the halves have been joined.
    shell : the last shell that the next E-step compares.
    sampling : of the next iteration.
    progression : of decisions.
    rotation_accuracy_degrees, offset_accuracy_angstrom : expected errors of poses.
    is_last_next : whether the next iteration is the last, with all particles joined in one map.
    outcome : ``running``, ``converged`` or ``iteration limit``.
    history : column → one value for each iteration: iteration, resolution_angstrom, shell, healpix_order, is_local,
        rotation_step_degrees, offset_step_angstrom, offset_range_angstrom, rotation_accuracy_degrees,
        offset_accuracy_angstrom, rotation_change_degrees, offset_change_angstrom, mean_max_probability,
        log_likelihood, median_n_significant, lost_mass, offset_sigma_angstrom, is_turned_over, seconds.
    """

    iteration: int
    halves: tuple[HalfMap, HalfMap]
    joined: Tensor
    orientations: Orientations
    fsc: Tensor
    used_fsc: Tensor
    join_shell: int
    shell: int
    sampling: PoseSampling
    progression: Progression
    rotation_accuracy_degrees: float
    offset_accuracy_angstrom: float
    is_last_next: bool = False
    outcome: str = "running"
    history: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def history_table(self) -> Table:
        """The history, one iteration a row."""
        return Table(columns=self.history)
