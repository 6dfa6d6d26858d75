"""`ImageData`: particle images and what never changes about them, as the E-step's tasks read them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid

_BOX_EDGE_PIXEL = 2
"""Width of the edge of the largest circle in a box."""

_CTF_COLUMNS = (
    "uid",
    "optics_group",
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_degrees",
    "phase_shift_degrees",
    "ctf_b_factor_angstrom2",
    "ctf_scale",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """Particle images and what never changes about them.

    Parameters
    ----------
    particles : with the columns of the CTF; N of them.
    source : of the images, on one grid.
    index : int64, shape (N,): number of each particle's image in the source.
    background, deviation : float64, shape (N,): grey level and its spread outside the particle; images are
        normalised by them as they are read.
    group, micrograph : int64, shape (N,): from 0, which noise spectrum and which grey scale a particle has.
    mask : float32, shape (side, side): the circular mask.
    ctf : whether images are modelled with their CTF.
    intact_first_peak : whether the CTF is 1 up to its first peak.
    fill_noise : whether masked images hold noise where the mask is 0, else nothing.
    seed : of that noise.
    """

    particles: ParticleSet
    source: ImageSource
    index: NDArray[np.int64]
    background: NDArray[np.float64]
    deviation: NDArray[np.float64]
    group: NDArray[np.int64]
    micrograph: NDArray[np.int64]
    mask: Tensor
    ctf: bool = True
    intact_first_peak: bool = False
    fill_noise: bool = False
    seed: int = 1

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of the images."""
        return self.source.grid

    @property
    def n_groups(self) -> int:
        """Number of noise spectra."""
        return int(self.group.max()) + 1

    @property
    def n_micrographs(self) -> int:
        """Number of grey scales."""
        return int(self.micrograph.max()) + 1

    @property
    def mask_power(self) -> float:
        """Mean square of the mask over the box: the share of white noise that it lets through."""
        edge = (1 - self.mask.double()).square() if self.fill_noise else torch.zeros(1, dtype=torch.float64)
        return float(self.mask.double().square().mean() + edge.mean())

    @classmethod
    def of(
        cls,
        particles: ParticleSet,
        images: ImageSource,
        mask: Tensor,
        *,
        index: ArrayLike | None = None,
        background_mean: ArrayLike = 0.0,
        background_deviation: ArrayLike = 1.0,
        ctf: bool = True,
        intact_first_peak: bool = False,
        fill_noise: bool = False,
        seed: int = 1,
    ) -> "ImageData":
        """Put particles and images together: noise spectra by optics group, grey scales by micrograph.

        Parameters
        ----------
        particles : in the order of the images, unless ``index`` is given.
        images : all on one grid.
        index : number of each particle's image in the source.
        background_mean, background_deviation : of each image, by which it is normalised as it is read.

        Raises
        ------
        InputError
            Numbers of particles and images differ.
        """
        n = len(particles)
        chosen = np.arange(n) if index is None else np.asarray(index, dtype=np.int64)
        if len(chosen) != n or (index is None and len(images) != n):
            raise InputError(f"There must be one image for each of {n} particles; got {len(images)}.")
        return cls(
            particles=ParticleSet(
                columns={name: particles[name] for name in _CTF_COLUMNS if name in particles}, optics=particles.optics
            ),
            source=images,
            index=chosen,
            background=np.broadcast_to(np.asarray(background_mean, dtype=np.float64), n).copy(),
            deviation=np.broadcast_to(np.asarray(background_deviation, dtype=np.float64), n).copy(),
            group=np.unique(particles["optics_group"], return_inverse=True)[1].astype(np.int64),
            micrograph=np.unique(micrograph_names(particles), return_inverse=True)[1].astype(np.int64),
            mask=mask,
            ctf=ctf,
            intact_first_peak=intact_first_peak,
            fill_noise=fill_noise,
            seed=seed,
        )


def micrograph_names(particles: ParticleSet) -> NDArray:
    """Return the name of each particle's group, else micrograph: particles of one have one grey scale."""
    names = particles["group_name"] if "group_name" in particles else particles.get("micrograph_name", "all")
    return np.asarray(names).astype(str)


def check_mask(diameter_angstrom: float, grid: ImageGrid) -> None:
    """Raise `InputError` where a circular mask does not fit into the box."""
    box = grid.side * grid.pixel_size_angstrom
    if diameter_angstrom > box:
        raise InputError(
            f"The mask diameter must be at most the box of {box:.0f} Å ({grid.side} px of "
            f"{grid.pixel_size_angstrom:g} Å); got {diameter_angstrom:g} Å; choose a smaller one, or extract again "
            "with a larger box."
        )


def circular_mask(diameter_angstrom: float, edge_pixel: float, grid: ImageGrid) -> Tensor:
    """Return the soft disc that masks images and class averages, float32, shape ``grid.shape``.

    Notes
    -----
    Whatever its diameter and edge, it ends within the largest circle of the box: what lies beyond is inside the box at
    some angles and outside at others, and a reference that does not vanish there has edges that appear as it is
    turned. They are seen at high frequency, so updates scaled by what is known of low ones grow without limit.
    """
    pixel = grid.pixel_size_angstrom
    mask = soft_disc(grid, 0.5 * diameter_angstrom, edge_pixel * pixel, dtype=torch.float32)
    return mask * soft_disc(grid, (grid.side // 2 - 1 - _BOX_EDGE_PIXEL) * pixel, _BOX_EDGE_PIXEL * pixel)
