"""How far the halves of a refinement agree: curves over the shells of a map, float64, shape (n_shells,)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.postprocessing.half_map_fsc import half_map_fsc
from halfmap.postprocessing.masks import automatic_mask
from halfmap.postprocessing.postprocess import mean_map
from halfmap.refinement import decisions
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import RefinementState


def unmasked_fsc(problem: RefinementProblem, plain: Sequence[Tensor], shell: int) -> Tensor:
    """Return the FSC of unregularised half maps, 0 beyond the band that they were made of."""
    grid = problem.volume_grid
    curve = shells.fsc(grid.rfft(plain[0].double()), grid.rfft(plain[1].double()), grid)
    curve[0] = 1.0
    curve[shell + 1 :] = 0.0
    return curve


def used_fsc(
    problem: RefinementProblem, params: RefinementParams, plain: Sequence[Tensor], fsc: Tensor, shell: int
) -> Tensor:
    """Return the FSC that regularises maps: as it is, or corrected for the solvent mask where that is asked for."""
    if not params.solvent_flattened_fsc:
        return fsc
    grid = problem.volume_grid
    first, second, mask = (Volume(values=values, grid=grid) for values in (*plain, problem.solvent_mask))
    return half_map_fsc(first, second, mask, band_shell=shell, seed=params.seed).corrected.clamp(min=0.0)


def fsc_in_automatic_mask(problem: RefinementProblem, params: RefinementParams, state: RefinementState) -> Tensor:
    """Return the corrected FSC in the mask that post-processing would make, 0 beyond the band; all 1 without maps."""
    grid = problem.volume_grid
    first, second = (Volume(values=half.unregularised, grid=grid) for half in state.halves)
    if not bool(first.values.any()):  # of an earlier refinement only regularised maps are known
        return torch.ones_like(state.used_fsc)
    mask = automatic_mask(mean_map(first, second))
    return half_map_fsc(first, second, mask, band_shell=state.shell, seed=params.seed).corrected


def fsc_of_joined(fsc: Tensor) -> Tensor:
    """Return the FSC of the map of all particles with the truth, from that of the halves: √(2F / (1 + F)).

    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721; it is 0.5 where the halves' is 0.143.
    """
    known = fsc.nan_to_num(0.0).clamp(min=0.0)
    return (2 * known / (1 + known)).sqrt()


def resolution_angstrom(fsc: Tensor, problem: RefinementProblem, threshold: float) -> float:
    """Return the resolution in Å that a curve stands for; infinity where no shell is resolved."""
    shell = decisions.resolution_shell(fsc, threshold=threshold)
    return problem.grid.side * problem.grid.pixel_size_angstrom / shell if shell > 0 else float("inf")
