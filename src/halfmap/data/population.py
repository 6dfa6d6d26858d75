"""M's nouns: a population of data sources and species, and the particles of a species."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.half_sets import HALVES
from halfmap.errors import InconsistentDataError


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesParticles:
    """The particles of a species, with their paths through dose.

    Parameters
    ----------
    position_angstrom : (N, n, 3)
        At n temporal samples, evenly spaced over dose; from the corner of the tomogram. Of frame series (x, y) from
        the corner of the image, z an offset of the defocus.
    rotation : (N, n, 3, 3), float64, A of a particle.
    random_subset : (N,), 1 or 2.
    source_name, source_hash : (N,), text: which item a particle is in, and the hash of its data.
    uid : (N,)
    further : columns of the file that are none of these, by its own names, as text.

    Raises
    ------
    InconsistentDataError
        Lengths differ, a pose is not finite, or a subset is neither 1 nor 2.
    """

    position_angstrom: NDArray[np.float64]
    rotation: NDArray[np.float64]
    random_subset: NDArray[np.int64]
    source_name: NDArray[np.object_]
    source_hash: NDArray[np.object_]
    uid: NDArray[np.int64]
    further: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, samples = self.position_angstrom.shape[:2]
        if self.position_angstrom.shape != (n, samples, 3) or self.rotation.shape != (n, samples, 3, 3):
            raise InconsistentDataError(
                "Particles of a species must have positions (N, n, 3) and rotations (N, n, 3, 3); got "
                f"{self.position_angstrom.shape} and {self.rotation.shape}."
            )
        for name in ("random_subset", "source_name", "source_hash", "uid"):
            if len(getattr(self, name)) != n:
                raise InconsistentDataError(
                    f"Particles of a species must have one {name} each; got {len(getattr(self, name))} for {n}."
                )
        is_finite = np.isfinite(self.position_angstrom).all((1, 2)) & np.isfinite(self.rotation).all((1, 2, 3))
        if (wrong := np.flatnonzero(~is_finite)).size:
            raise InconsistentDataError(
                f"Particles of a species must have finite positions and angles; got others for {wrong.size} of {n}, "
                f"the first of them number {wrong[0] + 1}, in {self.source_name[wrong[0]]}; mend or remove them."
            )
        other = self.random_subset[~np.isin(self.random_subset, HALVES)]
        if len(other):
            raise InconsistentDataError(
                f"Every particle's random_subset must be 1 or 2; got {other[0]} for {len(other)} of {n}; assign "
                "half-sets first."
            )

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.uid)

    @property
    def n_samples(self) -> int:
        """Number of temporal samples of a pose."""
        return int(self.position_angstrom.shape[1])

    def take(self, rows: NDArray) -> "SpeciesParticles":
        """Return some rows, by number or by a mask."""
        per_row = ("position_angstrom", "rotation", "random_subset", "source_name", "source_hash", "uid")
        return SpeciesParticles(
            **{name: getattr(self, name)[rows] for name in per_row},
            further={name: values[rows] for name, values in self.further.items()},
        )

    def with_poses(self, position_angstrom: NDArray, rotation: NDArray) -> "SpeciesParticles":
        """Return the particles elsewhere."""
        return replace(self, position_angstrom=position_angstrom, rotation=rotation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Species:
    """What a ``.species`` file says; maps and particles lie beside it.

    Parameters
    ----------
    guid, name, version, previous_version : identity.
    pixel_size_angstrom, diameter_angstrom, symmetry, molecular_weight_kda : of the molecule; the box is twice the
        diameter.
    n_temporal_samples : of positions and rotations.
    resolution_angstrom, b_factor_angstrom2 : of the last reconstruction; None before one; B is negative where it
        sharpens, as in M.
    denoised_to_angstrom : to which the denoised map reaches; None before one.
    further : M's other parameters, by its own names, as text.
    """

    guid: str
    name: str
    pixel_size_angstrom: float
    diameter_angstrom: float
    symmetry: str = "C1"
    molecular_weight_kda: float = 100.0
    n_temporal_samples: int = 1
    resolution_angstrom: float | None = None
    b_factor_angstrom2: float | None = None
    denoised_to_angstrom: float | None = None
    version: str = ""
    previous_version: str = ""
    used_sources: Mapping[str, str] = field(default_factory=dict)
    "Versions of the sources by their GUID."
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def box_pixel(self) -> int:
        """Side of every map: 2 round(diameter / pixel size), as in M."""
        return 2 * round(self.diameter_angstrom / self.pixel_size_angstrom)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceItem:
    """One item of a data source.

    Parameters
    ----------
    name : file name, ``TS_1.tomostar`` or of a movie.
    hash : of its raw data, 27 characters: what links particles to it.
    weight, b_factor_angstrom2 : copies of the item's own.
    """

    name: str
    hash: str
    weight: float = 1.0
    b_factor_angstrom2: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSource:
    """What a ``.source`` file says; the metadata of its items lie beside it.

    Parameters
    ----------
    guid, name, version, previous_version : identity.
    pixel_size_angstrom : of the raw data.
    dimensions_pixel : (x, y, z), of the raw images and of tomograms in their pixels.
    max_images : how many frames or tilts of each item to use, by dose; -1 for all.
    dose_per_frame_e_per_angstrom2 : None where unknown, or where the exposure is stated instead.
    exposure_e_per_angstrom2 : of all frames of a movie together, where that is what the file states.
    eer_group_frames : raw frames of an EER file that make one frame.
    gain_path, defects_path, gain_flip_x, gain_flip_y, gain_transpose : of the detector; paths as the file has them.
    items : in the file's order.
    """

    guid: str
    name: str
    pixel_size_angstrom: float
    dimensions_pixel: tuple[float, float, float]
    items: tuple[SourceItem, ...]
    max_images: int = -1
    dose_per_frame_e_per_angstrom2: float | None = None
    exposure_e_per_angstrom2: float | None = None
    eer_group_frames: int = 10
    gain_path: str = ""
    defects_path: str = ""
    gain_flip_x: bool = False
    gain_flip_y: bool = False
    gain_transpose: bool = False
    version: str = ""
    previous_version: str = ""
    used_species: Mapping[str, str] = field(default_factory=dict)
    "Versions of the species by their GUID."
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_of_tilt_series(self) -> bool:
        """Whether the items are tilt series."""
        return bool(self.items) and self.items[0].name.endswith(".tomostar")


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A species or a source as a population lists it: GUID and path relative to the population's file."""

    guid: str
    path: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """What a ``.population`` file says."""

    name: str
    species: tuple[Member, ...] = ()
    sources: tuple[Member, ...] = ()
    refinement_options: Mapping[str, str] = field(default_factory=dict)
    "M's LastRefinementOptions, by its own names, as text."
