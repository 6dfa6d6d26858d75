"""How much memory an initial model needs, told before it starts."""

import math

from halfmap.fourier.slices import PaddedGrid
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.posterior import bytes_of_posteriors
from halfmap.inference.reconstruction import VOLUME_BYTES
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import minibatch
from halfmap.refinement.initial_model.search import most_kept, poses_of
from halfmap.refinement.memory import PROGRAM_BYTES, WORKER_PROGRAM_BYTES

_BYTES_OF_SUM = 12  # of a coefficient of data and weight


def n_tasks(grid: ImageGrid, n_particles: int) -> int:
    """Return into how many tasks the last iteration, over all particles, is cut."""
    return len(expectation.chunks_of(grid, n_particles, volumes=True))


def bytes_of_task(grid: ImageGrid, params: InitialModelParams, n_particles: int) -> int:
    """Return the most memory that one task of an E-step needs, in bytes.

    Parameters
    ----------
    grid : of the images as they are compared.

    Notes
    -----
    The program, images, the classes' transforms and three sets of their sums, and what `bytes_of_posteriors` counts, of
    the finest mini-batch.
    """
    n_images = max(chunk.stop - chunk.start for chunk in expectation.chunks_of(grid, n_particles, volumes=True))
    batch = minibatch(params, params.minibatches, n_particles)
    poses = poses_of(params, batch, params.symmetry if batch.has_symmetry else "C1", 0.0)
    posteriors = bytes_of_posteriors(
        grid,
        n_images,
        params.classes,
        poses,
        coarse_shell=grid.side // 2 - 1,
        most_kept=most_kept(params),
    )
    sums = params.classes * _transform(grid) * (8 + 3 * 2 * _BYTES_OF_SUM)
    return WORKER_PROGRAM_BYTES + n_images * expectation.bytes_per_image(grid) + sums + posteriors


def bytes_in_main_process(grid: ImageGrid, params: InitialModelParams, n_particles: int) -> int:
    """Return the memory of program, sums, maps and states in the process that the command runs in, in bytes.

    Notes
    -----
    Sums of two pseudo-halves: before and after the mini-batch, the mini-batch's own, and one class's symmetrised;
    before and after also of the states that are tried. What a reconstruction needs beside them.
    """
    n_tried = params.classes if params.is_polyhedral else int(params.classes > 1)
    sums = (((3 + 2 * n_tried) * params.classes + 3) * 2 * _BYTES_OF_SUM + VOLUME_BYTES) * _transform(grid)
    return PROGRAM_BYTES + sums + 20 * 4 * params.classes * grid.side**3 + 2000 * n_particles


def _transform(grid: ImageGrid) -> int:
    """Return the number of coefficients of a map's transform."""
    return math.prod(PaddedGrid(ImageGrid.cubic(grid.side, grid.pixel_size_angstrom), padding=2).shape)
