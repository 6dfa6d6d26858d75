"""What can be set about simulated particles and micrographs."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from halfmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MicroscopeParams:
    """The microscope, its defocus, and how particles lie in the ice."""

    voltage_kv: Annotated[float, Gt(0)] = 300.0
    """Acceleration voltage."""

    spherical_aberration_mm: Annotated[float, Ge(0)] = 2.7
    """Spherical aberration."""

    amplitude_contrast: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Fraction of amplitude contrast."""

    phase_shift_degrees: float = 0.0
    """Phase shift of a phase plate."""

    min_defocus_angstrom: float = 10_000.0
    """Least underfocus of a micrograph."""

    max_defocus_angstrom: float = 25_000.0
    """Greatest underfocus of a micrograph."""

    astigmatism_angstrom: Annotated[float, Ge(0)] = 200.0
    """Greatest difference between the two defocus values of a micrograph."""

    preferred_orientation: float = 0.0
    """Strength κ of preferred views: probability exp(κ cos² tilt). 0 is none, 5 strong top views, -5 side views."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        if self.min_defocus_angstrom > self.max_defocus_angstrom:
            raise InputError(
                f"--min-defocus must not exceed --max-defocus; got {self.min_defocus_angstrom:g} and "
                f"{self.max_defocus_angstrom:g} Å; swap them."
            )


@dataclass(frozen=True, kw_only=True)
class ParticleSimulationParams(MicroscopeParams):
    """How a stack of particles with known truth is made."""

    number: Annotated[int, Ge(1)] = 1000
    """Number of particles."""

    box_pixel: Annotated[int, Ge(16)] = 128
    """Side of the images, even."""

    pixel_size_angstrom: Annotated[float, Gt(0)] = 2.0
    """Pixel size of all optics groups, unless --group-pixel-sizes is given."""

    snr: Annotated[float, Gt(0)] = 0.1
    """Signal-to-noise ratio: variance of noise-free images inside the particle's circle over that of the noise."""

    b_factor_angstrom2: Annotated[float, Ge(0)] = 60.0
    """B-factor that damps the particles' density."""

    shift_sigma_angstrom: Annotated[float, Ge(0)] = 4.0
    """Standard deviation of the particles' offsets from the middle of the box, along x and along y."""

    class_fractions: tuple[float, ...] = ()
    """Fraction of each specimen, in the order they are given. Default: equal fractions."""

    junk_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of images that hold no particle of interest: empty, off centre, broken, several at once, ice."""

    optics_groups: Annotated[int, Ge(1)] = 1
    """Number of optics groups, each with noise of its own spectrum."""

    group_voltages_kv: tuple[float, ...] = ()
    """Voltage of each optics group. Default: --voltage for all."""

    group_pixel_sizes_angstrom: tuple[float, ...] = ()
    """Pixel size of each optics group. Default: --pixel-size for all."""

    particles_per_micrograph: Annotated[int, Ge(1)] = 100
    """How many particles share a micrograph, its defocus and astigmatism."""

    defocus_spread_angstrom: Annotated[float, Ge(0)] = 100.0
    """Standard deviation of the particles' defocus within a micrograph: their height in the ice."""

    float16: bool = True
    """Write 16-bit floating point stacks (MRC mode 12), half the size; RELION 3.1 needs --no-float16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_pixel % 2:
            raise InputError(f"--box must be even; got {self.box_pixel}; use {self.box_pixel + 1}.")
        for flag, values in (
            ("--group-voltages", self.group_voltages_kv),
            ("--group-pixel-sizes", self.group_pixel_sizes_angstrom),
        ):
            if values and (len(values) != self.optics_groups or min(values) <= 0):
                raise InputError(
                    f"{flag} must have a positive value for each of the {self.optics_groups} optics groups; got "
                    f"{','.join(f'{value:g}' for value in values)}; give as many as --optics-groups says."
                )
        if self.class_fractions and (min(self.class_fractions) < 0 or sum(self.class_fractions) <= 0):
            raise InputError(
                "--class-fractions must not be negative, nor all 0; got such; give one number for each specimen."
            )

    def voltage_of_group_kv(self, group: int) -> float:
        """Return the voltage of an optics group, counted from 0."""
        return self.group_voltages_kv[group] if self.group_voltages_kv else self.voltage_kv

    def pixel_size_of_group_angstrom(self, group: int) -> float:
        """Return the pixel size of an optics group, counted from 0."""
        sizes = self.group_pixel_sizes_angstrom
        return sizes[group] if sizes else self.pixel_size_angstrom


@dataclass(frozen=True, kw_only=True)
class DirtParams:
    """What spoils a micrograph; each part can be switched off."""

    dirt: bool = True
    """Switch for everything below; --no-dirt leaves a clean field of particles in ice."""

    ice_blobs: bool = True
    """Round crystals of ice, 100 to 500 Å wide."""

    ice_blobs_per_micrometre2: Annotated[float, Ge(0)] = 30.0
    """Mean number of ice crystals on a square micrometre."""

    carbon: bool = True
    """The edge of the carbon film along a side of some micrographs."""

    carbon_fraction: Annotated[float, Ge(0), Le(1)] = 0.25
    """Fraction of the micrographs that show carbon."""

    gradients: bool = True
    """Ice that is thicker on one side, and uneven illumination."""

    hot_pixels: bool = True
    """Single pixels that are much too bright, and dead ones."""

    junk: bool = True
    """Broken particles and aggregates."""

    junk_per_particle: Annotated[float, Ge(0)] = 0.08
    """Number of pieces of junk for each particle."""

    replicated_border: bool = True
    """A few rows and columns at the border that repeat their neighbour, as motion correction leaves them."""

    def has(self, name: str) -> bool:
        """Return whether a kind of dirt is on, the common switch considered."""
        return self.dirt and bool(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class MicrographSimulationParams(MicroscopeParams, DirtParams):
    """How micrographs with known truth are made."""

    number: Annotated[int, Ge(1)] = 5
    """Number of micrographs."""

    size_pixel: tuple[Annotated[int, Ge(64)], Annotated[int, Ge(64)]] = (1240, 1200)
    """Width and height of the micrographs."""

    pixel_size_angstrom: Annotated[float, Gt(0)] = 1.5
    """Pixel size."""

    dose_e_per_angstrom2: Annotated[float, Gt(0)] = 40.0
    """Electrons that fall on the specimen during the exposure."""

    b_factor_angstrom2: Annotated[float, Ge(0)] = 80.0
    """B-factor that damps the particles' density: motion and radiation damage."""

    ice_thickness_angstrom: Annotated[float, Gt(0)] = 350.0
    """Thickness of the ice, which scatters and so adds grain."""

    particles_per_micrograph: Annotated[int, Ge(0)] | None = None
    """Mean number of particles in a micrograph. Default: as many as cover 30 % of it."""

    overlap_fraction: Annotated[float, Ge(0), Le(1)] = 0.05
    """Fraction of the particles that may overlap a neighbour; the others keep a particle's width from each other."""

    class_fractions: tuple[float, ...] = ()
    """Fraction of each specimen, in the order they are given. Default: equal fractions."""

    dqe: Annotated[float, Gt(0), Le(1)] = 0.8
    """Detective quantum efficiency at low frequency: the noise is that of this fraction of the dose."""

    detector_falloff: Annotated[float, Ge(0), Le(1)] = 0.3
    """Fraction of the signal, relative to the noise, that the detector loses by its Nyquist frequency."""

    float16: bool = False
    """Write 16-bit floating point micrographs (MRC mode 12), half the size."""
