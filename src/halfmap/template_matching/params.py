"""What can be set about template matching."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from halfmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FilterParams:
    """How micrographs and templates are filtered. Frequencies are in cycles per pixel: 0.5 is the Nyquist frequency."""

    whitening: bool = True
    """Divide by the micrograph's own mean amplitude at each frequency, so that its noise is white."""

    whitening_bins: Annotated[int, Ge(2)] | None = None
    """Number of frequencies, up to the corner of the transform, at which the spectrum is measured. Default: as many as
    the transform has."""

    whitening_max_frequency: Annotated[float, Gt(0), Le(0.75)] | None = 0.5
    """Highest frequency, in cycles per pixel, that is whitened; none for all of them."""

    whiten_by_amplitude: bool = False
    """Measure the mean amplitude itself, not the root of the mean power."""

    bandpass_low: Annotated[float, Ge(0), Lt(0.5)] | None = None
    """Lowest frequency that passes, in cycles per pixel. Default: all."""

    bandpass_high: Annotated[float, Gt(0)] | None = None
    """Highest frequency that passes, in cycles per pixel. Default: all."""

    bandpass_falloff: Annotated[float, Ge(0)] | None = None
    """Width of the soft edges of the pass band, in cycles per pixel. Default: sharp edges."""

    randomise_phases_from: Annotated[float, Ge(0)] | None = None
    """A control: phases of the micrograph beyond this frequency, in cycles per pixel, are made random. What a score
    gains from there is gone."""

    filter_frequencies: tuple[Annotated[float, Ge(0)], ...] = ()
    """Frequencies, ascending and in cycles per pixel, at which a filter of one's own is given; between them it is
    linear, outside them 1."""

    filter_amplitudes: tuple[Annotated[float, Ge(0)], ...] = ()
    """What that filter multiplies by at each of these frequencies."""

    def __post_init__(self) -> None:
        if len(self.filter_frequencies) != len(self.filter_amplitudes):
            raise InputError(
                "--filter-frequencies and --filter-amplitudes must have as many values as one another; got "
                f"{len(self.filter_frequencies)} and {len(self.filter_amplitudes)}; give one amplitude for each."
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(self.filter_frequencies)):
            raise InputError(
                f"--filter-frequencies must ascend; got {', '.join(f'{f:g}' for f in self.filter_frequencies)}; sort "
                "them."
            )
        low, high = self.bandpass_low or 0.0, self.bandpass_high
        if high is not None and high <= low:
            raise InputError(f"--bandpass-high must exceed --bandpass-low; got {high:g} and {low:g}; swap them.")


@dataclass(frozen=True, kw_only=True)
class ParticleBoxParams(FilterParams):
    """How boxes about particles are made ready, to be compared with a template."""

    global_filtering: bool = True
    """Measure the spectrum of the whole micrograph; else of each particle's box by itself."""

    padding: Annotated[int, Ge(1), Le(4)] = 2
    """How many times its side the template is padded before its transform: finer interpolation, more memory."""

    batch: Annotated[int, Ge(1)] = 16
    """Particles handled together: more take more memory."""

    seed: int = 1
    """Seed of random phases, where they are asked for."""


@dataclass(frozen=True, kw_only=True)
class RefineTemplateParams(ParticleBoxParams):
    """How poses, positions and defoci of particles found by a template are refined."""

    orientations: bool = True
    """Refine the orientations."""

    tilt_range_degrees: Annotated[float, Ge(0), Le(60)] = 2.5
    """How far to tilt out of the plane, in every direction."""

    tilt_step_degrees: Annotated[float, Gt(0)] = 0.25
    """Finest step of the tilts. With --polish steps are as wide as the template allows."""

    psi_range_degrees: Annotated[float, Ge(0), Le(180)] = 1.5
    """How far to turn in the plane, to either side."""

    psi_step_degrees: Annotated[float, Gt(0)] = 0.15
    """Finest step of the turns in the plane. With --polish steps are as wide as the template allows."""

    defocus_min_angstrom: float = -100.0
    """Lowest defocus offset tried; the lowest and the highest are 0 to keep the defocus."""

    defocus_max_angstrom: float = 100.0
    """Highest defocus offset tried."""

    defocus_step_angstrom: Annotated[float, Gt(0)] = 20.0
    """Finest step of the defocus. With --polish steps are as wide as the template allows."""

    pixel_size_min_angstrom: float = 0.0
    """Lowest offset of the micrographs' pixel size tried; the lowest and the highest are 0 to keep it. The template is
    scaled to it, not the CTF."""

    pixel_size_max_angstrom: float = 0.0
    """Highest offset of the micrographs' pixel size tried."""

    pixel_size_step_angstrom: Annotated[float, Gt(0)] = 0.001
    """Step of the pixel size."""

    enforce_zero: bool = True
    """Try the offset 0 too where the steps of defocus or pixel size pass it over."""

    polish: bool = True
    """Go on from the best of the grid to the maximum of the likelihood in x, y, defocus and three angles, and state
    the uncertainty of each."""

    compat: Literal["none", "leopard"] = "none"
    """leopard: the grid, the window, whole pixels and the scores of Leopard-EM 1.2, with its square root of the
    standard deviation; for comparisons."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("defocus", self.defocus_min_angstrom, self.defocus_max_angstrom),
            ("pixel-size", self.pixel_size_min_angstrom, self.pixel_size_max_angstrom),
        ):
            if high < low:
                raise InputError(f"--{name}-max must be at least --{name}-min; got {high:g} and {low:g} Å; swap them.")
        if self.compat == "leopard":
            if self.pixel_size_offsets_angstrom != (0.0,):
                raise InputError(
                    "--compat leopard must leave the pixel size as it is; got a range; leave out --pixel-size-min and "
                    "--pixel-size-max."
                )
            if not self.global_filtering:
                raise InputError(
                    "--compat leopard must filter whole micrographs; got --no-global-filtering; leave it out."
                )

    @property
    def pixel_size_offsets_angstrom(self) -> tuple[float, ...]:
        """Offsets of the template's pixel size that are tried."""
        return stepped(
            self.pixel_size_min_angstrom, self.pixel_size_max_angstrom, self.pixel_size_step_angstrom, self.enforce_zero
        )

    def defocus_offsets_angstrom(self, widest_step_angstrom: float = 0.0) -> tuple[float, ...]:
        """Return the defocus offsets that are tried, in steps no wider than asked for or than given here."""
        low, high = self.defocus_min_angstrom, self.defocus_max_angstrom
        if widest_step_angstrom > self.defocus_step_angstrom and high > low:
            n = math.ceil((high - low) / widest_step_angstrom - 1e-9)
            return stepped(low, high, (high - low) / n, self.enforce_zero)
        return stepped(low, high, self.defocus_step_angstrom, self.enforce_zero)


