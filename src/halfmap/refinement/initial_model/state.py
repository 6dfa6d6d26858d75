"""`InitialModelState`: everything that survives a mini-batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.table import Table


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignments:
    """What was last found for each of N particles.

    Parameters
    ----------
    class_index : from 0, int64; rotation : float64, shape (N, 3, 3); origin_angstrom : float64, shape (N, 2).
    max_probability, log_likelihood : float64; n_significant, seen_in : int64; all of shape (N,); ``seen_in`` is the
        iteration that last looked at a particle, 0 where none has.
    """

    class_index: NDArray[np.int64]
    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    max_probability: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    n_significant: NDArray[np.int64]
    seen_in: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialModelState:
    """An initial model after a mini-batch; resuming is loading it.

    Parameters
    ----------
    iteration : done; 0 after the start.
    references : of K classes, as images are compared with them, float32, shape (K, side, side, side).
    data, weight : fading sums over slices of both pseudo-halves, shape (2, K, *half volume) of
        `halfmap.inference.sums.SliceSums`.
    fractions : of the classes, float64, shape (K,).
    noise_variance : σ², float64, shape (groups, n_shells).
    offset_sigma_angstrom : spread of the origins, along one axis.
    assignments : of the particles.
    symmetry_correlation : of each class with its symmetrised self when its axes were found, float64, shape (K,); nan
        before, or where there was nothing to find.
    perturbation : shift of the last sampling, as a share of the coarse steps.
    history : column → one value for each iteration: iteration, n_particles, resolution_angstrom, shell, healpix_order,
        has_symmetry, offset_step_angstrom, agreement_angstrom, mean_max_probability, log_likelihood,
        median_n_significant, lost_mass, offset_sigma_angstrom, seconds. ``agreement_angstrom`` is where the FSC of the
        pseudo-halves of the largest class falls below 0.5; both were aligned to one map, so it is no resolution.
    tried : states that go on beside this one while signs or classes are tried: of T, O and I, for each class the state
        with this class turned; of several classes the one with the largest parted; else empty.
    """

    iteration: int
    references: Tensor
    data: Tensor
    weight: Tensor
    fractions: Tensor
    noise_variance: Tensor
    offset_sigma_angstrom: float
    assignments: Assignments
    symmetry_correlation: Tensor
    perturbation: float = 0.0
    history: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    tried: tuple["InitialModelState", ...] = ()

    @property
    def history_table(self) -> Table:
        """The history, one iteration a row."""
        return Table(columns=self.history)
