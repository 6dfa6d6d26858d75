"""What can be set about template matching."""

import itertools
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

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

    bandpass_low: Annotated[float, Ge(0)] | None = None
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
