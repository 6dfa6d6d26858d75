"""Half maps whose signal and noise are known."""

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.fourier import filters
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid


def white(grid: ImageGrid, number: int, purpose: str = "noise") -> torch.Tensor:
    """Return white noise of deviation 1, float64, shape of the grid."""
    return torch.from_numpy(keyed_random.normal(11, purpose, np.array([number]), size=grid.shape)[0])


def particle(
    grid: ImageGrid, *, radius_angstrom: float, b_factor_angstrom2: float = 0.0, finest_angstrom: float | None = None
) -> torch.Tensor:
    """Return random structure of mean 1 within a soft sphere, float64."""
    multiplier = filters.b_factor(grid, b_factor_angstrom2, dtype=torch.float64)
    if finest_angstrom is not None:
        multiplier = multiplier * filters.low_pass(grid, finest_angstrom, 2.0, dtype=torch.float64)
    structure = filters.apply_filter(white(grid, 0, "structure"), grid, multiplier)
    sphere = soft_sphere(grid, radius_angstrom, 4 * grid.pixel_size_angstrom, dtype=torch.float64)
    return (1 + 2 * structure) * sphere


def half_maps(signal: torch.Tensor, grid: ImageGrid, *, noise: float) -> tuple[Volume, Volume]:
    """Return two float32 volumes of one signal and independent white noise of this deviation."""
    first, second = (Volume(values=(signal + noise * white(grid, n)).float(), grid=grid) for n in (1, 2))
    return first, second


def sphere_mask(grid: ImageGrid, *, radius_angstrom: float, edge_angstrom: float) -> Volume:
    """Return a mask that is a soft sphere."""
    return Volume(values=soft_sphere(grid, radius_angstrom, edge_angstrom), grid=grid)
