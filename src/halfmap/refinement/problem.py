"""`RefinementProblem`: the images of a 3D refinement, as the E-step's tasks read them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.executor import Executor
from halfmap.data.half_sets import HalfSets
from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError, ShapeError
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetry import canonical_name
from halfmap.grid import ImageGrid
from halfmap.inference.image_data import ImageData, check_mask, circular_mask, micrograph_names
from halfmap.refinement.params import RefinementParams


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementProblem:
    """Particles in two halves, and their images.

    Parameters
    ----------
    half_sets : N particles, with all their columns.
    data : what the E-step reads, of all of them.
    sent : the same, broadcast to the executor's workers.
    solvent_mask : that references are multiplied by, float32, shape (side, side, side).
    has_user_mask : whether it was given, and not a sphere.
    symmetry : point group.
    group_names : names of micrographs, in the order of ``data.micrograph``.
    optics_numbers : optics group of each noise spectrum.
    """

    half_sets: HalfSets
    data: ImageData
    sent: Broadcast
    solvent_mask: Tensor
    has_user_mask: bool
    symmetry: str
    group_names: NDArray
    optics_numbers: NDArray[np.int64]

    @property
    def particles(self) -> ParticleSet:
        """All particles."""
        return self.half_sets.particles

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of the images."""
        return self.data.grid

    @property
    def volume_grid(self) -> ImageGrid:
        """Sides and pixel size of the maps."""
        return ImageGrid.cubic(self.grid.side, self.grid.pixel_size_angstrom)

    @classmethod
    def of(
        cls,
        half_sets: HalfSets,
        images: ImageSource,
        params: RefinementParams,
        executor: Executor,
        *,
        solvent_mask: Tensor | None = None,
        index: ArrayLike | None = None,
        background_mean: ArrayLike = 0.0,
        background_deviation: ArrayLike = 1.0,
    ) -> "RefinementProblem":
        """Put particles and images together.

        Parameters
        ----------
        half_sets : in the order of the images, unless ``index`` is given.
        images : all on one grid.
        solvent_mask : 0 to 1, shape (side, side, side); None: a soft sphere of the mask's diameter.
        index, background_mean, background_deviation : as of `halfmap.inference.image_data.ImageData.of`.

        Raises
        ------
        InputError
            Numbers of particles and images differ, the mask is larger than the box, or a symmetry is unknown.
        ShapeError
            The solvent mask has another shape than the maps.
        """
        grid, particles = images.grid, half_sets.particles
        check_mask(params.mask_diameter_angstrom, grid)
        if params.solvent_flattened_fsc and solvent_mask is None:
            raise InputError(
                "A solvent-flattened FSC must have a mask; got none; give one with --mask, or leave out "
                "--solvent-flattened-fsc."
            )
        if solvent_mask is not None and tuple(solvent_mask.shape) != (grid.side,) * 3:
            raise ShapeError(f"A solvent mask must have shape {(grid.side,) * 3}; got {tuple(solvent_mask.shape)}.")
        pixel, edge = grid.pixel_size_angstrom, params.mask_edge_pixel
        sphere = soft_sphere(
            ImageGrid.cubic(grid.side, pixel), 0.5 * params.mask_diameter_angstrom, edge * pixel
        ).float()
        data = ImageData.of(
            particles,
            images,
            circular_mask(params.mask_diameter_angstrom, edge, grid),
            index=index,
            background_mean=background_mean,
            background_deviation=background_deviation,
            ctf=params.ctf,
            intact_first_peak=params.ctf_intact_first_peak,
            seed=params.seed,
        )
        return cls(
            half_sets=half_sets,
            data=data,
            sent=executor.broadcast(data),
            solvent_mask=sphere if solvent_mask is None else solvent_mask.float(),
            has_user_mask=solvent_mask is not None,
            symmetry=canonical_name(params.symmetry),
            group_names=np.unique(micrograph_names(particles)).astype(object),
            optics_numbers=np.unique(particles["optics_group"]).astype(np.int64),
        )
