"""Where a mini-batch of an initial model looks."""

from halfmap.inference.posterior import Search
from halfmap.inference.sampling import PoseGrid, orientation_grid, shell_of_arc
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import MiniBatch
from halfmap.refinement.volume_problem import VolumeProblem

_MOST_KEPT, _MOST_KEPT_POLYHEDRAL = 200, 1000

SHELLS_BEYOND = 2
"""Shells that maps get beyond those that images were compared at: where their soft edge ends."""

_OFFSET_STEPS = 4  # in the smallest detail
_ARC_DIVISOR = 1.2


def most_kept(params: InitialModelParams) -> int:
    """Return how many samples of an image the first pass hands on at most; nearly round particles need many."""
    return _MOST_KEPT_POLYHEDRAL if params.is_polyhedral else _MOST_KEPT


def offset_step_angstrom(batch: MiniBatch) -> float:
    """Return the fine step of offsets: a quarter of the smallest detail."""
    return batch.resolution_angstrom / _OFFSET_STEPS


def poses_of(params: InitialModelParams, batch: MiniBatch, symmetry: str, perturbation: float) -> PoseGrid:
    """Return the rotations and shifts of a mini-batch."""
    return orientation_grid(
        healpix_order=batch.healpix_order,
        symmetry=symmetry,
        offset_range_angstrom=params.widest_offset_angstrom,
        offset_step_angstrom=2 * offset_step_angstrom(batch),
        perturbation=perturbation,
    )


def search_of(problem: VolumeProblem, params: InitialModelParams, batch: MiniBatch, perturbation: float) -> Search:
    """Return where a mini-batch looks."""
    last = problem.grid.side // 2 - 1
    shell = max(1, min(round(problem.field_angstrom / batch.resolution_angstrom), last - SHELLS_BEYOND))
    coarse = shell_of_arc(
        60 / 2**batch.healpix_order,
        params.mask_diameter_angstrom,
        problem.field_angstrom,
        shell,
        divisor=_ARC_DIVISOR,
    )
    return Search(
        poses=poses_of(params, batch, problem.symmetry if batch.has_symmetry else "C1", perturbation),
        coarse_shell=coarse,
        fine_shell=shell,
        shell=min(shell + SHELLS_BEYOND, last),
        kept_mass=params.kept_mass,
        max_kept=most_kept(params),
    )
