"""Where the E-step of an iteration looks."""

import math

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.geometry.euler import array_from_euler, euler_from_array
from halfmap.geometry.symmetry import mates
from halfmap.inference.posterior import Search
from halfmap.inference.sampling import PoseGrid, local_grid, needs_fine_sampling, orientation_grid, tilt_psi_grid
from halfmap.refinement import decisions
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import Orientations, PoseSampling
from halfmap.tensors import Rotations

MOST_KEPT = 1000
"""Samples of an image that the first pass hands on at most; what is left out is told as lost mass."""


CUT_DEVIATIONS = 3.0
"""See `halfmap.inference.posterior.Search`: cells of rotations in space leave more out than those in a plane."""

WIDE_POSTERIOR = 500
"""With more coarse poses that have weight, the median particle does not know where it is: finer ones tell nothing."""


def pose_grid(
    sampling: PoseSampling,
    symmetry: str,
    *,
    oversampling: int = 1,
    finer_rotations: bool = True,
    widest_degrees: float = math.inf,
    mates: Rotations | None = None,
    free_rot: bool = False,
) -> PoseGrid:
    """Return the rotations and shifts of a sampling; a global one may leave out the finer ones.

    Parameters
    ----------
    symmetry : of the maps.
    oversampling, finer_rotations : of a global search; see `halfmap.inference.sampling.orientation_grid`.
    widest_degrees : most spread of rotations around each particle's own, also of a search that is not local for its
        sampling.
    mates : see `halfmap.inference.sampling.local_grid`.
    free_rot : whether a search that is not local for its sampling takes all rots.
    """
    offsets = {
        "offset_range_angstrom": sampling.offset_range_angstrom,
        "offset_step_angstrom": 2 * sampling.offset_step_angstrom,
        "perturbation": sampling.perturbation,
    }
    local = decisions.local_sigma_degrees(sampling) if sampling.is_local else math.inf
    spread = min(local, widest_degrees)
    coarse_step = 2 * sampling.rotation_step_degrees
    if free_rot and not sampling.is_local:
        return tilt_psi_grid(
            rotation_step_degrees=coarse_step, sigma_degrees=widest_degrees, symmetry=symmetry, mates=mates, **offsets
        )
    if math.isfinite(spread):
        return local_grid(rotation_step_degrees=coarse_step, sigma_degrees=spread, mates=mates, **offsets)
    return orientation_grid(
        healpix_order=sampling.healpix_order,
        symmetry=symmetry,
        oversampling=oversampling,
        finer_rotations=finer_rotations,
        **offsets,
    )


def first_order(params: RefinementParams, symmetry: str) -> tuple[int, bool]:
    """Return the order of the first sampling, and whether its search is local.

    Notes
    -----
    Where angles are known to some spread, fine steps are no wider than this, unless a search of all rots, which is
    not local, is to come first.
    """
    order, local_from = decisions.first_orders(symmetry, params.healpix_order, params.local_from_order)
    finest = local_from - 1 if params.free_rot else math.inf
    while params.sigma_angles_degrees is not None and 30.0 / 2**order > params.sigma_angles_degrees and order < finest:
        order += 1
    return order, order >= local_from


def given_rotations(problem: RefinementProblem, params: RefinementParams) -> NDArray[np.float64]:
    """Return the rotations that particles came with, those of priors first; float64, shape (N, 3, 3).

    Without any they are identities. Where all rots are searched, rot is 0.

    Raises
    ------
    InputError
        The first search is around them, and particles have none, or it is local, which leaves no rot to search.
    """
    particles = problem.particles
    if params.free_rot:
        return _without_rot(problem, params)
    for column in ("prior_rotation", "rotation") if params.sigma_angles_degrees is not None else ("rotation",):
        if column in particles:
            return np.array(particles[column], dtype=np.float64)
    order, is_local = first_order(params, problem.symmetry)
    if params.sigma_angles_degrees is not None:
        raise InputError(
            "Searches within --sigma-angles must be around known angles; got particles without any; leave it out."
        )
    if is_local:
        raise InputError(
            f"Local searches from the start (order {order}) must begin at known angles; got particles without any; "
            "give a smaller --healpix-order."
        )
    return np.tile(np.eye(3), (len(particles), 1, 1))


