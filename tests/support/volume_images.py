"""Images drawn exactly from the engine's model of volumes, and what an E-step over them needs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.particles import ParticleSet
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.symmetric_volumes import symmetrise_volume
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer, ctf_of_rows
from halfmap.imaging.projection import project_images
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import PoseGrid

PADDING = 2


def volumes(
    n: int,
    side: int,
    pixel_size_angstrom: float,
    *,
    radius_angstrom: float = 32.0,
    symmetry: str = "C1",
    seed: int = 1,
    blob_angstrom: float = 6.0,
) -> Tensor:
    """Return maps of a few round blobs within a sphere, all different, float32, shape (n, side, side, side).

    They have no symmetry but the one asked for.
    """
    grid = ImageGrid.cubic(side, pixel_size_angstrom)
    draws = keyed_random.uniform(seed, "blobs of test volumes", np.arange(n), size=(8, 4))
    z = 2 * draws[..., 0] - 1
    angle = 2 * math.pi * draws[..., 1]
    length = (radius_angstrom - 2 * blob_angstrom) * np.cbrt(draws[..., 2])
    flat = np.sqrt(1 - z**2)
    places = torch.from_numpy(np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=-1) * length[..., None])
    heights = torch.from_numpy(0.1 + 0.2 * draws[..., 3])
    positions = grid.positions()
    found = []
    for centres, weights in zip(places, heights, strict=True):
        values = torch.zeros(grid.shape, dtype=torch.float64)
        for at, height in zip(centres, weights, strict=True):
            values += height * torch.exp(-(positions - at).square().sum(-1) / (2 * blob_angstrom**2))
        found.append(symmetrise_volume(values.float(), grid, symmetry))
    return torch.stack(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Class, rotation and origin of each of n images."""

    class_index: NDArray[np.int64]
    rotation: Tensor
    origin_angstrom: NDArray[np.float64]


def drawn_views(
    n: int, poses: PoseGrid, priors: Priors, *, own: Tensor | None = None, seed: int = 1
) -> tuple[Views, NDArray[np.int64], NDArray[np.int64]]:
    """Draw poses of the fine grid from the priors; also the class and rotation of each as one row, and its shift.

    ``own``: rotations that a grid around each is around, shape (n, 3, 3).
    """
    draws = keyed_random.uniform(seed, "true views", np.arange(1, n + 1), size=3)
    R = len(poses.fine_rotations)
    shares = priors.fractions.numpy().cumsum()
    class_index = np.minimum(np.searchsorted(shares, draws[:, 0], side="right"), len(shares) - 1)
    weight = np.ones(R) if poses.fine_log_prior is None else poses.fine_log_prior.exp().numpy()
    turn = np.minimum(np.searchsorted(weight.cumsum() / weight.sum(), draws[:, 1], side="right"), R - 1)
    density = priors.log_offset(poses.fine_shifts_angstrom, poses.shift_area_angstrom2).exp().numpy()
    cumulated = (density / density.sum(0)).cumsum(0)[:, class_index]
    shift = np.minimum((cumulated < draws[:, 2]).sum(0), len(cumulated) - 1)
    rotation = poses.fine_rotations[turn]
    views = Views(
        class_index=class_index,
        rotation=rotation if own is None else rotation @ own,
        origin_angstrom=poses.fine_shifts_angstrom[shift].numpy(),
    )
    return views, class_index * R + turn, shift


def drawn_views_images(
    maps: Tensor,
    particles: ParticleSet,
    views: Views,
    grid: ImageGrid,
    spectrum: Tensor | None,
    *,
    seed: int = 1,
    scale: NDArray | float = 1.0,
    norm: NDArray | float = 1.0,
    ctf: bool = True,
) -> Tensor:
    """Return norm · (scale · CTF · projection, moved by minus the origin, and noise), float32.

    ``spectrum`` is σ² of one real component, shape (n_shells,) or one for each particle; None: no noise.
    """
    cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
    origins = torch.from_numpy(views.origin_angstrom)
    transfer = contrast_transfer(particles, grid.frequencies()).double() if ctf else None
    images = torch.zeros((len(particles), *grid.shape), dtype=torch.float64)
    for c, one in enumerate(maps):
        mine = torch.from_numpy(np.flatnonzero(views.class_index == c))
        if len(mine):
            images[mine] = project_images(
                slices.prepare(one.double(), cubic, padding=PADDING),
                views.rotation[mine],
                grid,
                origin_angstrom=origins[mine],
                transfer=None if transfer is None else transfer[mine],
            )
    images = images * torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1, 1)
    if spectrum is not None:
        images = images + noise.draw(seed, "noise of test views", particles.uid, grid, spectrum)
    if bool(particles.optics["ctf_premultiplied"].any()):
        images = grid.irfft(grid.rfft(images) * ctf_of_rows(particles, grid.frequencies()))
    return (images * torch.as_tensor(norm, dtype=torch.float64).reshape(-1, 1, 1)).float()


def whole_search(grid: ImageGrid, poses: PoseGrid, **settings: object) -> Search:
    """Return a search of the whole band that keeps everything; ``settings`` replace fields."""
    last = FourierBand(grid).max_shell
    given = {"coarse_shell": last, "fine_shell": last, "shell": last, "kept_mass": 1.0, **settings}
    return Search(poses=poses, **given)
