"""Images of tilt series and frame series with known truth, one at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import Views, views
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.imaging.series_transfer import ImageCtf, image_ctf
from halfmap.optics.aberrations import odd_phase
from halfmap.optics.ctf import ctf
from halfmap.simulation import ice, truth
from halfmap.simulation.micrographs import add_at
from halfmap.simulation.references import Reference, interaction_constant_rad_per_volt_angstrom
from halfmap.simulation.series_params import SeriesSimulationParams
from halfmap.simulation.series_truth import SeriesTruth, SpeciesPoses
from halfmap.units import electron_wavelength_angstrom

_VIEWS_AT_ONCE = 32
_VIEWS_OF_SNR = 64
_DQE = 0.8
_LEVEL_OF_BAD_IMAGES = 0.05
_MARGIN_ANGSTROM = 24.0
_IMAGES_PER_SERIES = 1 << 12
_ANGSTROM_PER_MM = 1e7


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenSpecies:
    """The particles of one species as the images of a series see them."""

    reference: Reference
    seen: Views
    transfer: ImageCtf


def see(series: ImageSeries, species: Sequence[SpeciesPoses], references: Sequence[Reference]) -> list[SeenSpecies]:
    """Return what the images of a series see of true particles, one entry for each species."""
    found = []
    for poses, reference in zip(species, references, strict=True):
        position = torch.from_numpy(poses.position_angstrom)
        seen = views(series, position, torch.from_numpy(poses.rotation))
        found.append(SeenSpecies(reference=reference, seen=seen, transfer=image_ctf(series, position, seen)))
    return found


def displaced(species: SeenSpecies, tilt: int, movie: FrameSeries, frame: int) -> SeenSpecies:
    """Return a species as one frame of a tilt sees it: moved as the tilt's movie says."""
    place = species.seen.position_angstrom[:, tilt]
    flat = torch.cat([place, torch.zeros_like(place[:, :1])], dim=1)[:, None]
    moved = views(movie, flat, species.seen.rotation[:, tilt, None]).position_angstrom[:, frame]
    position = species.seen.position_angstrom.clone()
    position[:, tilt] = moved
    return replace(species, seen=replace(species.seen, position_angstrom=position))


def recorded(
    series: SeriesTruth[TiltSeries] | SeriesTruth[FrameSeries],
    species: Sequence[SeenSpecies],
    image: int,
    noise_sigma: float,
    params: SeriesSimulationParams,
    *,
    frame: int | None = None,
    n_frames: int = 1,
) -> NDArray[np.float32]:
    """Record an image.

    Parameters
    ----------
    series : what is true.
    species : of `see`, or of `displaced` for a frame of a tilt.
    image : number of the tilt or frame.
    noise_sigma : of `relative_noise`, for a whole image.
    params : the settings.
    frame, n_frames : which part of the image's dose to record, for raw frames of a tilt.

    Returns
    -------
    float32, shape (y, x): electrons in each pixel, particles dark; not rounded.

    Notes
    -----
    Counts are n T (1 − 2 F⁻¹[CTF e^(i odd aberrations) damage σ V̂] + noise): weak-phase contrast of each particle with
    a CTF of its own at its depth, T what the tilted ice lets through relative to the untilted. The noise's variance
    is in part white, in part that of ice grain seen through the CTF of the field's middle, and rises as 1/T.
    """
    width, height = params.size_pixel
    grid = ImageGrid(shape=(height, width), pixel_size_angstrom=params.pixel_size_angstrom)
    electrons = params.dose_per_image_e_per_angstrom2 * params.pixel_size_angstrom**2 / n_frames
    passed = _transmission(series.true, image, params.ice_thickness_angstrom)
    relative = _noise(series, image, frame, grid, params) * (noise_sigma * math.sqrt(n_frames / passed))
    if image in params.bad_images:
        passed *= _LEVEL_OF_BAD_IMAGES
    else:
        relative += contrast(series.true, species, image, grid, params)
    counts: NDArray[np.float32] = ((1 + relative) * (electrons * passed)).numpy()
    return counts


