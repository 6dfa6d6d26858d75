"""`ClassificationProblem`: the images of a 2D classification, as the E-step's tasks read them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.compute.broadcast import Broadcast
from halfmap.compute.executor import Executor
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation
from halfmap.inference.image_data import ImageData, check_mask, circular_mask, micrograph_names


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
        data = ImageData.of(
            particles,
            images,
            circular_mask(params.mask_diameter_angstrom, params.mask_edge_pixel, images.grid),
            index=index,
            background_mean=background_mean,
            background_deviation=background_deviation,
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
            group_names=np.unique(micrograph_names(particles)).astype(object),
            optics_numbers=np.unique(particles["optics_group"]).astype(np.int64),
        )
