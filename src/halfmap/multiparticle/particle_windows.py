"""Particles cut out of the images of a series, on windows that hold what the CTF has spread."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.errors import InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import Views, is_contained, views
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.imaging.series_transfer import (
    ImageCtf,
    ctf_gamma_derivative,
    ctf_values,
    image_ctf,
    odd_phase_factors,
    weights_of_images,
)
from halfmap.multiparticle.cutting import Windows, alias_free_length_angstrom, binned_grid, cut, prepared, windows
from halfmap.multiparticle.noise import noise_variance
from halfmap.tensors import BandValues

BATCH_BYTES = 512 << 20
"""Most that the windows of one batch of particles take."""

_BYTES_PER_PIXEL = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleWindows:
    """Particles of one image, cut out on windows that hold what the CTF has spread.

    Parameters
    ----------
    image : number of the image in its series.
    window : of the values.
    rows : int64, (n,): which particles.
    values : complex64, (n, K): transforms, centred on the particles, odd aberrations undone.
    noise : float32, (K,): variance of one real component.
    weight : float32, (n, K): how much of the signal is left.
    ctf : float32, (n, K).
    quadrature : float32, (n, K): cos γ, the part that the CTF, −sin γ, does not show; None unless asked for.
    rotation : float64, (n, 3, 3), magnification folded in.
    """

    image: int
    window: Windows
    rows: Tensor
    values: BandValues
    noise: Tensor
    weight: Tensor
    ctf: Tensor
    quadrature: Tensor | None
    rotation: Tensor


def particle_windows(
    series: ImageSeries,
    source: ImageSource,
    particles: SpeciesParticles,
    species: Species,
    resolution_angstrom: float = 0.0,
    *,
    with_quadrature: bool = False,
) -> Iterator[ParticleWindows]:
    """Cut particles out of the images of a series, image by image and batch by batch.

    Parameters
    ----------
    series : with all that is known of it; its own weight counts.
    source : its images as recorded, particles dark.
    particles : of the species in this series.
    species : for diameter and pixel size.
    resolution_angstrom : that windows reach to; 0 for what images and maps hold.
    with_quadrature : whether `ParticleWindows.quadrature` is wanted.

    Yields
    ------
    Those particles that lie wholly inside a used image; an image that holds none is not read.

    Raises
    ------
    InputError
        An image is empty or not finite, or no frequency is left.
    InconsistentDataError
        The source has another number of images than the series.
    """
    if len(source) != len(series):
        raise InconsistentDataError(
            f"Series {series.name} must have one image for each of its {len(series)} entries; got {len(source)}; "
            "check that the images are those of this series."
        )
    resolution = _reached(resolution_angstrom, species, source.grid)
    seen = particle_views(series, particles)
    contained = in_images(series, seen, species)
    if not bool(contained.any()):
        return
    table = image_ctf(series, torch.tensor(particles.position_angstrom), seen)
    binned = binned_grid(source.grid, resolution)
    window = _window(series, table, binned, species, resolution)
    frequencies = window.band.frequencies
    magnification = torch.from_numpy(np.array(series.optics.magnification, dtype=np.float64))
    rotation = magnified(seen.rotation, magnification)
    odd = odd_phase_factors(series, frequencies)
    weights = weights_of_images(series, seen, of_whole_series=True)
    at_once = _at_once(window)
    for image in torch.nonzero(contained.any(0)).flatten().tolist():
        recorded = torch.from_numpy(source.read([image])[0])
        ready = prepared(recorded, source.grid, binned, 2 * species.diameter_angstrom)
        rows = torch.nonzero(contained[:, image]).flatten()
        noise = None
        for mine in rows.split(at_once):
            position = seen.position_angstrom[mine, image]
            values, centre = cut(ready, window, position)
            if noise is None:
                noise = _noise(values, window)
            if odd is not None:
                values = values * odd.conj()
            transfer = _column(table, mine, image)
            yield ParticleWindows(
                image=image,
                window=window,
                rows=mine,
                values=values * shift_phases(frequencies, centre - position),
                noise=noise,
                weight=weights.of_image(image, frequencies, mine).expand(len(mine), -1),
                ctf=ctf_values(series, transfer, frequencies)[:, 0],
                quadrature=-ctf_gamma_derivative(series, transfer, frequencies)[:, 0] if with_quadrature else None,
                rotation=rotation[mine, image],
            )


def batch_bytes(
    series: ImageSeries,
    particles: SpeciesParticles,
    species: Species,
    image_grid: ImageGrid,
    resolution_angstrom: float = 0.0,
) -> int:
    """Return the most that a batch of `particle_windows` takes, in bytes; parameters as of `largest_batch`."""
    n, window = largest_batch(series, particles, species, image_grid, resolution_angstrom)
    return n * _BYTES_PER_PIXEL * window.grid.n_pixels


def largest_batch(
    series: ImageSeries,
    particles: SpeciesParticles,
    species: Species,
    image_grid: ImageGrid,
    resolution_angstrom: float = 0.0,
) -> tuple[int, Windows]:
    """Return how many particles a batch of `particle_windows` holds at most, and their windows.

    Parameters
    ----------
    series, particles, species, resolution_angstrom : as for `particle_windows`.
    image_grid : of the series' images.
    """
    resolution = _reached(resolution_angstrom, species, image_grid)
    table = image_ctf(series, torch.tensor(particles.position_angstrom), particle_views(series, particles))
    window = _window(series, table, binned_grid(image_grid, resolution), species, resolution)
    return max(1, min(len(particles), _at_once(window))), window


def particle_views(series: ImageSeries, particles: SpeciesParticles) -> Views:
    """Return where and how the particles of a species are seen in a series."""
    return views(series, torch.tensor(particles.position_angstrom), torch.tensor(particles.rotation))


def in_images(series: ImageSeries, seen: Views, species: Species) -> Tensor:
    """Return which particles lie wholly inside which used images, bool, (P, T)."""
    return is_contained(series, seen, species.diameter_angstrom) & torch.as_tensor(series.is_used)


def _at_once(window: Windows) -> int:
    return max(1, BATCH_BYTES // (_BYTES_PER_PIXEL * window.grid.n_pixels))


def _reached(resolution_angstrom: float, species: Species, image_grid: ImageGrid) -> float:
    """Return the finest resolution that is asked for and that images and maps hold."""
    return max(resolution_angstrom, 2 * max(species.pixel_size_angstrom, image_grid.pixel_size_angstrom))


def _window(
    series: ImageSeries, table: ImageCtf, binned: ImageGrid, species: Species, resolution_angstrom: float
) -> Windows:
    """Return windows for the largest defocus, at least as wide as the species' box."""
    largest = float(torch.maximum(table.defocus_u_angstrom.abs(), table.defocus_v_angstrom.abs()).max())
    box = species.box_pixel * species.pixel_size_angstrom
    length = alias_free_length_angstrom(series, largest, resolution_angstrom, species.diameter_angstrom)
    return windows(binned, max(length, box), resolution_angstrom)


def _noise(values: BandValues, window: Windows) -> Tensor:
    """Return the variance of one real component at each frequency, by shell, signal included."""
    power = window.band.shell_sum((values.real.square() + values.imag.square()).sum(0))
    count = window.band.shell_sum(torch.full((len(window.band),), 2.0 * len(values)))
    return noise_variance(power[None], count[None])[0, window.band.shell_of].float()


def _column(table: ImageCtf, rows: Tensor, image: int) -> ImageCtf:
    """Return the CTF's parameters of some particles in one image, each (n, 1)."""
    return ImageCtf(**{name: values[rows, image, None] for name, values in vars(table).items()})
