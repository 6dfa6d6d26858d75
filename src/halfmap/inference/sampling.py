"""Which poses an image is compared at: a coarse grid of rotations and shifts, and the finer one inside it.

Also what every search decides alike: how the grid moves between iterations, and how far in frequency coarse steps tell.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.geometry import translations
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.tensors import Rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseGrid:
    """Rotations and shifts of a coarse pass, and those that refine each of them.

    Parameters
    ----------
    rotations : float64, shape (R, 3, 3).
    shifts_angstrom : float64, shape (T, 2): applied to the image after its whole-pixel origin.
    fine_rotations : float64, shape (R · J, 3, 3): J for each coarse one, in turn.
    fine_shifts_angstrom : float64, shape (T · M, 2): M for each coarse one, in turn.
    shift_area_angstrom2 : of the cell of a fine shift; 1 where offsets are not searched.
    one_each : whether image i is compared at rotation i alone; then there are as many as images, and no finer ones.

    Raises
    ------
    ShapeError
        The fine numbers are no multiples of the coarse ones.
    """

    rotations: Rotations
    shifts_angstrom: Tensor
    fine_rotations: Rotations
    fine_shifts_angstrom: Tensor
    shift_area_angstrom2: float = 1.0
    one_each: bool = False

    def __post_init__(self) -> None:
        for coarse, fine in (
            (self.rotations, self.fine_rotations),
            (self.shifts_angstrom, self.fine_shifts_angstrom),
        ):
            if len(coarse) == 0 or len(fine) % len(coarse):
                raise ShapeError(f"Each coarse pose must have equally many finer ones; got {len(fine)}/{len(coarse)}.")

    @property
    def n_rotations(self) -> int:
        """Number R of coarse rotations."""
        return len(self.rotations)

    @property
    def n_fine_rotations_of_image(self) -> int:
        """Number of fine rotations that an image is compared at."""
        return 1 if self.one_each else len(self.fine_rotations)

    @cached_property
    def half_turns(self) -> bool:
        """Whether coarse rotations r and r + R / 2 differ by half a turn in the plane of the image."""
        half = self.n_rotations // 2
        if self.n_rotations % 2 or self.one_each:
            return False
        return torch.allclose(self.rotations[half:, :2], -self.rotations[:half, :2], rtol=0, atol=1e-9)

    @property
    def n_shifts(self) -> int:
        """Number T of coarse shifts."""
        return len(self.shifts_angstrom)

    @property
    def children_rotations(self) -> int:
        """Number J of fine rotations for each coarse one."""
        return len(self.fine_rotations) // len(self.rotations)

    @property
    def children_shifts(self) -> int:
        """Number M of fine shifts for each coarse one."""
        return len(self.fine_shifts_angstrom) // len(self.shifts_angstrom)


def in_plane_grid(
    *,
    psi_step_degrees: float,
    offset_range_angstrom: float,
    offset_step_angstrom: float,
    perturbation: float = 0.0,
    oversampling: int = 1,
) -> PoseGrid:
    """Return angles around the full circle and shifts within a disc.

    Parameters
    ----------
    psi_step_degrees : largest coarse step; the circle is divided evenly.
    offset_range_angstrom : radius of the disc; 0 leaves the offsets alone.
    offset_step_angstrom : coarse step.
    perturbation : shift of the whole grid, as a share of the coarse steps.
    oversampling : 1 halves both steps in the fine grid, 0 leaves them.

    Raises
    ------
    InputError
        A step is not positive.

    Notes
    -----
    The fine angles of a coarse one lie a quarter of its step to either side, its fine shifts in the
    centres of the four quarters of its cell (RELION's adaptive oversampling; Scheres 2012, J. Struct.
    Biol. 180, 519, section 2.3).
    """
    if not psi_step_degrees > 0:
        raise InputError(f"The step of in-plane angles must be positive; got {psi_step_degrees}°; 6 is usual.")
    n_angles = max(1, math.ceil(360.0 / psi_step_degrees - 1e-6))
    step = 360.0 / n_angles
    angles = (torch.arange(n_angles, dtype=torch.float64) + perturbation) * step
    shifts = translations.disc(offset_range_angstrom, offset_step_angstrom)
    fine_angles, fine_shifts, area = angles, shifts, offset_step_angstrom**2
    if oversampling:
        fine_angles = (angles[:, None] + torch.tensor([-0.25, 0.25], dtype=torch.float64) * step).reshape(-1)
    if oversampling and offset_range_angstrom > 0:
        fine_shifts = translations.children(shifts, offset_step_angstrom).reshape(-1, 2)
        area /= 4
    if offset_range_angstrom > 0:
        shifts = shifts + perturbation * offset_step_angstrom
        fine_shifts = fine_shifts + perturbation * offset_step_angstrom
    else:
        area = 1.0
    return PoseGrid(
        rotations=_in_plane(angles),
        shifts_angstrom=shifts,
        fine_rotations=_in_plane(fine_angles),
        fine_shifts_angstrom=fine_shifts,
        shift_area_angstrom2=area,
    )


def _in_plane(angles_degrees: Tensor) -> Rotations:
    zero = torch.zeros_like(angles_degrees)
    return matrix_from_euler(zero, zero, angles_degrees)


def perturbation(seed: int, iteration: int, previous: float, factor: float = 0.5) -> float:
    """Return by which part of a coarse step the sampling of an iteration is moved.

    Parameters
    ----------
    previous : that of the iteration before; 0 before the first.
    factor : from 0, never moved, to 1.

    Returns
    -------
    ``previous`` plus a random share between half of ``factor`` and all of it, wrapped into [−factor, factor).

    Notes
    -----
    Every iteration so differs from the one before by at least a quarter of the range. The same number moves all angles
    (times their coarse step) and all offsets, in x and y (times theirs), as in RELION.
    """
    if factor == 0:
        return 0.0
    share = float(keyed_random.uniform(seed, "perturbation of sampling", 0, iteration=iteration))
    moved = previous + factor * (0.5 + 0.5 * share)
    return (moved + factor) % (2 * factor) - factor


def shell_of_arc(
    step_degrees: float, mask_diameter_angstrom: float, field_angstrom: float, most: int, *, divisor: float
) -> int:
    """Return the last shell that a pass with some step of angles compares.

    Parameters
    ----------
    step_degrees : of the angles.
    mask_diameter_angstrom : of the mask around the particle.
    field_angstrom : side of the images.
    most : the largest shell to return.
    divisor : by how much finer details may be than the arc; RELION's is 1.5 in 2D and 1.2 in 3D.

    Returns
    -------
    The shell that reaches, as a resolution, the arc that the mask's edge moves in one step, divided by ``divisor``;
    from 1 to ``most``.

    Notes
    -----
    Details finer than that move by more than their own size between two angles, so they tell nothing about
    which angle to look at more closely.
    """
    resolution = math.radians(step_degrees) * mask_diameter_angstrom / 2 / divisor
    return max(1, min(math.ceil(field_angstrom / resolution - 1e-9), most))
