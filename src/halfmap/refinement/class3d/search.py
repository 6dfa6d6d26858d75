"""Where the E-step of a 3D classification looks."""

import math

from halfmap.inference.posterior import Search
from halfmap.inference.sampling import PoseGrid, needs_fine_sampling, own_rotations
from halfmap.refinement import decisions
from halfmap.refinement.class3d.params import Classification3DParams
from halfmap.refinement.search import MOST_KEPT, WIDE_POSTERIOR, pose_grid
from halfmap.refinement.state import PoseSampling
from halfmap.refinement.volume_problem import VolumeProblem


def sampling_of(params: Classification3DParams, pixel_size_angstrom: float, perturbation: float) -> PoseSampling:
    """Return the steps of an iteration, the same throughout but for their shift."""
    return PoseSampling(
        healpix_order=params.healpix_order,
        is_local=params.local,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel_size_angstrom),
        offset_step_angstrom=params.offset_step.to_angstrom(pixel_size_angstrom),
        perturbation=perturbation,
    )


def poses_of(
    params: Classification3DParams, sampling: PoseSampling, symmetry: str, *, oversampling: int = 1
) -> PoseGrid:
    """Return the rotations and shifts of an iteration; a global search may leave out the finer ones."""
    poses = pose_grid(sampling, symmetry, oversampling=oversampling)
    return own_rotations(poses, keep_origin=True) if params.skip_alignment else poses


def search_of(
    problem: VolumeProblem,
    params: Classification3DParams,
    perturbation: float,
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
    median_n_significant : coarse poses that had weight in the iteration before, of the median particle; infinity before
        the first.

    Notes
    -----
    Finer poses are left out as in `halfmap.refinement.search.search_of`.
    """
    sampling = sampling_of(params, problem.grid.pixel_size_angstrom, perturbation)
    fine = min(reference_shell, shell)
    if params.max_resolution_angstrom is not None:
        fine = min(fine, max(1, math.floor(problem.field_angstrom / params.max_resolution_angstrom)))
    coarse, oversampling = fine, 1
    if not params.skip_alignment:
        coarse = decisions.coarse_shell(
            2 * sampling.rotation_step_degrees, params.mask_diameter_angstrom, problem.field_angstrom, fine
        )
    if not params.skip_alignment and not params.local:
        oversampling = int(needs_fine_sampling(coarse, fine, median_n_significant))
        if WIDE_POSTERIOR < median_n_significant < math.inf:
            oversampling, coarse = 0, fine
    return Search(
        poses=poses_of(params, sampling, problem.symmetry, oversampling=oversampling),
        coarse_shell=coarse,
        fine_shell=fine,
        shell=shell,
        kept_mass=params.kept_mass,
        max_kept=MOST_KEPT,
    )
