"""What can be set about simulated tilt series and frame series."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from halfmap.errors import InputError
from halfmap.simulation.params import MicroscopeParams

Nodes = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class SeriesSimulationParams(MicroscopeParams):
    """What both kinds of series have in common. An error is what the truth differs by from what the files say."""

    number: Annotated[int, Ge(1)] = 1
    """Number of series."""

    size_pixel: tuple[Annotated[int, Ge(64)], Annotated[int, Ge(64)]] = (384, 384)
    """Width and height of the images."""

    pixel_size_angstrom: Annotated[float, Gt(0)] = 4.0
    """Pixel size of the images."""

    particles_per_series: tuple[Annotated[int, Ge(0)], ...] = ()
    """Number of particles of each species in a series, in the order of the species. Default: 40 of each."""

    margin_angstrom: float = 0.0
    """How far centres of particles keep from the borders of the field; negative lets them lie beyond."""

    ice_thickness_angstrom: Annotated[float, Gt(0)] = 500.0
    """Thickness of the ice: how deep particles lie in it, and how many electrons it scatters away."""

    b_factor_angstrom2: Annotated[float, Ge(0)] = 60.0
    """B-factor that damps the particles' density."""

    b_factor_per_dose_angstrom2: Annotated[float, Ge(0)] = 4.0
    """By how much the B-factor grows with every e/Å² that the sample has taken; 0 for no radiation damage."""

    snr: Annotated[float, Gt(0)] | None = None
    """Signal-to-noise ratio of an untilted image, of frame series of the sum of all frames: variance of the noise-free
    first species inside its circle over that of the noise. Default: the shot noise of the dose."""

    ice_noise_fraction: Annotated[float, Ge(0), Le(1)] = 0.3
    """Fraction of the noise's variance that is grain of the ice, coloured by its scattering and the CTF."""

    reference_resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Resolution of the half-maps that are written as references, where their FSC is 0.143. Default: 3 pixels."""

    temporal_samples: Annotated[int, Ge(1), Le(8)] = 1
    """Number of temporal samples of poses."""

    drift_angstrom: Annotated[float, Ge(0)] = 0.0
    """By how much particles move along each axis over the exposure, root mean square."""

    turning_degrees: Annotated[float, Ge(0)] = 0.0
    """By how much particles turn about each axis over the exposure, root mean square."""

    position_error_angstrom: Annotated[float, Ge(0)] = 3.0
    """Error of the starting positions along each axis, root mean square."""

    angle_error_degrees: Annotated[float, Ge(0)] = 3.0
    """Error of the starting orientations about each axis, root mean square."""

    defocus_error_angstrom: Annotated[float, Ge(0)] = 1000.0
    """Error of the defocus, root mean square: of each tilt, or of each particle of a frame series."""

    astigmatism_error_angstrom: Annotated[float, Ge(0)] = 0.0
    """Error of both components of the astigmatism, root mean square."""

    phase_shift_error_degrees: Annotated[float, Ge(0)] = 0.0
    """Error of the phase shift, root mean square."""

    spherical_aberration_error_mm: float = 0.0
    """By how much the true spherical aberration is larger than --spherical-aberration says."""

    magnification_error_percent: Annotated[float, Ge(0)] = 0.0
    """Error of the anisotropic magnification, root mean square of both components of the stretch. No images tell a
    change of scale from the map's, nor a turn from the particles'."""

    odd_aberration_rad: Annotated[float, Ge(0)] = 0.0
    """Odd aberrations, coma and trefoil: root mean square of the phase of each at the Nyquist frequency."""

    odd_aberration_order: Literal[3, 5] = 3
    """Highest order of odd aberrations."""

    even_aberration_rad: Annotated[float, Ge(0)] = 0.0
    """Even aberrations of the fourth order: root mean square of the phase of each at the Nyquist frequency."""

    bad_images: tuple[Annotated[int, Ge(0)], ...] = ()
    """Images, numbered from 0 in the order of the series, that show hardly anything."""

    exclude_bad_images: bool = True
    """Whether the files say that these images are not to be used."""

    float16: bool = True
    """Write 16-bit floating point images (MRC mode 12)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temporal_samples == 1 and (self.drift_angstrom or self.turning_degrees):
            raise InputError(
                "--temporal-samples must be at least 2 where particles move or turn (--drift, --turning); got 1; "
                "raise it."
            )
        if max(self.bad_images, default=-1) >= self.n_images:
            raise InputError(
                f"--bad-images must be below the number of images, {self.n_images}; got {max(self.bad_images)}."
            )

    @property
    def n_images(self) -> int:
        """Number of images of a series."""
        raise NotImplementedError

    @property
    def dose_per_image_e_per_angstrom2(self) -> float:
        """Electrons that fall on the specimen during one image."""
        raise NotImplementedError

    @property
    def images_of_snr(self) -> int:
        """Of how many images together the SNR is meant."""
        raise NotImplementedError

    @property
    def field_angstrom(self) -> tuple[float, float]:
        """Width and height of the field."""
        return self.size_pixel[0] * self.pixel_size_angstrom, self.size_pixel[1] * self.pixel_size_angstrom

    @property
    def half_map_resolution_angstrom(self) -> float:
        """Resolution of the reference half-maps."""
        given = self.reference_resolution_angstrom
        return 3 * self.pixel_size_angstrom if given is None else given

    def particles_of(self, species: int) -> int:
        """Return how many particles of a species, counted from 0, a series gets."""
        return self.particles_per_series[species] if self.particles_per_series else 40


