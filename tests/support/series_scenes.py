"""A volume of blobs, particles of it in a tilt series, and the series' images without noise."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.data.image_source import ArraySource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.imaging.series_transfer import (
    ctf_gamma_derivative,
    ctf_values,
    image_ctf,
    image_weights,
    odd_phase_factors,
)
from halfmap.splines.grids import LinearGrid, SplineGrid
from halfmap.units import electron_wavelength_angstrom

PIXEL_ANGSTROM, DIAMETER_ANGSTROM = 4.0, 80.0


def species(**fields) -> Species:
    return Species(
        guid="g", name="blob", pixel_size_angstrom=PIXEL_ANGSTROM, diameter_angstrom=DIAMETER_ANGSTROM, **fields
    )


def volume(symmetry: str = "C1", seed: int = 0, pixel_size_angstrom: float = PIXEL_ANGSTROM) -> Volume:
    """Blobs of 3 Å within the sphere of the diameter, seen to the last shell."""
    grid = ImageGrid.cubic(2 * round(DIAMETER_ANGSTROM / pixel_size_angstrom), pixel_size_angstrom)
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(30, 3))
    reach = 0.38 * DIAMETER_ANGSTROM * generator.random((30, 1)) ** (1 / 3)
    centres = torch.from_numpy(centres / np.linalg.norm(centres, axis=1, keepdims=True) * reach)
    heights = 0.5 + generator.random(30)
    values = torch.zeros(grid.shape, dtype=torch.float64)
    for matrix in operators(symmetry):
        for place, height in zip(centres @ matrix.T, heights, strict=True):
            values += height * torch.exp(-(grid.positions() - place).square().sum(-1) / (2 * 3.0**2))
    return Volume(values=values.float(), grid=grid)


def tilt_series(n_tilts: int = 15, size: int = 256, seed: int = 0, **fields) -> TiltSeries:
    """Tilts of ±56° with defoci, warps and stage angles that all differ."""
    generator = np.random.default_rng(seed)
    side = size * PIXEL_ANGSTROM

    def nodes(sigma, *shape):
        return torch.from_numpy(sigma * generator.normal(size=shape))

    given = {
        "name": "TS_1",
        "image_size_angstrom": (side, side),
        "volume_size_angstrom": (side, side, 200.0),
        "dose_e_per_angstrom2": np.abs(np.linspace(-20, 20, n_tilts)),
        "is_used": np.ones(n_tilts, dtype=bool),
        "optics": SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM),
        "tilt_angle_degrees": np.linspace(-56, 56, n_tilts),
        "axis_angle_degrees": np.full(n_tilts, 86.0),
        "axis_offset_angstrom": generator.normal(0, 8, (n_tilts, 2)),
        "level_angle_x_degrees": 3.0,
        "defocus_angstrom": SplineGrid(values=25000 + 6000 * nodes(1.0, n_tilts, 1, 1)),
        "astigmatism_angstrom": SplineGrid(values=800 + nodes(200.0, n_tilts, 1, 1)),
        "astigmatism_angle_degrees": SplineGrid.constant(33.0),
        "movement_x_angstrom": SplineGrid(values=nodes(4.0, n_tilts, 2, 2)),
        "movement_y_angstrom": SplineGrid(values=nodes(4.0, n_tilts, 2, 2)),
        "volume_warp_x_angstrom": LinearGrid(values=nodes(3.0, 3, 1, 2, 2)),
        "stage_angle_y_degrees": SplineGrid(values=nodes(0.5, n_tilts, 1, 1)),
    }
    return TiltSeries(**{**given, **fields})


def particles(series: TiltSeries, seed: int = 0, *, turned: bool = True) -> SpeciesParticles:
    """Nine particles so far apart that none is seen in another's box, with two samples of place and orientation.

    All have one orientation if they are not ``turned``.
    """
    generator = np.random.default_rng(seed)
    n = 9
    size = np.array(series.volume_size_angstrom)
    steps = np.stack([np.arange(n) % 3 - 1, np.arange(n) // 3 - 1, np.zeros(n)], axis=-1)[:, None]
    middle = size / 2 + steps * size * (0.28, 0.26, 0) + generator.uniform(-25, 25, (n, 1, 3))
    turn = Rotation.from_rotvec(generator.normal(0, 0.01, (n, 3))).as_matrix()
    rotation = Rotation.random(n, random_state=seed).as_matrix() if turned else np.tile(np.eye(3), (n, 1, 1))
    return SpeciesParticles(
        position_angstrom=middle + generator.normal(0, 2, (n, 2, 3)),
        rotation=np.stack([rotation, turn @ rotation], axis=1),
        random_subset=np.arange(n) % 2 + 1,
        source_name=np.full(n, "TS_1.tomostar", dtype=object),
        source_hash=np.full(n, "h", dtype=object),
        uid=np.arange(n) + 1,
    )


def images(
    series: TiltSeries, found: SpeciesParticles, truth: Volume, *, curved: float = 0.0, size: int = 256
) -> NDArray[np.float32]:
    """Return images as recorded, particles dark, (T, y, x).

    ``curved`` multiplies the wavelength of Ewald's sphere; 0 leaves slices flat.
    """
    grid = ImageGrid.square(size, PIXEL_ANGSTROM)
    band = FourierBand(grid)
    padded = slices.prepare(truth.values, truth.grid, 3)
    position = torch.from_numpy(found.position_angstrom)
    seen = views(series, position, torch.from_numpy(found.rotation))
    table = image_ctf(series, position, seen)
    weight = image_weights(series, seen, band.frequencies, of_whole_series=True).expand(len(found), -1, -1)
    transfer = ctf_values(series, table, band.frequencies)
    phase = torch.complex(transfer, -ctf_gamma_derivative(series, table, band.frequencies))
    rotation = magnified(seen.rotation, torch.from_numpy(np.array(series.optics.magnification)))
    odd = odd_phase_factors(series, band.frequencies)
    centre = torch.tensor([size // 2, size // 2]) * PIXEL_ANGSTROM
    result = np.empty((len(series), size, size), dtype=np.float32)
    for image in range(len(series)):
        if curved:
            wavelength = curved * electron_wavelength_angstrom(series.optics.voltage_kv)
            above, below = (
                slices.extract(padded, rotation[:, image], band, wavelength_angstrom=sign * wavelength)
                for sign in (1, -1)
            )
            content = (phase[:, image] * above + phase[:, image].conj() * below) / 2
        else:
            content = transfer[:, image] * slices.extract(padded, rotation[:, image], band)
        content = content * weight[:, image] * shift_phases(band.frequencies, seen.position_angstrom[:, image] - centre)
        total = content.sum(0) if odd is None else content.sum(0) * odd
        result[image] = -grid.irfft(band.scatter(total)).numpy() + 10
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A tilt series with its particles and images."""

    truth: Volume
    series: TiltSeries
    particles: SpeciesParticles
    source: ArraySource


def scenes(
    n: int = 4,
    *,
    truth: Volume | None = None,
    curved: float = 0.0,
    noise: float = 0.0,
    size: int = 256,
    turned: bool = True,
    **fields,
) -> list[Scene]:
    """Return series of one volume, each with other particles, warps and defoci."""
    truth = truth or volume()
    found = []
    for seed in range(n):
        series = tilt_series(seed=seed, size=size, **fields)
        mine = particles(series, seed, turned=turned)
        recorded = images(series, mine, truth, curved=curved, size=size)
        recorded += np.random.default_rng(seed).normal(0, noise, recorded.shape).astype(np.float32)
        source = ArraySource(images=recorded, grid=ImageGrid.square(size, PIXEL_ANGSTROM))
        found.append(Scene(truth=truth, series=series, particles=mine, source=source))
    return found


def fsc_within(first: Tensor, second: Tensor, grid: ImageGrid, radius_angstrom: float = 0.6 * DIAMETER_ANGSTROM):
    """FSC inside a soft sphere, float64, (n_shells,)."""
    sphere = soft_sphere(grid, radius_angstrom, 12.0)
    return shells.fsc(grid.rfft(first.double() * sphere), grid.rfft(second.double() * sphere), grid)
