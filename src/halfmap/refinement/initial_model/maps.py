"""The maps of an initial model: from the sums over pseudo-halves to what the next mini-batch is compared with."""

import torch
from torch import Tensor

from halfmap.fourier import shells
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.fourier.slices import PaddedGrid
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.inference.symmetry_axes import radius_of_round, without_round_part
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import MiniBatch
from halfmap.refinement.volume_problem import VolumeProblem

PADDING = 2

Halves = tuple[SliceAccumulator, SliceAccumulator]


def halves_of(problem: VolumeProblem, data: Tensor, weight: Tensor, symmetry: str) -> Halves:
    """Return the sums of both pseudo-halves of a class, symmetrised."""
    first, second = (
        SliceAccumulator(data=data[h], weight=weight[h], grid=padded_grid(problem)).symmetrised(symmetry)
        for h in (0, 1)
    )
    return first, second


def solvent_sphere(problem: VolumeProblem, params: InitialModelParams, halves: Halves, batch: MiniBatch) -> Tensor:
    """Return the sphere that maps are kept within.

    Notes
    -----
    Nearly round particles lie close together, and what there is of the neighbours within the mask of the images pulls
    at the poses: more than the particle itself does as long as this is a shell. Its radius is told by the first maps.
    """
    if not params.is_polyhedral:
        return problem.solvent_mask
    grid = problem.volume_grid
    joined = halves[0].joined(halves[1]).volume() * problem.solvent_mask
    passed = apply_filter(joined.double(), grid, low_pass(grid, batch.resolution_angstrom, dtype=torch.float64))
    edge = params.mask_edge_pixel * problem.image_grid.pixel_size_angstrom
    radius = min(radius_of_round(passed, grid), params.mask_diameter_angstrom / 2)
    return soft_sphere(grid, radius, edge)


def pseudo_fsc(problem: VolumeProblem, halves: Halves, sphere: Tensor, shell: int) -> Tensor:
    """Return the FSC of pseudo-halves within the solvent sphere, 0 beyond a shell."""
    grid = problem.volume_grid
    first, second = (grid.rfft(half.volume().double() * sphere) for half in halves)
    fsc = shells.fsc(first, second, grid).nan_to_num(0.0).clamp(0.0, 1.0)
    fsc[0] = 1.0
    fsc[shell + 1 :] = 0.0
    return fsc


def kept_shares(fractions: Tensor, fsc: Tensor) -> Tensor:
    """Return the share of each shell that a Wiener filter for all classes keeps.

    Parameters
    ----------
    fractions : of particles in each class, shape (C,).
    fsc : of the pseudo-halves of each class, shape (C, n_shells).

    Notes
    -----
    The ratio of signal to noise of a map of both halves is 2 FSC / (1 − FSC); its mean over classes is weighted by
    their particles.
    """
    ratio = 2 * fsc / (1 - fsc).clamp(min=1e-9)
    common = (fractions[:, None] * ratio).sum(0)
    return common / (1 + common)


def filtered_map(problem: VolumeProblem, halves: Halves, sphere: Tensor, kept: Tensor, batch: MiniBatch) -> Tensor:
    """Return the map of a class from the sums of both pseudo-halves."""
    joined = halves[0].joined(halves[1]).volume(kept)
    passed = apply_filter(
        joined * sphere, problem.volume_grid, low_pass(problem.volume_grid, batch.resolution_angstrom)
    )
    return passed * sphere


def hand_of(volumes: Tensor) -> Tensor:
    """Return what an inversion through the centre voxel turns around, the hand of maps, shape (K, side, side, side)."""
    axes = (1, 2, 3)
    return (volumes - volumes.flip(axes).roll((1, 1, 1), axes)) / 2


def with_sign_turned(volume: Tensor, grid: ImageGrid) -> Tensor:
    """Return a map with the sign turned of what it has beside its mean over all directions."""
    return volume - 2 * without_round_part(volume, grid).to(volume.dtype)


def padded_grid(problem: VolumeProblem) -> PaddedGrid:
    """Return the grid that sums over slices are kept on."""
    return PaddedGrid(problem.volume_grid, padding=PADDING)
