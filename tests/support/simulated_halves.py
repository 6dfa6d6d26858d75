"""Small refinements of simulated particles whose halves may show different things, or nothing."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.half_sets import HalfSets
from halfmap.data.image_source import ArraySource
from halfmap.data.particles import ParticleSet
from halfmap.data.volumes import Volume
from halfmap.fourier.resample import crop_or_pad
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid
from halfmap.refinement import first_maps, refine3d
from halfmap.refinement.initial_model import ab_initio
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import RefinementState
from halfmap.simulation.params import ParticleSimulationParams
from halfmap.simulation.particles import ParticleProblem, draw_truth, images, signal_variance
from halfmap.simulation.references import Reference
from support import half_maps


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedHalves:
    """Particles in halves, with their true poses, and their images.

    Parameters
    ----------
    truth : with ``random_subset``.
    images : float32, shape (n, side, side).
    grid : of the images.
    maps : what the images show, on the grid of the refinement; none: noise alone.
    """

    truth: ParticleSet
    images: NDArray[np.float32]
    grid: ImageGrid
    maps: tuple[Volume, ...]

    @property
    def particles(self) -> ParticleSet:
        """The particles without their true poses."""
        known = {name: v for name, v in self.truth.columns.items() if name not in ("rotation", "origin_angstrom")}
        return ParticleSet(columns=known, optics=self.truth.optics)


def simulated_halves(
    references: list[Reference],
    *,
    number: int,
    grid: ImageGrid,
    snr: float,
    seed: int,
    shift_sigma_angstrom: float = 4.0,
) -> SimulatedHalves:
    """Simulate particles; of two references the first makes half 1 and the second half 2. SNR 0: noise alone."""
    params = ParticleSimulationParams(
        number=number,
        box_pixel=grid.side,
        pixel_size_angstrom=grid.pixel_size_angstrom,
        shift_sigma_angstrom=shift_sigma_angstrom,
        seed=seed,
    )
    truth = draw_truth(params, len(references), [one.diameter_angstrom for one in references])
    problem = ParticleProblem(params=params, truth=truth, references=[references], broken=[])
    scale = (snr / signal_variance(problem)) ** 0.5 if snr else 0.0
    halves = truth["class_number"] if len(references) == 2 else 1 + np.arange(number) % 2
    cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
    maps = tuple(
        Volume(values=crop_or_pad(one.potential.values, one.potential.grid, cubic.shape)[0], grid=cubic)
        for one in references
    )
    return SimulatedHalves(
        truth=truth.with_columns(random_subset=halves),
        images=images(problem, np.arange(number), scale).numpy(),
        grid=grid,
        maps=maps if snr else (),
    )


def refined(
    case: SimulatedHalves, reference: Volume, params: RefinementParams, *, solvent_mask: Tensor | None = None
) -> RefinementState:
    """Refine to the end."""
    with InProcessExecutor(n_threads=1) as executor:
        source = ArraySource(images=case.images, grid=case.grid)
        halves = HalfSets(particles=case.particles)
        problem = RefinementProblem.of_halves(halves, source, params, executor, solvent_mask=solvent_mask)
        state = refine3d.start(problem, params, [reference], executor)
        while not refine3d.is_done(params, state):
            state = refine3d.advance(problem, params, state, executor)
    return state


def refined_from_first_maps(
    case: SimulatedHalves, params: RefinementParams, *, minibatches: int | None = None
) -> RefinementState:
    """Refine to the end, each half from a first map of its own; of as many mini-batches, those of a job if left out."""
    with InProcessExecutor(n_threads=1) as executor:
        source = ArraySource(images=case.images, grid=case.grid)
        problem = RefinementProblem.of_halves(HalfSets(particles=case.particles), source, params, executor)
        maps = []
        for half in (0, 1):
            own = first_maps.first_map_params(params, half)
            own = own if minibatches is None else replace(own, minibatches=minibatches)
            alone = first_maps.half_problem(problem, own, half, executor)
            first = ab_initio.start(alone, own)
            while not ab_initio.is_done(own, first):
                first = ab_initio.advance(alone, own, first, executor)
            maps.append(ab_initio.finish(alone, own, first).volumes[0])
        params = replace(params, initial_low_pass_angstrom=first_maps.detail_angstrom(params))
        state = refine3d.start(problem, params, maps, executor)
        while not refine3d.is_done(params, state):
            state = refine3d.advance(problem, params, state, executor)
    return state


def half_volumes(state: RefinementState, grid: ImageGrid) -> tuple[Volume, Volume]:
    """Return the unregularised half-maps."""
    first, second = (Volume(values=half.unregularised, grid=grid) for half in state.halves)
    return first, second


def symmetric_white(grid: ImageGrid, symmetry: str, number: int, purpose: str = "noise") -> Tensor:
    """Return white noise averaged over a group that maps the lattice onto itself: C1, C2, C4, D2, D4, O; float64."""
    values, side = half_maps.white(grid, number, purpose), grid.side
    z, y, x = torch.meshgrid(*[torch.arange(side) - side // 2] * 3, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).double()
    total = torch.zeros(grid.shape, dtype=torch.float64)
    matrices = operators(symmetry)
    for matrix in matrices:
        at = ((points @ matrix.T).round().long() + side // 2) % side
        total += values[at[..., 2], at[..., 1], at[..., 0]]
    return total / len(matrices)