@dataclass(frozen=True, kw_only=True)
class OptimizeTemplateParams(ParticleBoxParams):
    """How the pixel size and the B-factor with which a template fits best are looked for."""

    pixel_size_min_angstrom: float = -0.05
    """Lowest offset of the micrographs' pixel size tried first; the lowest and the highest are 0 to begin with the
    pixel size as it is. The template is scaled to it, not the CTF."""

    pixel_size_max_angstrom: float = 0.05
    """Highest offset of the micrographs' pixel size tried first."""

    pixel_size_step_angstrom: Annotated[float, Gt(0)] = 0.01
    """Step between those."""

    pixel_size_fine_min_angstrom: float = -0.008
    """Lowest offset tried then, from the best of the first; the lowest and the highest are 0 to keep that."""

    pixel_size_fine_max_angstrom: float = 0.008
    """Highest offset tried then."""

    pixel_size_fine_step_angstrom: Annotated[float, Gt(0)] = 0.002
    """Step between those."""

    b_factor_min_angstrom2: float = -50.0
    """Lowest B-factor tried, added to the template's own; negative ones sharpen it. The lowest and the highest are 0 to
    keep the template's."""

    b_factor_max_angstrom2: float = 200.0
    """Highest B-factor tried."""

    b_factor_step_angstrom2: Annotated[float, Gt(0)] = 10.0
    """Step between those."""

    enforce_zero: bool = True
    """Try the offset 0 too where the steps pass it over."""

    min_z: float = 8.0
    """Particles whose z reaches this at one of the pixel sizes tried first are counted, at every value."""

    best_particles: Annotated[int, Ge(1)] | None = None
    """Count so many particles instead, those of the highest z."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("pixel-size", self.pixel_size_min_angstrom, self.pixel_size_max_angstrom),
            ("pixel-size-fine", self.pixel_size_fine_min_angstrom, self.pixel_size_fine_max_angstrom),
            ("b-factor", self.b_factor_min_angstrom2, self.b_factor_max_angstrom2),
        ):
            if high < low:
                raise InputError(f"--{name}-max must be at least --{name}-min; got {high:g} and {low:g}; swap them.")

    @property
    def coarse_offsets_angstrom(self) -> tuple[float, ...]:
        """Offsets of the pixel size that are tried first."""
        return stepped(
            self.pixel_size_min_angstrom, self.pixel_size_max_angstrom, self.pixel_size_step_angstrom, self.enforce_zero
        )

    @property
    def fine_offsets_angstrom(self) -> tuple[float, ...]:
        """Offsets tried then, from the best of the first."""
        return stepped(
            self.pixel_size_fine_min_angstrom,
            self.pixel_size_fine_max_angstrom,
            self.pixel_size_fine_step_angstrom,
            self.enforce_zero,
        )

    @property
    def b_factors_angstrom2(self) -> tuple[float, ...]:
        """B-factors that are tried."""
        return stepped(
            self.b_factor_min_angstrom2, self.b_factor_max_angstrom2, self.b_factor_step_angstrom2, self.enforce_zero
        )


def stepped(low: float, high: float, step: float, with_zero: bool) -> tuple[float, ...]:
    """Return numbers from ``low`` up, ``step`` apart, until ``high`` is reached; 0 among them where asked for."""
    values = [low + step * i for i in range(math.ceil((high - low) / step - 1e-9) + 1)]
    values = [0.0 if abs(value) < 1e-9 else value for value in values]
    return tuple(sorted(values if 0.0 in values or not with_zero else [*values, 0.0]))
