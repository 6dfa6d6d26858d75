"""Small tables of class averages: round particles, rubbish, and what a run tells of them."""

import numpy as np
import torch

from halfmap.data.class_averages import ClassAverages
from halfmap.fourier.resample import rescale
from halfmap.grid import ImageGrid

MASK_ANGSTROM = 160.0


def blob(grid: ImageGrid, x: float, y: float, sigma: float) -> np.ndarray:
    """Return a Gaussian at (x, y) in Å from the centre."""
    away = grid.positions() - torch.tensor([x, y], dtype=torch.float64)
    return torch.exp(-away.square().sum(-1) / (2 * sigma**2)).numpy()


def pictures(side: int = 64) -> tuple[np.ndarray, ImageGrid]:
    """Return six averages: two particles with detail, one off centre, one scattered, noise, and nothing."""
    grid = ImageGrid.square(64, 4.0)
    detail = [blob(grid, 25 * np.cos(a), 25 * np.sin(a), 9.0) for a in (0.2, 2.1, 4.0, 5.2)]
    particle = sum(detail) + 0.6 * blob(grid, 0, 0, 20.0)
    ring = sum(blob(grid, 35 * np.cos(a), 35 * np.sin(a), 10.0) for a in np.linspace(0, 6, 9))
    aside = np.roll(particle, 14, axis=1)
    scattered = 0.7 * blob(grid, 0, 0, 14.0) + blob(grid, 60, 0, 9.0) + blob(grid, -30, 50, 9.0)
    noise = np.random.default_rng(1).normal(0, 0.3, grid.shape)
    images = np.stack([particle, ring, aside, scattered, noise, np.zeros(grid.shape)])
    values, found = rescale(torch.from_numpy(images), grid, side)
    assert abs(found.pixel_size_angstrom * side - 256.0) < 1e-6
    return values.numpy().astype(np.float32), ImageGrid.square(side, 256.0 / side)


def a_table(side: int = 64, *, scale: float = 1.0) -> ClassAverages:
    """Return a table of `pictures` with everything that a run tells."""
    images, grid = pictures(side)
    shells = side // 2 + 1
    cycles = np.arange(shells) / 256.0
    finest = np.array([9.0, 10.0, 20.0, 22.0, 60.0, np.inf])
    fall = np.exp(-((cycles * np.minimum(finest, 200.0)[:, None]) ** 2))
    counts = np.array([120, 100, 40, 30, 10, 0])
    return ClassAverages(
        grid=grid,
        columns={
            "average": scale * images,
            "n_particles": counts,
            "fraction": counts / counts.sum(),
            "rotation_accuracy_degrees": np.array([2.0, 2.5, 5.0, 6.0, 20.0, np.nan]),
            "offset_accuracy_angstrom": np.array([2.0, 2.5, 5.0, 6.0, 20.0, np.nan]),
            "ssnr_resolution_angstrom": finest,
            "frc_resolution_angstrom": np.where(np.isfinite(finest), finest, np.nan),
            "frc": fall,
            "ssnr": 50 * fall,
        },
    )
