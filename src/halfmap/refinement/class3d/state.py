"""`Classification3DState`: everything that survives an iteration of a 3D classification."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.table import Table


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMaps:
    """What the particles have made of K classes.

    Parameters
    ----------
    references : regularised and masked, as images are compared with them, float32, shape (K, z, y, x).
    fractions : float64, shape (K,).
    ssnr, error_variance, completeness : float64, shape (K, n_shells): T times the ratio of signal to noise, the
        variance of one real component of the unregularised map's transform, and the share of each shell that was seen.
    """

    references: Tensor
    fractions: Tensor
    ssnr: Tensor
    error_variance: Tensor
    completeness: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAssignments:
    """What is known of each of N particles.

    Parameters
    ----------
    class_index : from 0, of the most probable pose, int64; −1 before the first iteration.
    rotation : float64, shape (N, 3, 3); origin_angstrom : float64, shape (N, 2).
    norm : contrast relative to the mean, float64, shape (N,).
    max_probability, log_likelihood, lost_mass : float64; n_significant : int64; all of shape (N,).
    """

    class_index: NDArray[np.int64]
    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    norm: NDArray[np.float64]
    max_probability: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    lost_mass: NDArray[np.float64]
    n_significant: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification3DState:
    """A 3D classification after an iteration; resuming is loading it.

    Parameters
    ----------
    iteration : done; 0 after the start.
    maps : of the classes; before the first iteration one reference or one for each class.
    assignments : of the particles.
    noise_variance : σ², float64, shape (groups, n_shells).
    scale : of micrographs, float64, shape (M,).
    offset_sigma_angstrom : spread of the origins, along one axis.
    shell : the last shell that the maps get next.
    perturbation : shift of the last sampling, as a share of the coarse steps.
    outcome : ``running``, ``converged`` or ``iteration limit``.
    history : column → one value for each iteration: iteration, resolution_angstrom, shell, changed_share,
        mean_max_probability, log_likelihood, median_n_significant, lost_mass, offset_sigma_angstrom, smallest_fraction,
        seconds. What it says of particles holds for those that the iteration looked at; log_likelihood is that of all,
        were the others like them.
    """

    iteration: int
    maps: ClassMaps
    assignments: ClassAssignments
    noise_variance: Tensor
    scale: NDArray[np.float64]
    offset_sigma_angstrom: float
    shell: int
    perturbation: float = 0.0
    outcome: str = "running"
    history: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def history_table(self) -> Table:
        """The history, one iteration a row."""
        return Table(columns=self.history)
