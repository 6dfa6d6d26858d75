"""Where a mini-batch of an initial model looks, and what it believes."""

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.inference.expectation import Model
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import PoseGrid, orientation_grid, shell_of_arc
from halfmap.refinement.initial_model.maps import PADDING
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import MiniBatch
from halfmap.refinement.initial_model.state import InitialModelState
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


def model_of(
    problem: VolumeProblem,
    params: InitialModelParams,
    state: InitialModelState,
    search: Search,
    assigned_row: NDArray[np.int64] | None = None,
) -> Model:
    """Return what the E-step of a mini-batch believes: the maps, noise and offsets of the state before it.

    Parameters
    ----------
    assigned_row : of the first mini-batch, the pose drawn for each particle.
    """
    K, n = len(state.references), len(problem.particles)
    return Model(
        references=state.references,
        padding=PADDING,
        priors=Priors(
            fractions=torch.ones(K, dtype=torch.float64),  # alike, lest the larger take all
            offset_sigma_angstrom=state.offset_sigma_angstrom,
            prior_offset_angstrom=torch.zeros((K, 2), dtype=torch.float64),
        ),
        noise_variance=state.noise_variance,
        scale=np.ones(problem.data.n_micrographs),
        norm=np.ones(n),
        origin_angstrom=np.zeros((n, 2)),
        search=search,
        assigned_row=assigned_row,
        iteration=state.iteration + 1,
        pseudo_halves=True,
    )
