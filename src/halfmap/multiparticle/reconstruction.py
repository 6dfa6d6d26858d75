"""Half-maps from the images of series: sums of slices, image by image, and what is made of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.data.half_sets import HALVES
from halfmap.data.image_series import ImageSeries, TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.multiparticle.particle_windows import (
    ParticleWindows,
    batch_bytes,
    in_images,
    particle_views,
    particle_windows,
)
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.species import species_grid
from halfmap.tensors import BandValues
from halfmap.units import electron_wavelength_angstrom

_SPHERE_EDGE_SHARE = 8
_BYTES_PER_COEFFICIENT = 2 * 12 + 2 * (12 + 12)  # both halves; what is inserted, and what waits for it
_BYTES_PER_IMAGE_PIXEL = 40  # padded, transformed, filtered


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesSums:
    """What particles have left in the transforms of their half-maps.

    Parameters
    ----------
    halves : data and weights of half-sets 1 and 2.
    n_particles : of each half-set that were seen at all.
    n_images : of particles, in each half-set.
    n_outside : particles that lie wholly inside no image.
    """

    halves: tuple[SliceAccumulator, SliceAccumulator]
    n_particles: tuple[int, int]
    n_images: tuple[int, int]
    n_outside: int

    def __add__(self, other: "SeriesSums") -> "SeriesSums":
        return SeriesSums(
            halves=(self.halves[0].joined(other.halves[0]), self.halves[1].joined(other.halves[1])),
            n_particles=_pairwise(self.n_particles, other.n_particles),
            n_images=_pairwise(self.n_images, other.n_images),
            n_outside=self.n_outside + other.n_outside,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfMaps:
    """What sums became.

    Parameters
    ----------
    half1, half2 : of the species' grid, particle bright, unfiltered.
    fsc : between them inside the sphere of the particle's diameter, float64, shape (n_shells,).
    """

    half1: Volume
    half2: Volume
    fsc: Tensor


def accumulate(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    params: ReconstructionParams,
) -> SeriesSums:
    """Back-project the particles of a species in a series; one image at a time is in memory.

    Parameters
    ----------
    series : with all that is known of it; its own weight counts.
    source : its images as recorded, particles dark.
    particles : of the species in this series.
    species : for diameter and pixel size.
    params : the settings.

    Returns
    -------
    SeriesSums
        Σ w C X / σ² and Σ w² C² / σ², with symmetry yet to come.

    Raises
    ------
    InputError
        An image is empty or not finite, or no frequency is left.
    InconsistentDataError
        The source has another number of images than the series.

    Notes
    -----
    The least-squares solution for X = w C P + noise, where w is what is left of the signal: M's weights (its numerator
    and denominator have w once each, which leaves the fading in the map). Windows hold what the CTF has spread, and
    their frequencies, finer than the box's, are inserted as they are: linear interpolation then keeps to the box what
    belongs there, data and weights alike. A particle counts in the images that hold it wholly. The mean of a map is
    not determined.

    On Ewald's sphere an image is ½ (p V(k, z) + p* V(k, −z)) with p = i exp(iγ) and z = λ s²/2; each half is inserted
    at its own points with the weight ½ w² C² / σ², whose mean over neighbouring frequencies is that of |p|²/4 where
    the two halves lie apart, so that the sum is the flat one where the sphere is flat.
    """
    grid = species_grid(species.diameter_angstrom, species.pixel_size_angstrom)
    padded = PaddedGrid(grid, padding=params.padding)
    contained = in_images(series, particle_views(series, particles), species)
    wavelength = _wavelength(series, params)
    subset = torch.tensor(particles.random_subset)
    sums = [_Sums(padded) for _ in HALVES]
    for cut in particle_windows(
        series, source, particles, species, params.reconstruction_resolution_angstrom, with_quadrature=wavelength != 0
    ):
        for half, total in zip(HALVES, sums, strict=True):
            total.add(cut, subset[cut.rows] == half, wavelength)
    return SeriesSums(
        halves=(sums[0].finished(), sums[1].finished()),
        n_particles=_by_half(contained.any(1), subset),
        n_images=_by_half(contained.sum(1), subset),
        n_outside=int((~contained.any(1)).sum()),
    )


def combine(total: SeriesSums, species: Species, params: ReconstructionParams) -> HalfMaps:
    """Make half-maps of the sums over all series.

    Parameters
    ----------
    total : the sum of all `SeriesSums`.
    species : for symmetry and diameter.
    params : the settings.

    Raises
    ------
    InconsistentDataError
        A half-set has no particle.

    Notes
    -----
    data / weight by shell and direction. Directions that are seen less than their shell is on average are damped by
    Wiener's filter with the FSC of the halves without it, and each shell as a whole keeps its height
    (`SliceAccumulator.volume`): no filter that the next step would have to undo.
    """
    for half, n in zip(HALVES, total.n_particles, strict=True):
        if not n:
            raise InconsistentDataError(
                f"Each half-set of {species.name} must have particles in some image; got none in half-set {half}; "
                "check half-sets, and that positions lie in the images."
            )
    accumulators = [half.symmetrised(species.symmetry) for half in total.halves]
    grid = accumulators[0].grid.grid
    edge = grid.side / _SPHERE_EDGE_SHARE * grid.pixel_size_angstrom
    sphere = soft_sphere(grid, species.diameter_angstrom / 2, edge)
    maps = [half.volume() for half in accumulators]
    fsc = _fsc(maps, sphere, grid)
    if params.damp_unseen_directions:
        maps = [half.volume(fsc, keeps_height=True) for half in accumulators]
        fsc = _fsc(maps, sphere, grid)
    first, second = (Volume(values=values.float(), grid=grid) for values in maps)
    return HalfMaps(half1=first, half2=second, fsc=fsc)


def memory_bytes(
    series: ImageSeries,
    particles: SpeciesParticles,
    species: Species,
    params: ReconstructionParams,
    image_grid: ImageGrid,
) -> int:
    """Return the most memory that back-projecting the particles of a species in a series takes, in bytes.

    Parameters
    ----------
    series, particles, species, params : as for `accumulate`.
    image_grid : of the series' images.
    """
    padded = PaddedGrid(species_grid(species.diameter_angstrom, species.pixel_size_angstrom), padding=params.padding)
    sums = math.prod(padded.shape) * _BYTES_PER_COEFFICIENT
    batch = batch_bytes(series, particles, species, image_grid, params.reconstruction_resolution_angstrom)
    return sums + image_grid.n_pixels * _BYTES_PER_IMAGE_PIXEL + batch


class _Sums:
    """Data and weights of one half-set; slices are gathered and inserted many at a time."""

    def __init__(self, grid: PaddedGrid) -> None:
        self._grid = grid
        self._data = torch.zeros(grid.shape, dtype=torch.complex64)
        self._weight = torch.zeros(grid.shape)
        self._waiting: list[tuple[BandValues, Tensor, Tensor, FourierBand, float]] = []
        self._n_waiting = 0

    def add(self, cut: ParticleWindows, mine: Tensor, wavelength_angstrom: float) -> None:
        """Add some of the particles of a batch."""
        if not bool(mine.any()):
            return
        band = cut.window.band
        to_slices = 1 / self._grid.field_scale(band)
        values, noise = cut.values[mine] * to_slices, cut.noise * to_slices**2
        strength, transfer, rotation = cut.weight[mine] / noise, cut.ctf[mine], cut.rotation[mine]
        weights = strength * cut.weight[mine] * transfer.square()
        if cut.quadrature is None:
            self._put(strength * transfer * values, weights, rotation, band, 0.0)
            return
        phase = torch.complex(transfer, cut.quadrature[mine])
        for factor, height in ((phase.conj(), wavelength_angstrom), (phase, -wavelength_angstrom)):
            self._put(strength * factor * values / 2, weights / 2, rotation, band, height)

    def finished(self) -> SliceAccumulator:
        """Insert what waits, and return the sums."""
        for values, weights, rotation, band, wavelength in self._together():
            data, weight = slices.insert(values, weights, rotation, band, self._grid, wavelength_angstrom=wavelength)
            self._data += data
            self._weight += weight
        self._waiting, self._n_waiting = [], 0
        return SliceAccumulator(data=self._data, weight=self._weight, grid=self._grid)

    def _put(
        self, data: BandValues, weights: Tensor, rotation: Tensor, band: FourierBand, wavelength_angstrom: float
    ) -> None:
        self._waiting.append((data / self._grid.field_scale(band), weights, rotation, band, wavelength_angstrom))
        self._n_waiting += data.numel()
        if self._n_waiting > self._weight.numel():  # an insertion walks over the whole volume
            self.finished()

    def _together(self) -> Iterator[tuple[BandValues, Tensor, Tensor, FourierBand, float]]:
        """Yield what waits as one batch for each height of the sphere; all windows of a series are alike."""
        for wavelength in sorted({one[-1] for one in self._waiting}):
            mine = [one for one in self._waiting if one[-1] == wavelength]
            values, weights, rotation, bands, _ = zip(*mine, strict=True)
            yield torch.cat(values), torch.cat(weights), torch.cat(rotation), bands[0], wavelength


def _wavelength(series: ImageSeries, params: ReconstructionParams) -> float:
    """Return λ with the sign that makes the sphere agree with the depths of the series; 0 for planes.

    A point at a height h has a phase of −π λ s² h more in p, by its defocus; so it has at z = λ s² / 2.
    """
    if params.ewald == "flat":
        return 0.0
    inverted = isinstance(series, TiltSeries) and series.are_angles_inverted
    sign = -1 if inverted != (params.ewald == "reversed") else 1
    return sign * electron_wavelength_angstrom(series.optics.voltage_kv)


def _fsc(maps: list[Tensor], sphere: Tensor, grid: ImageGrid) -> Tensor:
    first, second = (grid.rfft(half.double() * sphere) for half in maps)
    return shells.fsc(first, second, grid)


def _by_half(values: Tensor, subset: Tensor) -> tuple[int, int]:
    first, second = (int(values[subset == half].sum()) for half in HALVES)
    return first, second


def _pairwise(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
