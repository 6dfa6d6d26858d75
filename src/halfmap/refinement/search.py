"""Where the E-step of an iteration looks."""

import math

from halfmap.inference.posterior import Search
from halfmap.inference.sampling import PoseGrid, local_grid, needs_fine_sampling, orientation_grid
from halfmap.refinement import decisions
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import PoseSampling

MOST_KEPT = 4000
"""Samples of an image that the first pass hands on at most; what is left out is told as lost mass."""


CUT_DEVIATIONS = 3.0
"""See `halfmap.inference.posterior.Search`: cells of rotations in space leave more out than those in a plane."""

WIDE_POSTERIOR = 500
"""With more coarse poses that have weight, the median particle does not know where it is: finer ones tell nothing."""


def pose_grid(sampling: PoseSampling, symmetry: str, *, oversampling: int = 1) -> PoseGrid:
    """Return the rotations and shifts of a sampling; a global one may leave out the finer ones."""
    offsets = {
        "offset_range_angstrom": sampling.offset_range_angstrom,
        "offset_step_angstrom": 2 * sampling.offset_step_angstrom,
        "perturbation": sampling.perturbation,
    }
    if sampling.is_local:
        return local_grid(
            rotation_step_degrees=2 * sampling.rotation_step_degrees,
            sigma_degrees=decisions.local_sigma_degrees(sampling),
            **offsets,
        )
    return orientation_grid(
        healpix_order=sampling.healpix_order, symmetry=symmetry, oversampling=oversampling, **offsets
    )


def search_of(
    problem: RefinementProblem,
    params: RefinementParams,
    sampling: PoseSampling,
    *,
    reference_shell: int,
    shell: int,
    median_n_significant: float,
) -> Search:
    """Return the search of an iteration.

    Parameters
    ----------
    reference_shell : the last in which the references hold anything.
    shell : the last that the maps get.
    median_n_significant : coarse poses that had weight in the iteration before, of the median particle; infinity where
        that iteration tells nothing of this one.

    Notes
    -----
    There are no finer poses while the reference holds no more than what coarse steps resolve and the posterior is
    wide, nor while it is very wide: then all shells are compared at the coarse poses, by one product.
    """
    grid = problem.grid
    field = grid.side * grid.pixel_size_angstrom
    fine = min(reference_shell, shell)
    if params.max_resolution_angstrom is not None:
        fine = min(fine, max(1, math.floor(field / params.max_resolution_angstrom)))
    coarse = decisions.coarse_shell(2 * sampling.rotation_step_degrees, params.mask_diameter_angstrom, field, fine)
    oversampling = int(needs_fine_sampling(coarse, fine, median_n_significant))
    if WIDE_POSTERIOR < median_n_significant < math.inf:
        oversampling, coarse = 0, fine
    if sampling.is_local:
        oversampling = 1
    return Search(
        poses=pose_grid(sampling, problem.symmetry, oversampling=oversampling),
        coarse_shell=coarse,
        fine_shell=fine,
        shell=shell,
        kept_mass=params.kept_mass,
        max_kept=MOST_KEPT,
        cut_deviations=CUT_DEVIATIONS,
    )
