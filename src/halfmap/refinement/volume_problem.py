"""`VolumeProblem`: particles that are compared with one or more maps, all together, and their images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.executor import Executor
from halfmap.data.image_source import ImageSource
from halfmap.data.joined_images import RescaledImages
from halfmap.data.particles import ParticleSet
from halfmap.errors import ShapeError
from halfmap.fourier.resample import rescaled_grid
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.grid import ImageGrid
from halfmap.inference.image_data import ImageData, check_mask, circular_mask, micrograph_names


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumeProblem:
    """Particles that are compared with one or more maps.

    Parameters
    ----------
    particles : N of them, with all their columns.
    data : what the E-step reads.
    sent : the same, broadcast to the executor's workers.
    image_grid : of the images as they were given; those of ``data`` may be smaller, of the same field.
    solvent_mask : that references are multiplied by, float32, shape (side, side, side) of ``data.grid``.
    symmetry : point group.
    group_names : names of micrographs, in the order of ``data.micrograph``.
    optics_numbers : optics group of each noise spectrum.
    """

    particles: ParticleSet
    data: ImageData
    sent: Broadcast
    image_grid: ImageGrid
    solvent_mask: Tensor
    symmetry: str
    group_names: NDArray
    optics_numbers: NDArray[np.int64]

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of the images as they are compared."""
        return self.data.grid

    @property
    def volume_grid(self) -> ImageGrid:
        """Sides and pixel size of the maps that they are compared with."""
        return ImageGrid.cubic(self.grid.side, self.grid.pixel_size_angstrom)

    @property
    def field_angstrom(self) -> float:
        """Side of the images in Å."""
        return self.grid.side * self.grid.pixel_size_angstrom

    @classmethod
    def of(
        cls,
        particles: ParticleSet,
        images: ImageSource,
        executor: Executor,
        *,
        mask_diameter_angstrom: float,
        mask_edge_pixel: float,
        symmetry: str,
        ctf: bool,
        ctf_intact_first_peak: bool,
        seed: int,
        side: int | None = None,
        solvent_mask: Tensor | None = None,
        index: ArrayLike | None = None,
        background_mean: ArrayLike = 0.0,
        background_deviation: ArrayLike = 1.0,
    ) -> "VolumeProblem":
        """Put particles and images together.

        Parameters
        ----------
        particles : in the order of the images, unless ``index`` is given.
        images : all on one grid.
        side : that images are brought to, of the same field; as they are where left out.
        solvent_mask : 0 to 1, shape (side, side, side); None: a soft sphere of the mask's diameter.
        index, background_mean, background_deviation : as of `halfmap.inference.image_data.ImageData.of`.

        Raises
        ------
        InputError
            Numbers of particles and images differ, the mask is larger than the box, or the symmetry is unknown.
        ShapeError
            The solvent mask has another shape than the maps.
        """
        given = images.grid
        check_mask(mask_diameter_angstrom, given)
        edge_angstrom = mask_edge_pixel * given.pixel_size_angstrom
        if side is not None and side < given.side:
            images = RescaledImages(images=images, grid=rescaled_grid(given, side), level=np.zeros(len(images)))
        grid = images.grid
        if solvent_mask is not None and tuple(solvent_mask.shape) != (grid.side,) * 3:
            raise ShapeError(f"A solvent mask must have shape {(grid.side,) * 3}; got {tuple(solvent_mask.shape)}.")
        cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
        sphere = soft_sphere(cubic, 0.5 * mask_diameter_angstrom, edge_angstrom).float()
        data = ImageData.of(
            particles,
            images,
            circular_mask(mask_diameter_angstrom, edge_angstrom / grid.pixel_size_angstrom, grid),
            index=index,
            background_mean=background_mean,
            background_deviation=background_deviation,
            ctf=ctf,
            intact_first_peak=ctf_intact_first_peak,
            seed=seed,
        )
        return cls(
            particles=particles,
            data=data,
            sent=executor.broadcast(data),
            image_grid=given,
            solvent_mask=sphere if solvent_mask is None else solvent_mask.float(),
            symmetry=canonical_name(symmetry),
            group_names=np.unique(micrograph_names(particles)).astype(object),
            optics_numbers=np.unique(particles["optics_group"]).astype(np.int64),
        )
