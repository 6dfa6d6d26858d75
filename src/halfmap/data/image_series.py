"""`TiltSeries` and `FrameSeries`: the images of one place, and how sample and microscope moved while they were taken.

These are the items of a data source of M. Grids hold what varies over the images of a series: over the place in the
image or the volume, and over tilts or frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InconsistentDataError
from halfmap.splines.grids import LinearGrid, SplineGrid


def _constant(value: float = 0.0) -> SplineGrid:
    return SplineGrid.constant(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesOptics:
    """The microscope of a series, and what is the same in all its images.

    Parameters
    ----------
    pixel_size_angstrom : of the images as stored.
    voltage_kv, spherical_aberration_mm, amplitude_contrast, chromatic_aberration_mm : of the CTF.
    odd_zernike : (12,) in radians Å^n, ordered (1,−1) (1,1) (3,−3) (3,−1) (3,1) (3,3) (5,−5) … (5,5), as of
        `halfmap.optics.aberrations.odd_phase`; they turn the phase of what is recorded.
    even_zernike : (8,) in radians Å^n, ordered (2,−2) (2,0) (2,2) (4,−4) (4,−2) (4,0) (4,2) (4,4).
    magnification : (2, 2), by which frequencies are multiplied before a reference is looked up.
    """

    pixel_size_angstrom: float
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    chromatic_aberration_mm: float = 2.7
    odd_zernike: NDArray[np.float64] = field(default_factory=lambda: np.zeros(12))
    even_zernike: NDArray[np.float64] = field(default_factory=lambda: np.zeros(8))
    magnification: NDArray[np.float64] = field(default_factory=lambda: np.eye(2))


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesWeights:
    """How much the images of a series count, by frequency: scale × exp(B s² / 4).

    Parameters
    ----------
    scale, b_factor_angstrom2 : over images
        One node stands for the default of the kind of series; a node each for weights that were estimated.
    b_factor_difference_angstrom2, b_factor_angle_degrees : anisotropy of B, over images.
    scale_of_place, b_factor_of_place_angstrom2 : over (x, y).
    series_scale, series_b_factor_angstrom2 : of the whole series; count in reconstruction, not in alignment.
    """

    scale: SplineGrid = field(default_factory=lambda: _constant(1.0))
    b_factor_angstrom2: SplineGrid = field(default_factory=_constant)
    b_factor_difference_angstrom2: SplineGrid = field(default_factory=_constant)
    b_factor_angle_degrees: SplineGrid = field(default_factory=_constant)
    scale_of_place: SplineGrid = field(default_factory=lambda: _constant(1.0))
    b_factor_of_place_angstrom2: SplineGrid = field(default_factory=_constant)
    series_scale: float = 1.0
    series_b_factor_angstrom2: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSeries:
    """What tilt series and frame series have in common.

    Parameters
    ----------
    name : without folder and suffix, ``TS_1``.
    image_size_angstrom : (x, y), of the images.
    dose_e_per_angstrom2 : (T,), what the sample had taken before each image.
    is_used : (T,), whether an image takes part.
    optics, weights : of the series.
    defocus_angstrom : grid over (x, y, image): mean of the two defoci, positive under focus.
    astigmatism_angstrom, astigmatism_angle_degrees : U − V, and the angle of U from +x.
    phase_shift_degrees : of a phase plate.
    movement_x_angstrom, movement_y_angstrom : over (x, y, image)
        What is subtracted from where a particle's content would lie: of a tilt series M's image warp, of a frame
        series the whole motion.
    stage_angle_x_degrees, stage_angle_y_degrees, stage_angle_z_degrees : over (x, y, image)
        Rz Ry Rx of these turns the view of a particle, not its place.
    is_selected : whether the series passes the quality filters and was not deselected by hand.
    further : what the file says besides, by its own names, to be written back unchanged.
    """

    name: str
    image_size_angstrom: tuple[float, float]
    dose_e_per_angstrom2: NDArray[np.float64]
    is_used: NDArray[np.bool_]
    optics: SeriesOptics
    weights: SeriesWeights = field(default_factory=SeriesWeights)
    defocus_angstrom: SplineGrid = field(default_factory=_constant)
    astigmatism_angstrom: SplineGrid = field(default_factory=_constant)
    astigmatism_angle_degrees: SplineGrid = field(default_factory=_constant)
    phase_shift_degrees: SplineGrid = field(default_factory=_constant)
    movement_x_angstrom: SplineGrid = field(default_factory=_constant)
    movement_y_angstrom: SplineGrid = field(default_factory=_constant)
    stage_angle_x_degrees: SplineGrid = field(default_factory=_constant)
    stage_angle_y_degrees: SplineGrid = field(default_factory=_constant)
    stage_angle_z_degrees: SplineGrid = field(default_factory=_constant)
    is_selected: bool = True
    further: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.dose_e_per_angstrom2)
        if not n or len(self.is_used) != n:
            raise InconsistentDataError(
                f"Series {self.name} must have a dose and a use flag for each image; got {n} doses and "
                f"{len(self.is_used)} flags; check its metadata."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dose_e_per_angstrom2)

    @property
    def image_time(self) -> Tensor:
        """Where each image lies on a grid's last axis, 0 to 1 in order of the images, (T,)."""
        n = len(self)
        return torch.arange(n, dtype=torch.float64) / max(n - 1, 1)

    @property
    def dose_time(self) -> Tensor:
        """Where each image lies on the axis of trajectories and volume warps, 0 to 1 by dose, (T,)."""
        dose = torch.from_numpy(np.array(self.dose_e_per_angstrom2, dtype=np.float64))
        span = dose.max() - dose.min()
        return (dose - dose.min()) / span if span > 0 else torch.zeros_like(dose)

    @property
    def dose_per_image_e_per_angstrom2(self) -> float:
        """What one image gives the sample: the median step of dose; 0 for a single image."""
        return float(np.median(np.diff(np.sort(self.dose_e_per_angstrom2)))) if len(self) > 1 else 0.0

    @property
    def total_dose_e_per_angstrom2(self) -> float:
        """What the sample has taken after the last image."""
        return float(np.max(self.dose_e_per_angstrom2)) + self.dose_per_image_e_per_angstrom2

    def with_values(self, **fields: Any) -> Self:
        """Return the series with other values of some fields."""
        return replace(self, **fields)

    def with_first_images(self, n_images: int) -> Self:
        """Return the series with no more than so many images in use, those of the lowest dose."""
        used = np.flatnonzero(self.is_used)
        by_dose = used[np.argsort(self.dose_e_per_angstrom2[used], kind="stable")]
        is_used = np.zeros(len(self), dtype=bool)
        is_used[by_dose[:n_images]] = True
        return replace(self, is_used=is_used)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiltSeries(ImageSeries):
    """Tilts of one place, sorted by angle.

    Parameters
    ----------
    volume_size_angstrom : (x, y, z), of the tomogram; positions of particles start at its corner.
    tilt_angle_degrees, axis_angle_degrees : (T,)
        An axis angle counts counter-clockwise from the image's +y to the tilt axis.
    axis_offset_angstrom : (T, 2), added to where the tilted volume's centre lies in the image.
    level_angle_x_degrees, level_angle_y_degrees : of the sample against the tilt axis.
    are_angles_inverted : whether depth, and so defocus, runs the other way; places do not depend on it.
    volume_warp_x_angstrom, volume_warp_y_angstrom, volume_warp_z_angstrom : over (x, y, z, dose), added to positions.
    movie_names : as the file has them, one for each tilt.
    """

    volume_size_angstrom: tuple[float, float, float]
    tilt_angle_degrees: NDArray[np.float64]
    axis_angle_degrees: NDArray[np.float64]
    axis_offset_angstrom: NDArray[np.float64]
    level_angle_x_degrees: float = 0.0
    level_angle_y_degrees: float = 0.0
    are_angles_inverted: bool = False
    volume_warp_x_angstrom: LinearGrid = field(default_factory=lambda: LinearGrid.constant(0.0))
    volume_warp_y_angstrom: LinearGrid = field(default_factory=lambda: LinearGrid.constant(0.0))
    volume_warp_z_angstrom: LinearGrid = field(default_factory=lambda: LinearGrid.constant(0.0))
    movie_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tilt_angle_degrees", "axis_angle_degrees", "axis_offset_angstrom"):
            if len(getattr(self, name)) != len(self):
                raise InconsistentDataError(
                    f"Tilt series {self.name} must have one {name} for each of {len(self)} tilts; got "
                    f"{len(getattr(self, name))}; check its metadata."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSeries(ImageSeries):
    """Frames of one place: ``movement`` is Warp's global motion, over all frames of the file.

    Parameters
    ----------
    local_movement_x_angstrom, local_movement_y_angstrom : Warp's local motion, over (x, y, frame).
    pyramid_x_angstrom, pyramid_y_angstrom : M's additive corrections, from the slowest in space to the finest.
    doming_angstrom : defocus offset over (x, y, frame).
    spherical_aberration_offset_mm : over (x, y).
    n_frames_of_movie : of the file, if fewer are used; time on motion grids runs over these.
    movie_name : the raw file, relative to where the metadata lies.
    """

    local_movement_x_angstrom: SplineGrid = field(default_factory=_constant)
    local_movement_y_angstrom: SplineGrid = field(default_factory=_constant)
    pyramid_x_angstrom: tuple[SplineGrid, ...] = ()
    pyramid_y_angstrom: tuple[SplineGrid, ...] = ()
    doming_angstrom: SplineGrid = field(default_factory=_constant)
    spherical_aberration_offset_mm: SplineGrid = field(default_factory=_constant)
    n_frames_of_movie: int = 0
    movie_name: str = ""
