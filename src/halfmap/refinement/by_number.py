"""How resolution depends on the number of particles: maps of fewer of them, at the poses that all have found."""

from collections.abc import Iterator

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.compute.executor import Executor
from halfmap.data.volumes import Volume
from halfmap.fourier.slices import PaddedGrid
from halfmap.inference import expectation
from halfmap.inference.expectation import Model
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.inference.sampling import own_rotations
from halfmap.postprocessing.half_map_fsc import half_map_fsc
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.search import pose_grid
from halfmap.refinement.state import RefinementState

LEAST_PARTICLES = 50
"""Of both halves; with fewer an FSC says little."""


def resolutions_by_number(
    problem: RefinementProblem, params: RefinementParams, state: RefinementState, mask: Volume, executor: Executor
) -> Iterator[tuple[int, float]]:
    """Yield numbers of particles, halved each time, and the resolution that they give, in Å.

    Parameters
    ----------
    state : after the last iteration.
    mask : of the FSC.

    Notes
    -----
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721: ln N against 1/d² is a line with slope B/2. Poses are those
    found with all particles, so a smaller data set would do worse than shown.
    """
    grid = PaddedGrid(problem.volume_grid, padding=1 if params.skip_padding else 2)
    shell = int(state.history["shell"][-1])
    poses = own_rotations(pose_grid(state.sampling, problem.symmetry), keep_origin=True)
    n = len(problem.particles) // 2
    while n >= LEAST_PARTICLES:
        plain = []
        for half in (0, 1):
            rows = problem.half_sets.rows[half]
            uids = problem.particles.uid[rows]
            order = keyed_random.order(params.seed, "resolution by number", uids)
            some = np.sort(rows[order[: n // 2]])
            mine = state.halves[half]
            model = Model(
                references=torch.zeros_like(mine.reference)[None],
                padding=grid.padding,
                priors=Priors(
                    fractions=torch.ones(1, dtype=torch.float64),
                    offset_sigma_angstrom=mine.offset_sigma_angstrom,
                    prior_offset_angstrom=torch.zeros((1, 2), dtype=torch.float64),
                ),
                noise_variance=mine.noise_variance,
                scale=mine.scale,
                norm=state.orientations.norm,
                origin_angstrom=state.orientations.origin_angstrom,
                search=Search(poses=poses, coarse_shell=shell, fine_shell=shell, shell=shell),
                rotation=state.orientations.rotation,
                keep_origin=True,
                assigned_row=np.zeros(len(problem.particles), dtype=np.int64),
            )
            sums = expectation.expect(problem.sent, model, problem.data, some, executor).slices
            found = SliceAccumulator(data=sums.data[0, 0], weight=sums.weight[0, 0], grid=grid)
            plain.append(Volume(values=found.symmetrised(problem.symmetry).volume(), grid=problem.volume_grid))
        yield n, half_map_fsc(plain[0], plain[1], mask, band_shell=shell, seed=params.seed).resolution_angstrom
        n //= 2
