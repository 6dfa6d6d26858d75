"""Where the E-step of an iteration looks."""

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import ClassificationState
from halfmap.inference.posterior import Search
from halfmap.inference.sampling import in_plane_grid


def search_of(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    *,
    perturbation: float,
    most: int = 0,
) -> Search:
    """Return the search of the iteration that follows a state.

    Parameters
    ----------
    perturbation : of its sampling, as a share of the coarse steps.
    most : samples of an image that the first pass hands on at most, unless the user says; 0: any number.

    Raises
    ------
    InputError
        The user's limits of resolution leave no shell.
    """
    grid = problem.grid
    field = grid.side * grid.pixel_size_angstrom
    poses = in_plane_grid(
        psi_step_degrees=2 * state.psi_step_degrees,
        offset_range_angstrom=params.offset_range.to_angstrom(grid.pixel_size_angstrom),
        offset_step_angstrom=2 * state.offset_step_angstrom,
        perturbation=perturbation,
    )
    first, fine = decisions.limits(
        state.shell,
        field,
        finest_angstrom=params.max_alignment_resolution_angstrom,
        coarsest_angstrom=params.min_alignment_resolution_angstrom,
    )
    coarse = fine
    if params.max_alignment_resolution_angstrom is None:
        coarse = decisions.coarse_shell(360.0 / poses.n_rotations, params.mask_diameter_angstrom, field, fine)
    return Search(
        poses=poses,
        min_shell=min(first, coarse),
        coarse_shell=coarse,
        fine_shell=fine,
        shell=state.shell,
        kept_mass=params.kept_mass,
        max_kept=params.max_kept_samples or most,
    )