@dataclass(frozen=True, kw_only=True)
class MovieParams:
    """Raw frames."""

    frame_format: Literal["mrc", "tif"] = "mrc"
    """Format of raw frames."""

    gain: bool = True
    """Whether the detector's pixels differ in gain, whose reference is written as gain.mrc."""

    global_motion_angstrom: Annotated[float, Ge(0)] = 4.0
    """Motion over an exposure, root mean square along each axis, that the files know of."""

    motion_error_angstrom: Annotated[float, Ge(0)] = 0.0
    """Motion that the files do not know of, root mean square of the nodes of the grid that is coarsest in space; each
    finer one has half of that."""


@dataclass(frozen=True, kw_only=True)
class TiltSeriesSimulationParams(SeriesSimulationParams, MovieParams):
    """How tilt series with known truth are made."""

    min_tilt_degrees: Annotated[float, Gt(-90)] = -60.0
    """Lowest tilt."""

    max_tilt_degrees: Annotated[float, Lt(90)] = 60.0
    """Highest tilt."""

    tilt_step_degrees: Annotated[float, Gt(0)] = 3.0
    """Step between tilts."""

    tilt_scheme: Literal["dose-symmetric", "bidirectional", "unidirectional"] = "dose-symmetric"
    """Order in which tilts are taken: outwards from zero on both sides by turns, one side after the other, or from
    end to end."""

    dose_per_tilt_e_per_angstrom2: Annotated[float, Gt(0)] = 3.0
    """Dose of a tilt."""

    axis_angle_degrees: float = 85.0
    """Angle from the image's +y to the tilt axis, counter-clockwise."""

    level_angle_x_degrees: float = 0.0
    """Tilt of the sample about x."""

    level_angle_y_degrees: float = 0.0
    """Tilt of the sample about y, added to all tilt angles."""

    inverted_angles: bool = False
    """Whether depth changes the defocus the other way."""

    axis_offset_angstrom: Annotated[float, Ge(0)] = 20.0
    """Known offset of each tilt, root mean square along each axis."""

    tomogram_depth_angstrom: Annotated[float, Gt(0)] | None = None
    """Depth of the tomogram. Default: that of the ice and 200 Å."""

    image_warp_nodes: tuple[Nodes, Nodes] = (3, 3)
    """Nodes of the image warp along x and y, in each tilt."""

    image_warp_angstrom: Annotated[float, Ge(0)] = 3.0
    """Error of the places in each image, root mean square of the warp's nodes along each axis; 0 for none."""

    volume_warp_nodes: tuple[Nodes, Nodes, Nodes, Nodes] = (3, 3, 2, 5)
    """Nodes of the volume warp along x, y, z and over the dose."""

    volume_warp_angstrom: Annotated[float, Ge(0)] = 0.0
    """Warp of the volume over the exposure, root mean square of its nodes along each axis at the end; 0 for none."""

    stage_angle_error_degrees: Annotated[float, Ge(0)] = 0.0
    """Error of the stage angles of each tilt, root mean square about each axis."""

    frames_per_tilt: Annotated[int, Ge(1)] = 1
    """Number of raw frames of each tilt."""

    def __post_init__(self) -> None:
        if self.min_tilt_degrees > self.max_tilt_degrees:
            raise InputError(
                f"--min-tilt must not exceed --max-tilt; got {self.min_tilt_degrees:g} and {self.max_tilt_degrees:g}°; "
                "swap them."
            )
        super().__post_init__()

    @property
    def n_images(self) -> int:
        """Number of tilts."""
        return 1 + int((self.max_tilt_degrees - self.min_tilt_degrees) / self.tilt_step_degrees + 1e-9)

    @property
    def dose_per_image_e_per_angstrom2(self) -> float:
        """Dose of a tilt."""
        return self.dose_per_tilt_e_per_angstrom2

    @property
    def images_of_snr(self) -> int:
        """One: the SNR is that of a tilt."""
        return 1

    @property
    def volume_angstrom(self) -> tuple[float, float, float]:
        """Size of the tomogram, (x, y, z), whole pixels."""
        depth = self.tomogram_depth_angstrom or self.ice_thickness_angstrom + 200.0
        pixel = self.pixel_size_angstrom
        return (*self.field_angstrom, round(depth / pixel) * pixel)


@dataclass(frozen=True, kw_only=True)
class FrameSeriesSimulationParams(SeriesSimulationParams, MovieParams):
    """How frame series with known truth are made."""

    frames: Annotated[int, Ge(1)] = 20
    """Number of frames."""

    dose_e_per_angstrom2: Annotated[float, Gt(0)] = 40.0
    """Dose of the whole exposure."""

    local_motion_angstrom: Annotated[float, Ge(0)] = 0.0
    """Motion that differs over the field, root mean square of its nodes, that the files know of."""

    motion_error_nodes: tuple[Nodes, Nodes] = (2, 2)
    """Nodes along x and y of the coarsest grid of motion that the files do not know of."""

    doming_angstrom: float = 0.0
    """By how much the middle of the field rises against its corners over the exposure: defocus that changes."""

    doming_tilt_degrees: Annotated[float, Ge(0)] = 0.0
    """Turn of the sample with the doming, root mean square of the nodes about each axis."""

    @property
    def n_images(self) -> int:
        """Number of frames."""
        return self.frames

    @property
    def dose_per_image_e_per_angstrom2(self) -> float:
        """Dose of a frame."""
        return self.dose_e_per_angstrom2 / self.frames

    @property
    def images_of_snr(self) -> int:
        """All frames: the SNR is that of their sum."""
        return self.frames
