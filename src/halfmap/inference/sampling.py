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
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector
from halfmap.geometry.symmetry import operators
from halfmap.tensors import Rotations

_ODD_DIRECTION = (0.7013, 0.1187, 0.7029)
"""On no axis or mirror plane of a point group: neither it nor its images are those of its opposite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseGrid:
    """Rotations and shifts of a coarse pass, and those that refine each of them.

    Parameters
    ----------
    rotations : float64, shape (R, 3, 3); with ``around_each`` what turns each image's own rotation.
    shifts_angstrom : float64, shape (T, 2): applied to the image after its whole-pixel origin.
    fine_rotations : float64, shape (R · J, 3, 3): J for each coarse one, in turn.
    fine_shifts_angstrom : float64, shape (T · M, 2): M for each coarse one, in turn.
    shift_area_angstrom2 : of the cell of a fine shift; 1 where offsets are not searched.
    around_each : whether each image is compared around its own rotation alone, at R rotations A = ``rotations`` · A_i.
    mates : with ``around_each``, rotations S of the reference, float64, shape (G, 3, 3): the first R / G rotations are
        around A_i S_1, the next around A_i S_2, and so on; None: around A_i alone.
    log_prior, fine_log_prior : of the rotations, relative to their mean, float64, shapes (R,) and (R · J,); None: all
        are alike.

    Raises
    ------
    ShapeError
        The fine numbers are no multiples of the coarse ones, or these no multiples of the number of mates.
    """

    rotations: Rotations
    shifts_angstrom: Tensor
    fine_rotations: Rotations
    fine_shifts_angstrom: Tensor
    shift_area_angstrom2: float = 1.0
    around_each: bool = False
    mates: Rotations | None = None
    log_prior: Tensor | None = None
    fine_log_prior: Tensor | None = None

    def __post_init__(self) -> None:
        for coarse, fine in (
            (self.rotations, self.fine_rotations),
            (self.shifts_angstrom, self.fine_shifts_angstrom),
        ):
            if len(coarse) == 0 or len(fine) % len(coarse):
                raise ShapeError(f"Each coarse pose must have equally many finer ones; got {len(fine)}/{len(coarse)}.")
        if self.mates is not None and len(self.rotations) % len(self.mates):
            raise ShapeError(
                f"Each mate must have equally many rotations; got {len(self.rotations)} for {len(self.mates)}."
            )

    def around(self, own: Rotations, *, fine: bool) -> Rotations:
        """Return the rotations around each image's own.

        Parameters
        ----------
        own : A_i, float64, shape (n, 3, 3).
        fine : the fine ones, else the coarse ones.

        Returns
        -------
        float64, shape (n, R, 3, 3), or (n, R · J, 3, 3)
        """
        turns = (self.fine_rotations if fine else self.rotations).to(own.device)
        if self.mates is None:
            return turns @ own[:, None]
        of_mate = turns.view(len(self.mates), -1, 3, 3)
        return (of_mate @ (own[:, None] @ self.mates.to(own.device))[:, :, None]).flatten(1, 2)

    @property
    def n_rotations(self) -> int:
        """Number R of coarse rotations."""
        return len(self.rotations)

    @cached_property
    def half_turns(self) -> bool:
        """Whether coarse rotations r and r + R / 2 differ by half a turn in the plane of the image."""
        half = self.n_rotations // 2
        if self.n_rotations % 2 or self.around_each:
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
    fine_angles = angles
    if oversampling:
        fine_angles = (angles[:, None] + torch.tensor([-0.25, 0.25], dtype=torch.float64) * step).reshape(-1)
    shifts, fine_shifts, area = _shifts(offset_range_angstrom, offset_step_angstrom, perturbation, oversampling)
    return PoseGrid(
        rotations=_in_plane(angles),
        shifts_angstrom=shifts,
        fine_rotations=_in_plane(fine_angles),
        fine_shifts_angstrom=fine_shifts,
        shift_area_angstrom2=area,
    )


def own_rotations(poses: PoseGrid, *, keep_origin: bool) -> PoseGrid:
    """Return a grid at which each image is compared at its own rotation alone, and with ``keep_origin`` unshifted."""
    identity = torch.eye(3, dtype=torch.float64)[None]
    none = torch.zeros((1, 2), dtype=torch.float64)
    return PoseGrid(
        rotations=identity,
        fine_rotations=identity,
        shifts_angstrom=none if keep_origin else poses.shifts_angstrom,
        fine_shifts_angstrom=none if keep_origin else poses.fine_shifts_angstrom,
        shift_area_angstrom2=1.0 if keep_origin else poses.shift_area_angstrom2,
        around_each=True,
    )


def orientation_grid(
    *,
    healpix_order: int,
    symmetry: str,
    offset_range_angstrom: float,
    offset_step_angstrom: float,
    perturbation: float = 0.0,
    oversampling: int = 1,
    finer_rotations: bool = True,
) -> PoseGrid:
    """Return orientations of the asymmetric unit of a group, and shifts within a disc.

    Parameters
    ----------
    healpix_order : of the coarse rotations, 60° / 2^order apart; the fine ones are one order finer.
    symmetry : of the references.
    offset_range_angstrom, offset_step_angstrom : radius of the disc and coarse step.
    perturbation : shift of the whole grid, as a share of the coarse steps.
    oversampling : 1 has finer poses within each coarse one, 0 has not.
    finer_rotations : whether the finer poses have finer rotations too, not offsets alone.

    Notes
    -----
    A perturbation turns all rotations within the plane of the image, and about the image's x axis, each by its share of
    the step over √2. Turns about x would separate rotations from those half a turn in the plane away, of which one
    product serves both; so one of each two is turned by the angle and the other by its opposite: that one whose x axis,
    seen from the particle, is nearer to the images of one direction under the group than to those of its opposite. A
    turn about x leaves this as it is, so nothing is covered twice and nothing left out. The second half of the
    rotations is the first, turned by half a turn in the plane.
    """
    grid = OrientationGrid(healpix_order)
    half = torch.arange(grid.n_angles // 2)
    numbers = (grid.direction_numbers(symmetry)[:, None] * grid.n_angles + half).flatten()
    share = math.radians(perturbation * grid.spacing_degrees) / math.sqrt(2)
    x_axis, _, z_axis = torch.eye(3, dtype=torch.float64)
    half_turn = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64).diag()
    coarse = matrix_from_rotation_vector(share * z_axis) @ grid.rotations(numbers)
    is_finer = oversampling and finer_rotations
    finer = grid.finer().rotations(grid.children(numbers)) if is_finer else grid.rotations(numbers)[:, None]
    fine = matrix_from_rotation_vector(share * z_axis) @ finer
    other = ~_is_first_of_pair(coarse, symmetry)
    coarse[other], fine[other] = half_turn @ coarse[other], half_turn @ fine[other]
    turn = matrix_from_rotation_vector(share * x_axis)
    coarse, fine = turn @ coarse, (turn @ fine).flatten(0, 1)
    shifts, fine_shifts, area = _shifts(offset_range_angstrom, offset_step_angstrom, perturbation, oversampling)
    return PoseGrid(
        rotations=torch.cat([coarse, half_turn @ coarse]),
        fine_rotations=torch.cat([fine, half_turn @ fine]),
        shifts_angstrom=shifts,
        fine_shifts_angstrom=fine_shifts,
        shift_area_angstrom2=area,
    )


def _is_first_of_pair(rotations: Rotations, symmetry: str) -> Tensor:
    """Tell rotations from those half a turn in the plane away, alike for all that a group makes of one; shape (R,)."""
    x_axis = rotations[:, 0]
    images = operators(symmetry) @ torch.tensor(_ODD_DIRECTION, dtype=torch.float64)
    along = x_axis @ images.T
    return along.amax(-1) > (-along).amax(-1)


def local_grid(
    *,
    rotation_step_degrees: float,
    sigma_degrees: float,
    offset_range_angstrom: float,
    offset_step_angstrom: float,
    perturbation: float = 0.0,
    mates: Rotations | None = None,
) -> PoseGrid:
    """Return rotations around that of each image, with a Gaussian prior, and shifts within a disc.

    Parameters
    ----------
    rotation_step_degrees : coarse step.
    sigma_degrees : of the prior, along each axis; the search ends at 3 of it.
    offset_range_angstrom, offset_step_angstrom : radius of the disc and coarse step.
    perturbation : shift of the whole grid, as a share of the coarse steps.
    mates : rotations of the reference, float64, shape (G, 3, 3): the same is searched around each image's rotation
        times each of these, all as likely.

    Notes
    -----
    A lattice of rotation vectors within a ball. Finer ones halve the steps along all three axes.
    """
    reach = 3 * sigma_degrees / rotation_step_degrees + 1e-6
    steps = torch.arange(-int(reach), int(reach) + 1, dtype=torch.float64)
    lattice = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)
    lattice = lattice[lattice.norm(dim=-1) <= reach]
    lattice = (lattice[torch.argsort(lattice.square().sum(-1), stable=True)] + perturbation) * rotation_step_degrees
    fine = (lattice[:, None] + _corners(rotation_step_degrees)).reshape(-1, 3)
    n_mates = 1 if mates is None else len(mates)
    lattice, fine = lattice.repeat(n_mates, 1), fine.repeat(n_mates, 1)
    shifts, fine_shifts, area = _shifts(offset_range_angstrom, offset_step_angstrom, perturbation)
    return PoseGrid(
        rotations=matrix_from_rotation_vector(torch.deg2rad(lattice)),
        fine_rotations=matrix_from_rotation_vector(torch.deg2rad(fine)),
        shifts_angstrom=shifts,
        fine_shifts_angstrom=fine_shifts,
        shift_area_angstrom2=area,
        around_each=True,
        mates=mates,
        log_prior=_gaussian(lattice, sigma_degrees),
        fine_log_prior=_gaussian(fine, sigma_degrees),
    )


def tilt_psi_grid(
    *,
    rotation_step_degrees: float,
    sigma_degrees: float,
    symmetry: str,
    offset_range_angstrom: float,
    offset_step_angstrom: float,
    perturbation: float = 0.0,
    mates: Rotations | None = None,
) -> PoseGrid:
    """Return rotations of every rot whose tilt and psi are near each image's own, and shifts within a disc.

    Each image's own rotation must have a rot of 0.

    Parameters
    ----------
    rotation_step_degrees : coarse step of all three angles.
    sigma_degrees : of the prior of tilt and of psi each; the search ends at 3 of it.
    symmetry : of the references, whose turns about z are left out.
    offset_range_angstrom, offset_step_angstrom, perturbation, mates : as for `local_grid`.

    Notes
    -----
    R(psi + ψ) R(tilt + τ) R(φ) = R(ψ) · [R(psi) R(tilt)] · R(τ) R(φ): changes of tilt, and rot, are mates. Finer
    rotations halve the steps about the axes of the image; they have the prior of their coarse one's tilt. Of
    given mates that differ by a turn about z one is enough, since all rots are searched.
    """
    step, reach = rotation_step_degrees, int(3 * sigma_degrees / rotation_step_degrees + 1e-6)
    near = (torch.arange(-reach, reach + 1, dtype=torch.float64) + perturbation) * step
    # a turn about z that the map has is one of its mates' only where these turn the axis onto itself
    fold = int((operators(symmetry)[:, 2, 2] > 1 - 1e-9).sum()) if mates is None else 1
    n_rots = max(1, math.ceil(360.0 / fold / step - 1e-6))
    rots = (torch.arange(n_rots, dtype=torch.float64) + perturbation) * (360.0 / fold / n_rots)
    rot, tilt = (one.flatten() for one in torch.meshgrid(rots, near, indexing="ij"))
    coarse = torch.cartesian_prod(tilt, near)
    corners = _corners(step)
    fine = coarse[:, None] + corners[:, 2:] * torch.tensor([0.0, 1.0])
    turns = _in_plane(coarse[:, 1])
    around_axes = matrix_from_euler(rot, tilt, torch.zeros_like(rot))
    log_prior, fine_log_prior = _gaussian(coarse, sigma_degrees), _gaussian(fine.reshape(-1, 2), sigma_degrees)
    fine_turns = (matrix_from_rotation_vector(torch.deg2rad(corners)) @ turns[:, None]).flatten(0, 1)
    if mates is not None:
        distinct = _beside_turns_about_z(mates, symmetry)
        around_axes = (around_axes @ distinct[:, None]).flatten(0, 1)
        n = len(distinct)
        turns, fine_turns = turns.repeat(n, 1, 1), fine_turns.repeat(n, 1, 1)
        log_prior, fine_log_prior = log_prior.repeat(n), fine_log_prior.repeat(n)
    shifts, fine_shifts, area = _shifts(offset_range_angstrom, offset_step_angstrom, perturbation)
    return PoseGrid(
        rotations=turns,
        fine_rotations=fine_turns,
        shifts_angstrom=shifts,
        fine_shifts_angstrom=fine_shifts,
        shift_area_angstrom2=area,
        around_each=True,
        mates=around_axes,
        log_prior=log_prior,
        fine_log_prior=fine_log_prior,
    )


def _beside_turns_about_z(rotations: Rotations, symmetry: str) -> Rotations:
    """Return the first of all rotations S that turns R(φ) S g make of one another, g of a group."""
    kept: list[Tensor] = []
    for one in rotations:
        axes = one[2] @ operators(symmetry)  # what the axis becomes is all that a turn about it leaves as it is
        if all(float((axes - other[2]).abs().amax(-1).min()) > 1e-6 for other in kept):
            kept.append(one)
    return torch.stack(kept)


def _corners(step_degrees: float) -> Tensor:
    """Return the rotation vectors of the eight finer rotations within a coarse one, in degrees, shape (8, 3)."""
    quarters = torch.tensor([-0.25, 0.25], dtype=torch.float64) * step_degrees
    return torch.cartesian_prod(quarters, quarters, quarters)


def _gaussian(vectors: Tensor, sigma: float) -> Tensor:
    """Return the logarithm of Gaussian weights of mean 1."""
    log_weight = -vectors.square().sum(-1) / (2 * sigma**2)
    return log_weight - log_weight.logsumexp(0) + math.log(len(vectors))


def _shifts(
    range_angstrom: float, step_angstrom: float, perturbation: float, oversampling: int = 1
) -> tuple[Tensor, Tensor, float]:
    """Return coarse shifts, the finer ones within each, and the area of a fine one's cell."""
    shifts = translations.disc(range_angstrom, step_angstrom)
    if not range_angstrom > 0:
        return shifts, shifts, 1.0
    moved = perturbation * step_angstrom
    if not oversampling:
        return shifts + moved, shifts + moved, step_angstrom**2
    fine = translations.children(shifts, step_angstrom).reshape(-1, 2)
    return shifts + moved, fine + moved, step_angstrom**2 / 4


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


def needs_fine_sampling(coarse: int, fine: int, median_n_significant: float, *, many: int = 64) -> bool:
    """Return whether the second pass of a search needs finer steps than the first.

    Parameters
    ----------
    coarse, fine : last shells that the passes compare.
    median_n_significant : samples that the first pass handed on in the iteration before; infinity before the first.
    many : so many mean that the posterior is wide.

    Notes
    -----
    While references hold no more than what the coarse steps resolve, and the posterior is much wider than these, finer
    steps have the weights of those they lie between, at eight times the work. RELION always takes them.
    """
    return fine > coarse or median_n_significant <= many
