"""Particle stacks on disk with their table, in a project folder, for jobs that begin with particles."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from halfmap.data.particles import ParticleSet
from halfmap.grid import ImageGrid
from halfmap.io import relion
from halfmap.io.mrc import StackWriter
from support.particle_sets import a_particle_set

SIDE = 32
PIXEL_SIZE = 1.5


@dataclass(frozen=True, kw_only=True)
class StackProject:
    """A project with a particle table.

    Parameters
    ----------
    root : the project folder.
    table : the particle table.
    images : float32, shape (n, side, side): what the stacks hold, in the table's order.
    """

    root: Path
    table: Path
    images: np.ndarray


def some_images(n: int, *, side: int = SIDE, seed: int = 11, signal: float = 0.5) -> np.ndarray:
    """Return noise of mean 0 and deviation 1 with a disc of height ``signal`` in the middle, shape (n, side, side)."""
    y, x = np.mgrid[:side, :side] - side // 2
    noise = np.random.default_rng(seed).standard_normal((n, side, side))
    return (noise + signal * (np.hypot(x, y) < side / 5)).astype(np.float32)


def write_stacks(
    root: Path,
    images: np.ndarray,
    *,
    n_stacks: int = 1,
    name: str = "Extract/stack",
    pixel_size_angstrom: float = PIXEL_SIZE,
    float16: bool = False,
) -> list[str]:
    """Write images into stacks of nearly equal size and return their names."""
    names = []
    for number, part in enumerate(np.array_split(images, n_stacks)):
        path = f"{name}{number}.mrcs"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        grid = ImageGrid(shape=images.shape[1:], pixel_size_angstrom=pixel_size_angstrom)
        with StackWriter(root / path, grid, float16=float16) as writer:
            writer.write(part)
        names += [f"{section + 1:06d}@{path}" for section in range(len(part))]
    return names


def write_table(root: Path, names: list[str], *, side: int = SIDE, **columns: ArrayLike) -> Path:
    """Write a table of particles with these images; ``columns`` add or replace, of particles or of their optics."""
    particles = a_particle_set(len(names), image_name=np.array(names, dtype=object))
    optics = particles.optics.with_columns(image_size_pixel=side)
    mine = {name: values for name, values in columns.items() if name in ParticleSet.KNOWN}
    optics = optics.with_columns(**{name: values for name, values in columns.items() if name not in mine})
    particles = ParticleSet(columns={**particles.columns, **mine}, optics=optics)
    table = root / "Extract/particles.star"
    table.parent.mkdir(parents=True, exist_ok=True)
    relion.write_particles(table, particles)
    return table


def a_stack_project(
    root: Path, n: int = 60, *, n_stacks: int = 3, float16: bool = False, images: np.ndarray | None = None
) -> StackProject:
    """Write a project whose particles are bright and normalised, or have these images."""
    images = some_images(n) if images is None else images
    names = write_stacks(root, images, n_stacks=n_stacks, float16=float16)
    return StackProject(root=root, table=write_table(root, names, side=images.shape[-1]), images=images)
