"""What is searched for what, and how the work is cut into chunks."""

import math
from dataclasses import dataclass
from functools import cached_property

from scipy.fft import next_fast_len
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.template_matching.aberrations import NO_ABERRATIONS, Aberrations
from halfmap.template_matching.filters import FilterCurves, FilteredMicrograph
from halfmap.template_matching.global_search.orientations import SearchGrid
from halfmap.template_matching.global_search.params import MatchTemplateParams
from halfmap.template_matching.model import ParticleOptics
from halfmap.template_matching.template import Template

PIXELS_OF_CHUNK = 2**31
"""Pixels worked on in the smallest chunk: some twenty seconds of a CPU."""

TEMPLATE_PASSES = 4
"""How much more often a pixel of the template is worked on than one of the micrograph."""

CHUNKS = 16384
"""Most chunks of a search: longer ones lose more when a job is killed, shorter ones send more maps about."""

LARGEST_NUMBER = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchProblem:
    """A template to be found in a micrograph.

    Parameters
    ----------
    values : float32, shape (y, x): of a filtered micrograph.
    curves : the filters of it.
    template : of the micrograph's pixel size.
    optics : of the micrograph, one row.
    orientations : that are tried.
    defocus_offsets_angstrom, pixel_size_offsets_angstrom : that are tried.
    aberrations : of the micrograph's optics group; the values are free of odd ones.

    Raises
    ------
    ShapeError
        The template is larger than the micrograph.
    InputError
        There are more correlations than can be numbered.
    """

    values: Tensor
    curves: FilterCurves
    template: Template
    optics: ParticleOptics
    orientations: SearchGrid
    defocus_offsets_angstrom: tuple[float, ...]
    pixel_size_offsets_angstrom: tuple[float, ...]
    aberrations: Aberrations = NO_ABERRATIONS

    def __post_init__(self) -> None:
        if self.template.side > min(self.values.shape):
            raise ShapeError(
                f"A template must be smaller than the micrograph; got {self.template.side} px and "
                f"{self.values.shape[1]}×{self.values.shape[0]} px; crop it or check its pixel size."
            )
        if self.n_correlations > LARGEST_NUMBER:
            raise InputError(
                f"A search must have at most {LARGEST_NUMBER} correlations; got {self.n_correlations}; widen the "
                "steps or search fewer defoci and pixel sizes."
            )

    @classmethod
    def of(
        cls,
        micrograph: FilteredMicrograph,
        template: Template,
        optics: ParticleOptics,
        orientations: SearchGrid,
        params: MatchTemplateParams,
        aberrations: Aberrations = NO_ABERRATIONS,
    ) -> "MatchProblem":
        """Return the problem that the settings ask for."""
        return cls(
            values=micrograph.values,
            curves=micrograph.curves,
            template=template,
            optics=optics,
            orientations=orientations,
            defocus_offsets_angstrom=params.defocus_offsets_angstrom,
            pixel_size_offsets_angstrom=params.pixel_size_offsets_angstrom,
            aberrations=aberrations,
        )

    @property
    def map_shape(self) -> tuple[int, int]:
        """Sides (y, x) of the maps: places where the whole template lies in the micrograph."""
        side = self.template.side - 1
        return self.values.shape[0] - side, self.values.shape[1] - side

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Sides of the transforms, which are quick to compute."""
        return fast_shape((self.values.shape[0], self.values.shape[1]))

    @property
    def n_together(self) -> int:
        """Correlations of an orientation: defoci times pixel sizes."""
        return len(self.defocus_offsets_angstrom) * len(self.pixel_size_offsets_angstrom)

    @property
    def n_correlations(self) -> int:
        """All of them."""
        return len(self.orientations) * self.n_together

    @property
    def orientations_of_unit(self) -> int:
        """Orientations that share a transform: two that are half a turn apart in the plane, or one."""
        return 2 if self.orientations.is_paired else 1

    @property
    def n_units(self) -> int:
        """Number of transforms for each defocus and pixel size."""
        return len(self.orientations) // self.orientations_of_unit

    def units(self, numbers: Tensor) -> Tensor:
        """Return the first orientation of units, int64."""
        turns = len(self.orientations.psi_degrees) // self.orientations_of_unit
        return numbers // turns * len(self.orientations.psi_degrees) + numbers % turns

    @cached_property
    def units_of_chunk(self) -> int:
        """Units of each chunk but the last; from the problem alone."""
        pixels = self.padded_shape[0] * self.padded_shape[1] + TEMPLATE_PASSES * self.template.side**2
        correlations = max(PIXELS_OF_CHUNK // pixels, math.ceil(self.n_correlations / CHUNKS), 1)
        return max(1, correlations // (self.n_together * self.orientations_of_unit))

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.n_units / self.units_of_chunk)

    def place_of(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return orientation, pixel size and defocus, as indices, of correlations by number."""
        n_defoci = len(self.defocus_offsets_angstrom)
        return (
            numbers // self.n_together,
            numbers // n_defoci % len(self.pixel_size_offsets_angstrom),
            numbers % n_defoci,
        )


def fast_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the next sides whose transforms are quick."""
    return next_fast_len(shape[0], real=True), next_fast_len(shape[1], real=True)


def bytes_of_task(micrograph_shape: tuple[int, int], template_side: int, padding: int) -> int:
    """Return the memory that a task needs: the template's transform, transforms of micrograph and template, maps."""
    height, width = fast_shape(micrograph_shape)
    transform = 8 * height * (width // 2 + 1)
    template = 8 * (padding * template_side) ** 3 // 2
    # two of the micrograph, as many as correlations are gathered at once, and a few to begin with
    return template + 10 * transform + 24 * micrograph_shape[0] * micrograph_shape[1]