def contrast(
    series: ImageSeries,
    species: Sequence[SeenSpecies],
    image: int,
    grid: ImageGrid,
    params: SeriesSimulationParams,
) -> Tensor:
    """Return the relative contrast that the particles give to an image, float32, shape ``grid.shape``."""
    total = torch.zeros(grid.shape, dtype=torch.float32)
    b_factor = params.b_factor_per_dose_angstrom2 * (
        float(series.dose_e_per_angstrom2[image]) + params.dose_per_image_e_per_angstrom2 / 2
    )
    for one in species:
        places = (one.seen.position_angstrom[:, image] / grid.pixel_size_angstrom).numpy()
        for start in range(0, len(places), _VIEWS_AT_ONCE):
            rows = slice(start, start + _VIEWS_AT_ONCE)
            whole = np.rint(places[rows])
            remainder = torch.from_numpy((places[rows] - whole) * grid.pixel_size_angstrom)
            box = _box(series, one, image, grid)
            images = _stamps(series, one, image, rows, remainder, box, b_factor)
            corners = whole.astype(np.int64) - box.side // 2
            for stamp, (x, y) in zip(images, corners.tolist(), strict=True):
                add_at(total, stamp, x, y)
    return total


def relative_noise(series: ImageSeries, references: Sequence[Reference], params: SeriesSimulationParams) -> float:
    """Return the standard deviation of an untilted image's noise, relative to its mean.

    Notes
    -----
    Of the shot noise of its dose, or so that the first species has the asked-for SNR: by 64 random views in the image
    that is nearest to untilted, without radiation damage.
    """
    if params.snr is None:
        electrons = params.dose_per_image_e_per_angstrom2 * params.pixel_size_angstrom**2
        return 1 / math.sqrt(electrons * _DQE)
    image = int(np.argmin(np.abs(series.tilt_angle_degrees))) if isinstance(series, TiltSeries) else 0
    n = _VIEWS_OF_SNR
    rotation = truth.views(params.seed, "views of snr", np.arange(n), preference=params.preferred_orientation)
    middle = torch.tensor([*(side / 2 for side in series.image_size_angstrom), 0.0], dtype=torch.float64)
    if isinstance(series, TiltSeries):
        middle[2] = series.volume_size_angstrom[2] / 2
    position = middle.expand(n, 1, 3)
    seen = views(series, position, rotation[:, None])
    one = SeenSpecies(reference=references[0], seen=seen, transfer=image_ctf(series, position, seen))
    grid = ImageGrid.square(64, params.pixel_size_angstrom)
    box = _box(series, one, image, grid)
    stamps = _stamps(series, one, image, slice(None), torch.zeros((n, 2), dtype=torch.float64), box, 0.0)
    inside = soft_disc(box, references[0].diameter_angstrom / 2, 0.0) > 0.5
    variance = float(stamps[:, inside].double().var(dim=1, correction=0).mean())
    return math.sqrt(variance / params.snr * params.images_of_snr)


class AlignedSum:
    """The sum of frames, each moved back by the movement that its metadata know of for the whole field.

    Parameters
    ----------
    movie : as its metadata say.
    grid : of the frames.
    """

    def __init__(self, movie: FrameSeries, grid: ImageGrid) -> None:
        self._grid = grid
        self._frequencies = grid.frequencies()
        self._movement = (movie.movement_x_angstrom.values[:, 0, 0], movie.movement_y_angstrom.values[:, 0, 0])
        self._total = torch.zeros(grid.rfft_shape, dtype=torch.complex64)

    def add(self, number: int, frame: NDArray[np.float32]) -> None:
        """Add a frame, shape (y, x)."""
        back = torch.stack([along[number] for along in self._movement])
        self._total += self._grid.rfft(torch.from_numpy(frame)) * shift_phases(self._frequencies, back)

    def image(self) -> NDArray[np.float32]:
        """Return the sum of what was added, shape (y, x)."""
        summed: NDArray[np.float32] = self._grid.irfft(self._total).numpy()
        return summed


def _stamps(
    series: ImageSeries,
    one: SeenSpecies,
    image: int,
    rows: slice,
    remainder_angstrom: Tensor,
    box: ImageGrid,
    b_factor_angstrom2: float,
) -> Tensor:
    """Return the relative contrast of single particles, float32, (n, y, x)."""
    optics, table = series.optics, one.transfer
    frequencies = box.frequencies()
    transfer = ctf(
        frequencies,
        defocus_u_angstrom=table.defocus_u_angstrom[rows, image],
        defocus_v_angstrom=table.defocus_v_angstrom[rows, image],
        defocus_angle_degrees=table.defocus_angle_degrees[rows, image],
        phase_shift_degrees=table.phase_shift_degrees[rows, image],
        spherical_aberration_mm=table.spherical_aberration_mm[rows, image],
        voltage_kv=optics.voltage_kv,
        amplitude_contrast=optics.amplitude_contrast,
        b_factor_angstrom2=b_factor_angstrom2,
        even_zernike=np.append(0.0, optics.even_zernike),
    )
    rotation = magnified(one.seen.rotation[rows, image], torch.from_numpy(optics.magnification))
    sigma = interaction_constant_rad_per_volt_angstrom(optics.voltage_kv)
    transform = one.reference.views_rfft(rotation, box, remainder_angstrom) * (transfer * (-2 * sigma))
    if np.any(optics.odd_zernike):
        phase = odd_phase(
            frequencies,
            odd_zernike=optics.odd_zernike,
            voltage_kv=optics.voltage_kv,
            spherical_aberration_mm=optics.spherical_aberration_mm,
        ).float()
        transform = transform * torch.polar(torch.ones_like(phase), phase)
    return box.irfft(transform)


