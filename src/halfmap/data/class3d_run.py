"""`Class3DRun`: a 3D classification as its particles, the maps of its classes, noise, and settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.data.volumes import Volume
from halfmap.errors import ShapeError
from halfmap.grid import ImageGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class Class3DRun:
    """A 3D classification after an iteration.

    Parameters
    ----------
    particles : with class_number (from 1), rotation, origin_angstrom, group_name and more.
    maps : of the K classes.
    fractions : float64, shape (K,).
    ssnr, error_variance, completeness : float64, shape (K, n_shells); see `halfmap.data.refinement_run.RefinedHalf`.
    resolution_angstrom : float64, shape (K,): of the last shell that is resolved (ratio of signal to noise of 1); inf
        where none is.
    noise : of all particles.
    symmetry : point group.
    mask_diameter_angstrom : of the circular mask.
    iteration : done.
    healpix_order, is_local, offset_range_angstrom, offset_step_angstrom : of the search.
    offset_sigma_angstrom : spread of the origins, along one axis.
    current_size_pixel : twice the last shell of the maps.
    regularisation : T.
    padding : of the maps' transforms.
    perturbation : shift of the sampling.
    is_final : whether it was the last iteration.
    seed : of everything drawn at random.
    settings : more of RELION's labels of the optimiser file, and their texts.
    history : one iteration a row.

    Raises
    ------
    ShapeError
        Fractions or spectra are not of as many classes as there are maps, or the maps' grids differ.
    """

    particles: ParticleSet
    maps: tuple[Volume, ...]
    fractions: NDArray[np.float64]
    ssnr: NDArray[np.float64]
    error_variance: NDArray[np.float64]
    completeness: NDArray[np.float64]
    resolution_angstrom: NDArray[np.float64]
    noise: NoiseModel
    symmetry: str
    mask_diameter_angstrom: float
    iteration: int
    healpix_order: int
    is_local: bool
    offset_range_angstrom: float
    offset_step_angstrom: float
    offset_sigma_angstrom: float
    current_size_pixel: int
    regularisation: float
    padding: int
    perturbation: float
    is_final: bool
    seed: int
    history: Table
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        K = len(self.maps)
        for name in ("fractions", "ssnr", "error_variance", "completeness", "resolution_angstrom"):
            if len(getattr(self, name)) != K:
                raise ShapeError(f"There must be {name} of {K} classes; got {len(getattr(self, name))}.")
        if any(volume.grid != self.grid for volume in self.maps):
            raise ShapeError("Maps of classes must be on one grid; got several.")

    @property
    def grid(self) -> ImageGrid:
        """Sides and pixel size of the maps."""
        return self.maps[0].grid
