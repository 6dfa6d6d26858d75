"""How much memory a 3D refinement needs, told before it starts."""

from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.coarse import SCORES_AT_ONCE
from halfmap.inference.posterior import POSES_AT_ONCE
from halfmap.inference.reconstruction import VOLUME_BYTES
from halfmap.inference.references import SLICE_BYTES
from halfmap.refinement import decisions
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.search import MOST_KEPT, pose_grid
from halfmap.refinement.state import PoseSampling

PROGRAM_BYTES, WORKER_PROGRAM_BYTES = 250 << 20, 160 << 20
"""What a process holds once the program is loaded: the one of the command, with pages and figures, and a worker."""

_BYTES_OF_SUM = 12
"""Of a coefficient of data and weight."""


def n_tasks(grid: ImageGrid, n_particles: int) -> int:
    """Return into how many tasks an iteration over half of the particles is cut."""
    return len(expectation.chunks_of(grid, -(-n_particles // 2), volumes=True))


def bytes_of_task(grid: ImageGrid, params: RefinementParams, n_particles: int) -> int:
    """Return the most memory that one task of an E-step needs, in bytes.

    Notes
    -----
    Most rotations are compared in the last global search: coarse slices as extracted, as real numbers, and of the
    higher shells once more. Beside them: the program, the map's transform, three sets of sums of slices (the task's own
    and two that are added), images, and scores or blocks of fine slices, whichever is more.
    """
    order, local_from = decisions.first_orders(params.symmetry, params.healpix_order, params.local_from_order)
    pixel = grid.pixel_size_angstrom
    last_global = max(order, local_from - 1) if order < local_from else order
    sampling = PoseSampling(
        healpix_order=min(last_global, local_from - 1),
        is_local=False,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel),
        offset_step_angstrom=params.offset_step.to_angstrom(pixel),
    )
    poses = pose_grid(sampling, params.symmetry)
    band, last = FourierBand(grid), grid.side // 2 - 1
    coarse_shell = decisions.coarse_shell(
        2 * sampling.rotation_step_degrees, params.mask_diameter_angstrom, grid.side * pixel, last
    )
    images = max(chunk.stop - chunk.start for chunk in expectation.chunks_of(grid, -(-n_particles // 2), volumes=True))
    coarse = poses.n_rotations * len(band.head(coarse_shell)) * 28 + poses.n_rotations * 8 * 9 * 9
    scores = 6 * 4 * max(SCORES_AT_ONCE, poses.n_rotations * poses.n_shifts)
    kept = images * MOST_KEPT * 32
    fine = min(images * MOST_KEPT, max(POSES_AT_ONCE, MOST_KEPT)) * (
        100 + 72 * poses.children_rotations * poses.children_shifts
    )
    return (
        WORKER_PROGRAM_BYTES
        + images * expectation.bytes_per_image(grid)
        + _transform(grid, params) * (8 + 3 * _BYTES_OF_SUM)
        + coarse
        + kept
        + max(scores, fine + 2 * SLICE_BYTES)
    )


def bytes_in_main_process(grid: ImageGrid, params: RefinementParams, n_particles: int) -> int:
    """Return the memory of program, sums, maps and states in the process that the command runs in, in bytes.

    Notes
    -----
    Sums of both halves, as they come, symmetrised, and joined: seven sets, and what a reconstruction needs beside them;
    some twenty maps of float32; two kilobytes of each particle.
    """
    sums = (7 * _BYTES_OF_SUM + VOLUME_BYTES) * _transform(grid, params)
    return PROGRAM_BYTES + sums + 20 * 4 * grid.side**3 + 2000 * n_particles


def _transform(grid: ImageGrid, params: RefinementParams) -> int:
    """Return the number of coefficients of a map's transform."""
    padded = PaddedGrid(ImageGrid.cubic(grid.side, grid.pixel_size_angstrom), padding=1 if params.skip_padding else 2)
    n = 1
    for side in padded.shape:
        n *= side
    return n