def _box(series: ImageSeries, one: SeenSpecies, image: int, grid: ImageGrid) -> ImageGrid:
    """Return a box that holds a particle and how far the microscope spreads it."""
    wavelength = electron_wavelength_angstrom(series.optics.voltage_kv)
    nyquist = 0.5 / grid.pixel_size_angstrom
    u, v = (table[:, image].abs() for table in (one.transfer.defocus_u_angstrom, one.transfer.defocus_v_angstrom))
    defocus = float(torch.maximum(u, v).max()) if len(u) else 0.0
    cs = abs(series.optics.spherical_aberration_mm) * _ANGSTROM_PER_MM
    spread = wavelength * defocus * nyquist + cs * (wavelength * nyquist) ** 3
    side = (one.reference.diameter_angstrom + 2 * spread + _MARGIN_ANGSTROM) / grid.pixel_size_angstrom
    return ImageGrid.square(2 * scipy.fft.next_fast_len(math.ceil(side / 2)), grid.pixel_size_angstrom)


def _transmission(series: ImageSeries, image: int, thickness_angstrom: float) -> float:
    """Return which part of the electrons tilted ice lets through, relative to untilted ice."""
    if not isinstance(series, TiltSeries):
        return 1.0
    tilt = math.radians(float(series.tilt_angle_degrees[image]) + series.level_angle_y_degrees)
    longer = thickness_angstrom * (1 / math.cos(tilt) - 1)
    return math.exp(-longer / ice.ICE_ABSORPTION_LENGTH_ANGSTROM)


def _noise(
    series: SeriesTruth[TiltSeries] | SeriesTruth[FrameSeries],
    image: int,
    frame: int | None,
    grid: ImageGrid,
    params: SeriesSimulationParams,
) -> Tensor:
    """Return noise of variance 1, float32."""
    uid = series.number * _IMAGES_PER_SERIES + image

    def drawn(purpose: str) -> Tensor:
        kind = purpose if frame is None else f"{purpose} of frames"
        return torch.from_numpy(
            keyed_random.normal(params.seed, kind, uid, draw=frame or 0, size=grid.shape).astype(np.float32)
        )

    fraction = params.ice_noise_fraction
    noise = drawn("series noise") * math.sqrt(1 - fraction)
    if not fraction:
        return noise
    gain = _grain_amplitude(series.true, image, grid, params)
    both = torch.ones(gain.shape[-1])  # coefficients that stand for their mates too
    both[1 : (grid.shape[-1] + 1) // 2] = 2.0
    power = float((gain.square() * both).double().sum()) / grid.n_pixels
    grain = grid.irfft(grid.rfft(drawn("series grain")) * (gain / math.sqrt(power)))
    return noise + grain * math.sqrt(fraction)


def _grain_amplitude(series: ImageSeries, image: int, grid: ImageGrid, params: SeriesSimulationParams) -> Tensor:
    """Return how strongly the ice in the field's middle shows at each frequency, on any scale."""
    middle = torch.tensor([[0.5, 0.5, float(series.image_time[image])]], dtype=torch.float64)
    defocus = float(series.defocus_angstrom(middle)[0])
    frequencies = grid.frequencies()
    transfer = ctf(
        frequencies,
        defocus_u_angstrom=defocus,
        defocus_v_angstrom=defocus,
        voltage_kv=series.optics.voltage_kv,
        spherical_aberration_mm=series.optics.spherical_aberration_mm,
        amplitude_contrast=series.optics.amplitude_contrast,
        phase_shift_degrees=float(series.phase_shift_degrees(middle)[0]),
    )
    power = ice.ice_grain_power(
        frequencies.norm(dim=-1),
        thickness_angstrom=params.ice_thickness_angstrom,
        dose_e_per_angstrom2=params.dose_per_image_e_per_angstrom2,
        interaction_rad_per_volt_angstrom=interaction_constant_rad_per_volt_angstrom(series.optics.voltage_kv),
    )
    return transfer * power.sqrt().float()
