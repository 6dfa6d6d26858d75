"""How much memory a 3D classification needs, told before it starts."""

import math

from halfmap.fourier.slices import PaddedGrid
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.posterior import bytes_of_posteriors
from halfmap.inference.reconstruction import VOLUME_BYTES
from halfmap.refinement import decisions
from halfmap.refinement.class3d.params import Classification3DParams
from halfmap.refinement.class3d.search import poses_of, sampling_of
from halfmap.refinement.memory import PROGRAM_BYTES, WORKER_PROGRAM_BYTES
from halfmap.refinement.search import MOST_KEPT

_BYTES_OF_SUM = 12  # of a coefficient of data and weight


def n_tasks(grid: ImageGrid, n_particles: int) -> int:
    """Return into how many tasks an iteration is cut."""
    return len(expectation.chunks_of(grid, n_particles, volumes=True))


def bytes_of_task(grid: ImageGrid, params: Classification3DParams, n_particles: int) -> int:
    """Return the most memory that one task of an E-step needs, in bytes.

    Notes
    -----
    The program, images, the classes' transforms and three sets of their sums, and what `bytes_of_posteriors` counts.
    """
    n_images = max(chunk.stop - chunk.start for chunk in expectation.chunks_of(grid, n_particles, volumes=True))
    sampling = sampling_of(params, grid.pixel_size_angstrom, 0.0)
    field, last = grid.side * grid.pixel_size_angstrom, grid.side // 2 - 1
    posteriors = bytes_of_posteriors(
        grid,
        n_images,
        params.classes,
        poses_of(params, sampling, params.symmetry),
        coarse_shell=decisions.coarse_shell(
            2 * sampling.rotation_step_degrees, params.mask_diameter_angstrom, field, last
        ),
        most_kept=MOST_KEPT,
    )
    sums = params.classes * _transform(grid, params) * (8 + 3 * _BYTES_OF_SUM)
    return WORKER_PROGRAM_BYTES + n_images * expectation.bytes_per_image(grid) + sums + posteriors


def bytes_in_main_process(grid: ImageGrid, params: Classification3DParams, n_particles: int) -> int:
    """Return the memory of program, sums, maps and states in the process that the command runs in, in bytes.

    Notes
    -----
    Sums as they come, added, and symmetrised: four sets, and divisors; what a reconstruction needs beside them; some
    ten maps of float32 for each class; two kilobytes of each particle.
    """
    sums = ((4 * _BYTES_OF_SUM + 4) * params.classes + VOLUME_BYTES) * _transform(grid, params)
    return PROGRAM_BYTES + sums + 10 * 4 * params.classes * grid.side**3 + 2000 * n_particles


def _transform(grid: ImageGrid, params: Classification3DParams) -> int:
    """Return the number of coefficients of a map's transform."""
    cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
    return math.prod(PaddedGrid(cubic, padding=1 if params.skip_padding else 2).shape)
