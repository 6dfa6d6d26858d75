"""What an initial model leaves: its maps and particles, as nouns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier.resample import crop_or_pad_transform, shift
from halfmap.grid import ImageGrid
from halfmap.inference.symmetry_axes import density_extent
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.state import InitialModelState
from halfmap.refinement.volume_problem import VolumeProblem


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialModel:
    """Maps made from particles alone.

    Parameters
    ----------
    volumes : of the classes, the most frequent first, on the grid and the scale of the particles' images.
    fractions : of the classes, float64, shape (K,).
    symmetry : that the maps have, about the group's axes: C1 until it has been imposed.
    symmetry_correlation : of each map with its symmetrised self before the symmetry was imposed; nan where it was not
        looked for.
    particles : with ``class_number`` (from 1), ``rotation``, ``origin_angstrom`` and more.
    resolution_angstrom : of the details that the maps hold.
    history : one iteration a row.
    is_final : whether the run is over, so that all particles have been looked at.
    """

    volumes: tuple[Volume, ...]
    fractions: Tensor
    symmetry: str
    symmetry_correlation: Tensor
    particles: ParticleSet
    resolution_angstrom: float
    history: Table
    is_final: bool


def initial_model(
    problem: VolumeProblem, params: InitialModelParams, state: InitialModelState, *, is_final: bool
) -> InitialModel:
    """Return a state as what files, reports and other steps take; any iteration will do.

    Notes
    -----
    Maps without symmetry are centred by the middle of their density, and origins with them: a point v of the map before
    is v − c of the map after, so the particle's origin becomes origin − (A c)_xy.
    """
    grid, found = problem.volume_grid, state.assignments
    order = torch.argsort(state.fractions, descending=True, stable=True)
    has_symmetry = state.iteration > 0 and bool(state.history["has_symmetry"][-1])
    centres = torch.zeros((len(order), 3), dtype=torch.float64)
    volumes = []
    for c, values in enumerate(state.references):
        if not has_symmetry:
            centres[c] = _middle(values, grid)
            values = shift(values.double(), grid, -centres[c]).float()
        volumes.append(on_grid(values, grid, problem.image_grid))
    rotation = torch.from_numpy(found.rotation)
    moved = (rotation @ centres[found.class_index][..., None])[:, :2, 0].numpy()
    rank = torch.argsort(order).numpy()
    particles = problem.particles.with_columns(
        class_number=rank[found.class_index] + 1,
        rotation=found.rotation,
        origin_angstrom=found.origin_angstrom - moved,
        max_probability=found.max_probability,
        log_likelihood=found.log_likelihood,
        n_significant=found.n_significant,
    )
    return InitialModel(
        volumes=tuple(volumes[c] for c in order.tolist()),
        fractions=state.fractions[order],
        symmetry=problem.symmetry if has_symmetry else "C1",
        symmetry_correlation=state.symmetry_correlation[order],
        particles=particles,
        resolution_angstrom=float(state.history["resolution_angstrom"][-1])
        if state.iteration
        else params.coarsest_angstrom,
        history=state.history_table,
        is_final=is_final,
    )


def on_grid(values: Tensor, grid: ImageGrid, image_grid: ImageGrid) -> Volume:
    """Return a map on the grid of larger images of the same field, such that projections keep their grey values.

    A projection is the sum over voxels along z, of which the larger map has more.
    """
    finer = ImageGrid.cubic(image_grid.side, image_grid.pixel_size_angstrom)
    transform = crop_or_pad_transform(grid.rfft(values), grid, finer)
    return Volume(values=finer.irfft(transform) * (grid.side / finer.side), grid=finer)


def _middle(values: Tensor, grid: ImageGrid) -> Tensor:
    try:
        return density_extent(values, grid)[0]
    except InputError:  # nothing in it: a class that no particle has chosen, or a run that has only begun
        return torch.zeros(3, dtype=torch.float64)