def _without_rot(problem: RefinementProblem, params: RefinementParams) -> NDArray[np.float64]:
    """Return the rotations of known tilt and psi, and a rot of 0; float64, shape (N, 3, 3)."""
    order, is_local = first_order(params, problem.symmetry)
    if is_local:
        raise InputError(
            f"Searches with --free-rot must not be local from the start; got order {order}; give a smaller "
            "--healpix-order."
        )
    particles = problem.particles
    for column in ("prior_tilt_psi_degrees", "prior_rotation", "rotation"):
        if column in particles:
            known = np.asarray(particles[column], dtype=np.float64)
            tilt, psi = known.T if known.ndim == 2 else euler_from_array(known)[:, 1:].T
            return array_from_euler(np.zeros_like(tilt), tilt, psi)
    raise InputError(
        "Searches with --free-rot must be around a known tilt and psi; got particles without any; give them "
        "rlnAngleTiltPrior and rlnAnglePsiPrior, or leave --free-rot and --sigma-angles out."
    )


def searched_around(
    problem: RefinementProblem, params: RefinementParams, sampling: PoseSampling, found: Orientations
) -> NDArray[np.float64] | None:
    """Return the rotation that each particle is searched around, float64, shape (N, 3, 3); None: all are searched."""
    if sampling.is_local:
        return found.rotation
    return None if params.sigma_angles_degrees is None else given_rotations(problem, params)


def search_of(
    problem: RefinementProblem,
    params: RefinementParams,
    sampling: PoseSampling,
    *,
    reference_shell: int,
    shell: int,
    median_n_significant: float,
    rotation_accuracy_degrees: float,
    is_thorough: bool,
) -> Search:
    """Return the search of an iteration.

    Parameters
    ----------
    reference_shell : the last in which the references hold anything.
    shell : the last that the maps get.
    median_n_significant : coarse poses that had weight in the iteration before, of the median particle; infinity where
        that iteration tells nothing of this one.
    rotation_accuracy_degrees : expected error of rotations against the references; nan: not known.
    is_thorough : whether a global search takes no short cuts.

    Notes
    -----
    There are no finer poses while the reference holds no more than what coarse steps resolve and the posterior is
    wide. Short cuts: none, too, while it is very wide: then all shells are compared at the coarse poses, by one
    product; and rotations are no finer while coarse ones are fine enough for what the references tell of them.
    """
    field = problem.field_angstrom
    fine = min(reference_shell, shell)
    if params.max_resolution_angstrom is not None:
        fine = min(fine, max(1, math.floor(field / params.max_resolution_angstrom)))
    coarse_step = 2 * sampling.rotation_step_degrees
    coarse = decisions.coarse_shell(coarse_step, params.mask_diameter_angstrom, field, fine)
    oversampling = int(needs_fine_sampling(coarse, fine, median_n_significant))
    if not is_thorough and WIDE_POSTERIOR < median_n_significant < math.inf:
        oversampling, coarse = 0, fine
    known = params.sigma_angles_degrees
    if sampling.is_local or known is not None:
        oversampling = 1
    return Search(
        poses=pose_grid(
            sampling,
            problem.symmetry,
            oversampling=oversampling,
            finer_rotations=(is_thorough and not sampling.is_local)
            or not decisions.is_fine_enough(coarse_step, rotation_accuracy_degrees),
            widest_degrees=math.inf if known is None else known,
            mates=None if params.relax_symmetry is None else mates(params.relax_symmetry, problem.symmetry),
            free_rot=params.free_rot,
        ),
        coarse_shell=coarse,
        fine_shell=fine,
        shell=shell,
        kept_mass=params.kept_mass,
        max_kept=MOST_KEPT,
        cut_deviations=CUT_DEVIATIONS,
    )
