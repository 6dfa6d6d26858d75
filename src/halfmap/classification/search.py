"""Where the E-step of an iteration looks."""

import math

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import ClassificationState
from halfmap.inference.posterior import Search
from halfmap.inference.sampling import in_plane_grid, needs_fine_sampling


def search_of(
    problem: ClassificationProblem,
    params: ClassificationParams,
    state: ClassificationState,
    *,
    perturbation: float,
    most: int,
    reference_shell: int | None = None,
) -> Search:
    """Return the search of the iteration that follows a state.

    Parameters
    ----------
    perturbation : of its sampling, as a share of the coarse steps.
    most : samples of an image that the first pass hands on at most, unless the user says.
    reference_shell : the last in which the references hold anything; None: the state's.

    Raises
    ------
    InputError
        The user's limits of resolution leave no shell.
    """
    grid = problem.grid
    field = grid.side * grid.pixel_size_angstrom
    known = state.reference_shell if reference_shell is None else reference_shell
    first, fine = decisions.limits(
        min(state.shell, known),
        field,
        finest_angstrom=params.max_alignment_resolution_angstrom,
        coarsest_angstrom=params.min_alignment_resolution_angstrom,
    )
    coarse = fine
    if params.max_alignment_resolution_angstrom is None:
        coarse = decisions.coarse_shell(2 * state.psi_step_degrees, params.mask_diameter_angstrom, field, fine)
    significant = state.history["median_n_significant"][-1] if state.iteration else math.inf
    poses = in_plane_grid(
        psi_step_degrees=2 * state.psi_step_degrees,
        offset_range_angstrom=params.offset_range.to_angstrom(grid.pixel_size_angstrom),
        offset_step_angstrom=2 * state.offset_step_angstrom,
        perturbation=perturbation,
        oversampling=int(needs_fine_sampling(coarse, fine, significant)),
    )
    return Search(
        poses=poses,
        min_shell=min(first, coarse),
        coarse_shell=coarse,
        fine_shell=fine,
        shell=state.shell,
        kept_mass=params.kept_mass,
        max_kept=params.max_kept_samples or most,
    )
