"""Pictures of the particles of each class: aligned to its average, and low-passed so that an eye can follow them."""

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassRun
from halfmap.data.image_source import ImageSource
from halfmap.fourier.filters import apply_filter, low_pass
from halfmap.fourier.resample import rescale
from halfmap.grid import ImageGrid
from halfmap.jobs.class2d_report import members_shown

FINEST_ANGSTROM = 20.0
"""Low-pass of the particles: single images show nothing finer."""

_LARGEST_SIDE = 96  # px; montages are drawn smaller


def members(
    run: ClassRun,
    images: ImageSource,
    *,
    index: NDArray[np.int64],
    background_mean: NDArray[np.float64],
    background_deviation: NDArray[np.float64],
) -> dict[int, NDArray[np.float32]]:
    """Read and align the particles that stand for each class.

    Parameters
    ----------
    run : after an iteration; its particles in the order of ``index``.
    images : of the particles.
    index : number of each particle's image in the source, shape (n,).
    background_mean, background_deviation : of each image, shape (n,).

    Returns
    -------
    Class number → images, float32, shape (m, side, side), as `halfmap.jobs.class2d_report.class2d_report` takes them.
    """
    grid = images.grid
    resolution = np.asarray(run.averages["ssnr_resolution_angstrom"], dtype=np.float64)
    reached = dict(zip(run.averages["class_number"].tolist(), resolution.tolist(), strict=True))
    found = {}
    for number, rows in members_shown(run.particles).items():
        level, deviation = (
            torch.from_numpy(values[rows])[:, None, None].float() for values in (background_mean, background_deviation)
        )
        stored = (torch.from_numpy(images.read(index[rows])) - level) / deviation
        finest = max(FINEST_ANGSTROM, reached[number] if np.isfinite(reached[number]) else 0.0)
        smooth = apply_filter(stored, grid, low_pass(grid, finest))
        aligned = aligned_images(
            smooth,
            grid,
            torch.from_numpy(np.array(run.particles["rotation"][rows])),
            torch.from_numpy(np.array(run.particles["origin_angstrom"][rows])),
        )
        if grid.side > _LARGEST_SIDE:
            aligned, _ = rescale(aligned, grid, _LARGEST_SIDE)
        found[number] = aligned.numpy()
    return found


def aligned_images(
    images: torch.Tensor, grid: ImageGrid, rotation: torch.Tensor, origin_angstrom: torch.Tensor
) -> torch.Tensor:
    """Turn and shift images so that they lie on their class averages.

    Parameters
    ----------
    images : float32, shape (n, side, side).
    rotation : A, float64, shape (n, 3, 3), within the plane.
    origin_angstrom : float64, shape (n, 2).

    Returns
    -------
    float32, shape (n, side, side): at v what the image holds at (A v)_xy − origin, by cubic interpolation, which is
    good enough for low-passed images that are looked at; 0 beyond their edges.
    """
    side = grid.side
    at = (torch.arange(side, dtype=torch.float64) - side // 2) * grid.pixel_size_angstrom
    y, x = torch.meshgrid(at, at, indexing="ij")
    points = torch.stack([x, y], dim=-1)
    source = torch.einsum("nab,yxb->nyxa", rotation[:, :2, :2], points) - origin_angstrom[:, None, None]
    # from Å about the centre pixel to torch's −1 … 1 between the centres of the outermost pixels
    scaled = (source / grid.pixel_size_angstrom + side // 2) * (2 / (side - 1)) - 1
    turned = torch.nn.functional.grid_sample(images[:, None], scaled.float(), mode="bicubic", align_corners=True)
    return turned[:, 0]
