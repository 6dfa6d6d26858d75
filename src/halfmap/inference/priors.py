"""What is expected of classes and offsets before an image is seen."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Priors:
    """What is expected of classes and offsets before an image is seen.

    Parameters
    ----------
    fractions : of the classes, float64, shape (C,), with sum 1.
    offset_sigma_angstrom : spread of the origins along one axis.
    prior_offset_angstrom : mean origin of each class, float64, shape (C, 2).
    """

    fractions: Tensor
    offset_sigma_angstrom: float
    prior_offset_angstrom: Tensor

    def log_class(self) -> Tensor:
        """Return log fractions, minus infinity for an empty class."""
        return self.fractions.double().log()

    def log_pose(self, area_angstrom2: float, n_rotations: int) -> Tensor:
        """Return what of the log prior of a pose depends on its class alone, float64, shape (C,).

        Parameters
        ----------
        area_angstrom2 : of the cell of a shift.
        n_rotations : that an image is compared at.
        """
        return self.log_class() + math.log(area_angstrom2 / (2 * math.pi * self.offset_sigma_angstrom**2 * n_rotations))

    def log_offset(self, origins_angstrom: Tensor, area_angstrom2: float) -> Tensor:
        """Return the log probability of the cell around each origin, for each class.

        Parameters
        ----------
        origins_angstrom : float64, shape (..., 2).
        area_angstrom2 : of the cell.

        Returns
        -------
        float64, shape (..., C)
        """
        variance = self.offset_sigma_angstrom**2
        distance = (origins_angstrom[..., None, :] - self.prior_offset_angstrom).square().sum(-1)
        return math.log(area_angstrom2 / (2 * math.pi * variance)) - distance / (2 * variance)
