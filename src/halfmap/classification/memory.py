"""How much memory a 2D classification needs, told before it starts."""

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.classification.passes import PADDING
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.sampling import in_plane_grid


def n_tasks(grid: ImageGrid, n_particles: int) -> int:
    """Return into how many tasks an iteration over all particles is cut."""
    return len(expectation.chunks_of(grid, n_particles))


def bytes_of_task(grid: ImageGrid, params: ClassificationParams, n_particles: int) -> int:
    """Return the most memory that one task of an E-step needs, in bytes."""
    pixel = grid.pixel_size_angstrom
    poses = in_plane_grid(
        psi_step_degrees=2 * params.psi_step_degrees,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel),
        offset_step_angstrom=2 * params.offset_step.to_angstrom(pixel),
    )
    last = grid.side // 2 - 1
    coarse_shell = last
    if params.max_alignment_resolution_angstrom is None:
        step, field = 2 * params.psi_step_degrees, grid.side * pixel
        coarse_shell = decisions.coarse_shell(step, params.mask_diameter_angstrom, field, last)
    return expectation.bytes_of_chunk(
        grid,
        n_particles,
        params.classes,
        poses,
        padding=PADDING,
        coarse_shell=coarse_shell,
        most_kept=params.max_kept_samples or decisions.most_samples(params.classes, is_minibatch=False),
    )


def bytes_in_main_process(grid: ImageGrid, params: ClassificationParams, n_particles: int) -> int:
    """Return the memory of references, sums and states in the process that the command runs in, in bytes.

    Notes
    -----
    At most four sets of references live at a time (this iteration's, the last one's, and the halves of the closing
    stage), of two images each; sums in the addition tree are of two halves, gradient and curvature, three at a time;
    VDAM adds its moments, before and after. Of each particle some twenty numbers are kept, twice, and its row of the
    table, two kilobytes in all (`benchmarks/class2d_memory.py`).
    """
    image = 4 * grid.n_pixels
    band = 4 * len(FourierBand(grid))
    references = 4 * 2 * image
    sums = 3 * 2 * (image + band)
    moments = 2 * 2 * 3 * band
    return params.classes * (references + sums + moments) + n_particles * 2000
