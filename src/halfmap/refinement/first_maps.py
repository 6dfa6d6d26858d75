"""First maps of the halves: where a reference tells no rotations, each half begins with one that it makes by itself.

A nearly round particle looks alike from all sides once it is low-passed. What a refinement makes of such a reference is
whatever else it can turn to, neighbours of the particle first; see ``docs/decisions/0042-round-references.md``.
"""

from collections.abc import Sequence

import torch

from halfmap.compute.executor import Executor
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.inference.symmetry_axes import share_off_round, without_round_part
from halfmap.refinement.initial_model import ab_initio
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.params import OF_ONE_SETTING, RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.search import first_order
from halfmap.refinement.volume_problem import VolumeProblem

LEAST_OFF_ROUND = 0.015
"""Share of a reference's power beside its mean over all directions below which it tells no rotations. Apoferritin has
0.008 at 40 to 60 Å, from which it is not found, and 0.026 at 30 Å, from which it is."""

LEAST_AGREEMENT = 0.4
"""`agreement` of first maps from which on both are taken for right: right ones of apoferritin reach 0.6, a right and a
wrong one 0.2."""

STARTS = 3
"""First maps that each half makes until one of each agree."""

MINIBATCHES = 40
_EDGE_PIXELS = 3.0
_COARSEST_PARTS = 3.0
DETAILS = 8.0
"""First maps have details of an eighth of the mask's diameter, as far as 7.5° resolve at its edge."""


def off_round(references: Sequence[Volume], params: RefinementParams) -> float:
    """Return the share of the low-passed references' power beside their mean over all directions.

    Parameters
    ----------
    references : one, or one for each half.

    Notes
    -----
    Within the sphere of the mask's diameter, once the symmetry is imposed; of two references of their mean.
    """
    grid = references[0].grid
    values = torch.stack([one.values for one in references]).mean(0).double()
    passed = apply_filter(values, grid, low_pass(grid, params.initial_low_pass_angstrom, dtype=torch.float64))
    return share_off_round(passed, grid, params.symmetry, params.mask_diameter_angstrom / 2)


def begins_by_itself(references: Sequence[Volume], params: RefinementParams) -> bool:
    """Return whether each half must begin with a first map of its own.

    Parameters
    ----------
    references : one, or one for each half.

    Notes
    -----
    Only where both maps then lie alike (`OF_ONE_SETTING`), and where their details may be compared. Not where searches
    are around known rotations from the start: these tell what the reference does not, and hold for its hand alone.
    """
    limit = params.max_resolution_angstrom
    return (
        canonical_name(params.symmetry)[0] in OF_ONE_SETTING
        and params.sigma_angles_degrees is None
        and not first_order(params, params.symmetry)[1]
        and (limit is None or limit < detail_angstrom(params))
        and off_round(references, params) < LEAST_OFF_ROUND
    )


def detail_angstrom(params: RefinementParams) -> float:
    """Return the details of first maps in Å."""
    return min(params.initial_low_pass_angstrom, params.mask_diameter_angstrom / DETAILS)


def agreement(first: Volume, second: Volume, params: RefinementParams) -> float:
    """Return how far the first maps of both halves show the same particle, up to its hand.

    Returns
    -------
    Mean FSC of the maps without their means over all directions, within the sphere of the mask's diameter, from details
    of a third of this diameter to the finest that they have; of the second map or its mirror image, whichever is
    larger.
    """
    grid, diameter = first.grid, params.mask_diameter_angstrom
    sphere = soft_sphere(grid, diameter / 2, _EDGE_PIXELS * grid.pixel_size_angstrom, dtype=torch.float64)
    one, other = (grid.rfft(without_round_part(each.values, grid) * sphere) for each in (first, second))
    field = grid.side * grid.pixel_size_angstrom
    compared = slice(round(field / (diameter / _COARSEST_PARTS)), round(field / detail_angstrom(params)) + 1)
    return max(float(shells.fsc(one, hand, grid)[compared].mean()) for hand in (other, other.conj()))


def agreeing_pair(
    firsts: Sequence[Volume], seconds: Sequence[Volume], params: RefinementParams
) -> tuple[tuple[Volume, Volume], float] | None:
    """Return the first maps of both halves that agree best, and how well; None where none agree by `LEAST_AGREEMENT`.

    Parameters
    ----------
    firsts, seconds : first maps that the halves have made.
    """
    pairs = [((one, two), agreement(one, two, params)) for one in firsts for two in seconds]
    best = max(pairs, key=lambda pair: pair[1])
    return best if best[1] >= LEAST_AGREEMENT else None


def first_map_params(params: RefinementParams, half: int, number: int = 0) -> InitialModelParams:
    """Return how a half, 0 or 1, makes a first map, the ``number``-th from 0."""
    detail = detail_angstrom(params)
    return InitialModelParams(
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        symmetry=params.symmetry,
        minibatches=MINIBATCHES,
        resolution_angstrom=detail,
        first_resolution_angstrom=detail,
        ctf=params.ctf,
        ctf_intact_first_peak=params.ctf_intact_first_peak,
        mask_edge_pixel=params.mask_edge_pixel,
        initial_offset_sigma_angstrom=params.initial_offset_sigma_angstrom,
        perturbation=params.perturbation,
        seed=2 * (STARTS * params.seed + number) + half,
    )


def half_problem(
    problem: RefinementProblem, params: InitialModelParams, half: int, executor: Executor
) -> VolumeProblem:
    """Return the particles of a half, 0 or 1, alone, as an initial model takes them."""
    rows, data = problem.half_sets.rows[half], problem.data
    return ab_initio.problem_of(
        problem.particles.take(rows),
        data.source,
        params,
        executor,
        index=data.index[rows],
        background_mean=data.background[rows],
        background_deviation=data.deviation[rows],
    )
