"""The orientations of a global search: directions spread evenly over the sphere, each with all turns in the plane."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_euler, viewing_direction
from halfmap.geometry.symmetry import in_asymmetric_unit
from halfmap.template_matching.global_search.params import MatchTemplateParams
from halfmap.tensors import Rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchGrid:
    """Orientations by number: those of one direction follow one another.

    Parameters
    ----------
    phi_degrees, theta_degrees : float64, shape (n,): of the directions.
    psi_degrees : float64, shape (m,): turns in the plane. Orientation o has direction o // m and turn o % m.
    """

    phi_degrees: Tensor
    theta_degrees: Tensor
    psi_degrees: Tensor

    def __len__(self) -> int:
        return len(self.phi_degrees) * len(self.psi_degrees)

    @property
    def is_paired(self) -> bool:
        """Whether half a turn leads from each of the first half of the turns to one of the second."""
        m = len(self.psi_degrees)
        if m % 2:
            return False
        half = self.psi_degrees[m // 2 :] - self.psi_degrees[: m // 2]
        return bool((half - 180.0).abs().max() < 1e-9)

    def angles(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (phi, theta, psi) in degrees of orientations, each of the shape of the numbers."""
        direction, turn = numbers // len(self.psi_degrees), numbers % len(self.psi_degrees)
        return self.phi_degrees[direction], self.theta_degrees[direction], self.psi_degrees[turn]

    def rotations(self, numbers: Tensor) -> Rotations:
        """Return orientations, float64, shape (..., 3, 3)."""
        return matrix_from_euler(*self.angles(numbers))


def search_grid(params: MatchTemplateParams) -> SearchGrid:
    """Return the orientations that are tried.

    Raises
    ------
    InputError
        There is none: the ranges and the asymmetric unit have nothing in common.

    Notes
    -----
    At each θ the step of φ is the step of θ over sin θ, made a divisor of the range of φ. 2.5° and 1.5° over the whole
    sphere make 6,600 directions of 240 turns. Leopard-EM counts two directions more, as rounding lets the ends of two
    circles of latitude appear twice.

    References
    ----------
    The uniform grid of Leopard-EM 1.2.
    """
    phi_range = params.phi_max_degrees - params.phi_min_degrees
    phis, thetas = [], []
    for circle in _steps(params.theta_min_degrees, params.theta_max_degrees, params.theta_step_degrees, whole=False):
        n = max(1, round(phi_range * math.sin(math.radians(circle)) / params.theta_step_degrees))
        phis += [params.phi_min_degrees + phi_range * i / n for i in range(n)]
        thetas += [circle] * n
    phi, theta = (torch.tensor(values, dtype=torch.float64) for values in (phis, thetas))
    inside = in_asymmetric_unit(
        viewing_direction(matrix_from_euler(phi, theta, torch.zeros_like(phi))), params.symmetry
    )
    if not bool(inside.any()):
        raise InputError(
            "The ranges of --phi and --theta must reach into the asymmetric unit of --symmetry; got none of its "
            "directions; leave the ranges out."
        )
    psi = _steps(params.psi_min_degrees, params.psi_max_degrees, params.psi_step_degrees, whole=True)
    return SearchGrid(
        phi_degrees=phi[inside], theta_degrees=theta[inside], psi_degrees=torch.tensor(psi, dtype=torch.float64)
    )


def _steps(low: float, high: float, step: float, *, whole: bool) -> list[float]:
    """Return angles from low up to high; high itself only where it does not close a whole turn."""
    n = math.floor((high - low) / step + 1e-9)
    closes = whole and high - low > 360.0 - 1e-9 and (n * step) > 360.0 - 1e-9
    return [low + step * i for i in range(n + (0 if closes else 1))]
