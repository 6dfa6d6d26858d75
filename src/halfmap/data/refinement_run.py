"""`RefinementRun`: a 3D refinement after an iteration, as files and reports take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, ShapeError
from halfmap.grid import ImageGrid

_LARGEST_FSC = 0.999  # a shell counts as known at most that well, as in RELION


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinedHalf:
    """What one half of the particles has made.

    Parameters
    ----------
    map : regularised, and masked, as images are compared with it.
    unregularised : without prior and mask, the half map that resolution is measured with; None before the first
        reconstruction.
    noise : of optics groups and micrographs, as this half knows them.
    ssnr : of the map, float64, shape (n_shells,): T · FSC / (1 − FSC); RELION's data against prior.
    error_variance : of one real component of a coefficient of `ImageGrid.rfft` of the unregularised map, float64,
        shape (n_shells,).
    completeness : share of each shell that was seen, 0 to 1, float64, shape (n_shells,).
    offset_sigma_angstrom : spread of the origins, along one axis.

    Raises
    ------
    ShapeError
        The two maps differ in their grids, or the spectra in their shells.
    """

    map: Volume
    unregularised: Volume | None
    noise: NoiseModel
    ssnr: NDArray[np.float64]
    error_variance: NDArray[np.float64]
    completeness: NDArray[np.float64]
    offset_sigma_angstrom: float

    def __post_init__(self) -> None:
        if self.unregularised is not None and self.unregularised.grid != self.map.grid:
            raise ShapeError(
                f"Both maps of a half must have one grid; got {self.map.grid} and {self.unregularised.grid}."
            )
        n_shells = self.map.grid.side // 2 + 1
        for name in ("ssnr", "error_variance", "completeness"):
            if getattr(self, name).shape != (n_shells,):
                raise ShapeError(
                    f"{name} of a half must have a value for each of the {n_shells} shells; got shape "
                    f"{getattr(self, name).shape}."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementRun:
    """A 3D refinement after an iteration.

    Parameters
    ----------
    particles : with random_subset, rotation, origin_angstrom, norm_correction, max_probability, log_likelihood,
        n_significant, group_name. Those set aside are not in it.
    halves : of the particles with random_subset 1 and 2.
    joined : map of all particles, regularised, without mask; None before the last iteration.
    fsc : between the unregularised half maps, without mask, float64, shape (n_shells,); nan: not known yet.
    used_fsc : what regularised the maps: the same, or corrected for the mask.
    symmetry : point group.
    mask_diameter_angstrom : of the circular mask.
    iteration : the last one done.
    healpix_order : of the coarse rotations; the fine ones are one order finer.
    is_local : whether each particle is searched around its last pose alone.
    offset_range_angstrom, offset_step_angstrom : radius of the offset search, and its fine step.
    rotation_accuracy_degrees, offset_accuracy_angstrom : expected errors of poses; nan: not estimated.
    resolution_angstrom : up to which the FSC is 0.5 or more, in a joined map 0.143; inf: no such shell.
    current_size_pixel : side of the box that the band of the last iteration corresponds to.
    regularisation : T, RELION's tau fudge.
    padding : by how much maps are padded before their transform, 1 or 2.
    join_resolution_angstrom : up to which the halves were joined after each iteration; inf: nowhere.
    perturbation, perturbation_factor : shift of the grid of poses and its largest, as shares of the coarse steps.
    is_final : whether all particles have been joined, and nothing is to follow.
    seed : of the run.
    settings : RELION label → value of what else was set (``rlnDoCorrectCtf`` …), for its optimiser file.
    history : one row for each iteration; any of iteration, resolution_angstrom, shell, healpix_order, is_local,
        rotation_step_degrees, offset_step_angstrom, offset_range_angstrom, rotation_accuracy_degrees,
        offset_accuracy_angstrom, rotation_change_degrees, offset_change_angstrom, mean_max_probability,
        log_likelihood, median_n_significant, lost_mass, offset_sigma_angstrom, seconds.

    Raises
    ------
    InconsistentDataError
        A particle is in neither half.
    ShapeError
        Maps differ in their grids, or curves in their shells.
    """

    particles: ParticleSet
    halves: tuple[RefinedHalf, RefinedHalf]
    joined: Volume | None
    fsc: NDArray[np.float64]
    used_fsc: NDArray[np.float64]
    symmetry: str
    mask_diameter_angstrom: float
    iteration: int
    healpix_order: int
    is_local: bool
    offset_range_angstrom: float
    offset_step_angstrom: float
    rotation_accuracy_degrees: float
    offset_accuracy_angstrom: float
    resolution_angstrom: float
    current_size_pixel: int
    regularisation: float = 1.0
    padding: float = 2.0
    join_resolution_angstrom: float = 40.0
    perturbation: float = 0.0
    perturbation_factor: float = 0.5
    is_final: bool = False
    seed: int = 1
    settings: Mapping[str, str] | None = None
    history: Table = field(default_factory=lambda: Table(columns={}))

    def __post_init__(self) -> None:
        subset = self.particles["random_subset"]
        n_other = int(np.count_nonzero(~np.isin(subset, (1, 2))))
        if n_other:
            raise InconsistentDataError(
                f"Every particle of a refinement must have random_subset 1 or 2; got {n_other} of {len(subset)} that "
                "have not; assign half-sets to them first."
            )
        others = [("half 2", self.halves[1].map)] + ([] if self.joined is None else [("the joined map", self.joined)])
        for name, volume in others:
            if volume.grid != self.grid:
                raise ShapeError(f"All maps of a refinement must have the grid of half 1; got another for {name}.")
        for name in ("fsc", "used_fsc"):
            if getattr(self, name).shape != (self.n_shells,):
                raise ShapeError(
                    f"{name} must have a value for each of the {self.n_shells} shells; got shape "
                    f"{getattr(self, name).shape}."
                )

    @property
    def grid(self) -> ImageGrid:
        """Grid of all maps."""
        return self.halves[0].map.grid

    @property
    def n_shells(self) -> int:
        """Number of shells of all spectra."""
        return self.grid.side // 2 + 1

    @property
    def rotation_step_degrees(self) -> float:
        """Fine step of the rotations: 7.5° at order 2, half of it at each order more."""
        return 30.0 / 2**self.healpix_order

    def particles_of(self, half: int) -> ParticleSet:
        """Return the particles of half 1 or 2."""
        return self.particles.take(self.particles["random_subset"] == half)

    def joined_ssnr(self) -> NDArray[np.float64]:
        """Return the SSNR of the map of all particles, float64, shape (n_shells,).

        Notes
        -----
        The FSC of a map of all particles with the truth's is √(2 F / (1 + F)), F between halves; so the map's
        signal-to-noise ratio is C / (1 − C) of that. RELION's for its last iteration.
        """
        fsc = np.clip(np.nan_to_num(self.used_fsc), 0.001, _LARGEST_FSC)
        joined = np.minimum(np.sqrt(2 * fsc / (1 + fsc)), _LARGEST_FSC)
        return self.regularisation * joined / (1 - joined)

    def joined_error_variance(self) -> NDArray[np.float64]:
        """Return the error variance of the map of all particles, float64, shape (n_shells,): its weights are sums."""
        first, second = (half.error_variance for half in self.halves)
        total = first + second
        return np.divide(first * second, total, out=np.zeros_like(total), where=total > 0)

    def joined_noise(self) -> NoiseModel:
        """Return the mean of both halves' noise models: spectra of each optics group, scales of each micrograph.

        What only one half knows is taken from there.
        """
        first, second = (half.noise for half in self.halves)
        optics, spectra = _mean_by_key(
            first.optics_group, first.noise_variance, second.optics_group, second.noise_variance
        )
        names, scales = _mean_by_key(first.group_name, first.group_scale, second.group_name, second.group_scale)
        return NoiseModel(optics_group=optics, noise_variance=spectra, group_name=names, group_scale=scales)

    def with_particles(self, particles: ParticleSet) -> "RefinementRun":
        """Return the run with another table of its particles."""
        return replace(self, particles=particles)


def _mean_by_key(
    keys: NDArray, values: NDArray[np.float64], other_keys: NDArray, other_values: NDArray[np.float64]
) -> tuple[NDArray, NDArray[np.float64]]:
    """Return all keys in order, and the mean of what the two sides say of each."""
    found: dict[object, list[NDArray[np.float64]]] = {}
    for side, numbers in ((keys, values), (other_keys, other_values)):
        for key, number in zip(side.tolist(), numbers, strict=True):
            found.setdefault(key, []).append(number)
    return np.array(list(found), dtype=keys.dtype), np.array([np.mean(each, axis=0) for each in found.values()])
