"""`ClassificationProblem`: the images of a 2D classification, as the E-step's tasks read them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.compute.broadcast import Broadcast
from halfmap.compute.executor import Executor
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation
from halfmap.inference.expectation import ImageData

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
class ClassificationProblem:
    """Particles and images of a classification.

    Parameters
    ----------
    particles : N of them, with all their columns.
    data : what the E-step reads.
    sent : the same, broadcast to the executor's workers.
    mask_overlap : of the mask with itself, see `halfmap.inference.maximisation.overlap`.
    group_names : names of micrographs, in the order of ``data.micrograph``.
    optics_numbers : optics group of each noise spectrum.
    """

    particles: ParticleSet
    data: ImageData
    sent: Broadcast
    mask_overlap: Tensor
    group_names: NDArray
    optics_numbers: NDArray[np.int64]

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of the images."""
        return self.data.grid

    @classmethod
    def of(
        cls,
        particles: ParticleSet,
        images: ImageSource,
        params: ClassificationParams,
        executor: Executor,
        *,
        index: ArrayLike | None = None,
        background_mean: ArrayLike = 0.0,
        background_deviation: ArrayLike = 1.0,
    ) -> "ClassificationProblem":
        """Put particles and images together.

        Parameters
        ----------
        particles : in the order of the images, unless ``index`` is given.
        images : all on one grid.
        index : number of each particle's image in the source.
        background_mean, background_deviation : of each image, by which it is normalised as it is read.

        Raises
        ------
        InputError
            Numbers of particles and images differ, the mask is larger than the box, there are more classes than
            particles, or the limits of resolution leave no shell.
        """
        n = len(particles)
        chosen = np.arange(n) if index is None else np.asarray(index, dtype=np.int64)
        if len(chosen) != n or (index is None and len(images) != n):
            raise InputError(f"There must be one image for each of {n} particles; got {len(images)}.")
        if params.classes > n:
            raise InputError(
                f"Classes must be no more than particles; got {params.classes} classes of {n}; ask for fewer."
            )
        check_mask(params.mask_diameter_angstrom, images.grid)
        decisions.limits(
            images.grid.side // 2 - 1,
            images.grid.side * images.grid.pixel_size_angstrom,
            finest_angstrom=params.max_alignment_resolution_angstrom,
            coarsest_angstrom=params.min_alignment_resolution_angstrom,
        )
        numbers, group = np.unique(particles["optics_group"], return_inverse=True)
        names = particles["group_name"] if "group_name" in particles else particles.get("micrograph_name", "all")
        group_names, micrograph = np.unique(np.asarray(names).astype(str), return_inverse=True)
        data = ImageData(
            particles=ParticleSet(
                columns={name: particles[name] for name in _CTF_COLUMNS if name in particles}, optics=particles.optics
            ),
            source=images,
            index=chosen,
            background=np.broadcast_to(np.asarray(background_mean, dtype=np.float64), n).copy(),
            deviation=np.broadcast_to(np.asarray(background_deviation, dtype=np.float64), n).copy(),
            group=group.astype(np.int64),
            micrograph=micrograph.astype(np.int64),
            mask=circular_mask(params, images.grid),
            ctf=params.ctf,
            intact_first_peak=params.ctf_intact_first_peak,
            fill_noise=params.mask == "noise",
            seed=params.seed,
        )
        return cls(
            particles=particles,
            data=data,
            sent=executor.broadcast(data),
            mask_overlap=maximisation.overlap(data.mask, images.grid),
            group_names=group_names.astype(object),
            optics_numbers=numbers.astype(np.int64),
        )


def check_mask(diameter_angstrom: float, grid: ImageGrid) -> None:
    """Raise `InputError` where a circular mask does not fit into the box."""
    box = grid.side * grid.pixel_size_angstrom
    if diameter_angstrom > box:
        raise InputError(
            f"The mask diameter must be at most the box of {box:.0f} Å ({grid.side} px of "
            f"{grid.pixel_size_angstrom:g} Å); got {diameter_angstrom:g} Å; choose a smaller one, or extract again "
            "with a larger box."
        )


def circular_mask(params: ClassificationParams, grid: ImageGrid) -> Tensor:
    """Return the soft disc that masks images and class averages, float32, shape ``grid.shape``.

    Notes
    -----
    Whatever its diameter and edge, it ends within the largest circle of the box: what lies beyond is inside the box at
    some angles and outside at others, and a reference that does not vanish there has edges that appear as it is
    turned. They are seen at high frequency, so updates scaled by what is known of low ones grow without limit.
    """
    pixel = grid.pixel_size_angstrom
    mask = soft_disc(grid, 0.5 * params.mask_diameter_angstrom, params.mask_edge_pixel * pixel, dtype=torch.float32)
    return mask * soft_disc(grid, (grid.side // 2 - 1 - _BOX_EDGE_PIXEL) * pixel, _BOX_EDGE_PIXEL * pixel)
