"""Micrographs with known truth: particles, ice and dirt as a microscope records them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.optics.ctf import ctf
from halfmap.simulation import dirt, ice
from halfmap.simulation.layout import BROKEN, Layout
from halfmap.simulation.params import MicrographSimulationParams
from halfmap.simulation.references import Reference, interaction_constant_rad_per_volt_angstrom

_MARGIN_ANGSTROM = 150.0
_VIEWS_AT_ONCE = 32
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """The specimens of a simulation.

    Parameters
    ----------
    whole : one for each class.
    broken : the same specimens, damaged; empty if there is no junk.
    """

    whole: Sequence[Reference]
    broken: Sequence[Reference] = ()

    @property
    def diameters_angstrom(self) -> tuple[float, ...]:
        """Diameter of each class."""
        return tuple(reference.diameter_angstrom for reference in self.whole)


@dataclass(frozen=True, kw_only=True, eq=False)
class Micrograph:
    """A simulated micrograph.

    Parameters
    ----------
    counts : float32, shape (y, x): electrons in each pixel, particles dark.
    grid : its sides and pixel size.
    layout : what it shows.
    border_pixel : replicated rows and columns at the left, right, top and bottom.
    """

    counts: NDArray[np.float32]
    grid: ImageGrid
    layout: Layout
    border_pixel: tuple[int, int, int, int]


def micrograph(layout: Layout, references: References, params: MicrographSimulationParams) -> Micrograph:
    """Record a micrograph.

    Parameters
    ----------
    layout : what is in it.
    references : at the micrographs' pixel size.
    params : the settings.

    Raises
    ------
    InputError
        A reference has another pixel size.

    Notes
    -----
    Phases add up to φ: σ times the particles' potential summed along the beam, the grain of ice and carbon
    (white noise shaped by their scattering), and the mean potential of films and crystals. In the weak-phase
    approximation the intensity is T (1 − 2 F⁻¹[CTF φ̂]), with T the part of the beam that films and crystals let
    through; their mean potential enters without its zero-frequency contrast, which T holds already. The
    detector counts electrons: Poisson noise of the dose times its DQE, the signal falling towards Nyquist.
    References: Reimer and Kohl, "Transmission electron microscopy", ch. 6; Vulović et al. 2013, J. Struct. Biol. 183.
    """
    for reference in references.whole:
        size = reference.potential.grid.pixel_size_angstrom
        if abs(size - params.pixel_size_angstrom) > 1e-6 * size:
            raise InputError(
                f"A reference must have the micrographs' pixel size {params.pixel_size_angstrom:g} Å; got {size:g} Å."
            )
    width, height = params.size_pixel
    grid = ImageGrid(shape=(height, width), pixel_size_angstrom=params.pixel_size_angstrom)
    canvas, origin = _canvas(grid)
    window = (slice(origin, origin + height), slice(origin, origin + width))
    sigma = interaction_constant_rad_per_volt_angstrom(params.voltage_kv)

    carbon = crystals = None
    if layout.carbon is not None:
        carbon = dirt.carbon_thickness(canvas, layout.carbon, origin_pixel=origin)
    if layout.crystals is not None:
        crystals = dirt.crystal_thickness(
            canvas, layout.crystals, seed=params.seed, uid=layout.number, origin_pixel=origin
        )
    phase = particle_phase(layout, references, canvas, origin, sigma)
    films = _film_phase(carbon, crystals, sigma)
    grain = _grain(canvas, layout, carbon, params)
    contrast, at_zero = _contrast(phase if films is None else phase + films, grain, canvas, layout, params, sigma)
    contrast = contrast[window]
    if films is not None:
        contrast += 2 * at_zero * films[window]
    transmitted = math.exp(-params.ice_thickness_angstrom / ice.ICE_ABSORPTION_LENGTH_ANGSTROM)
    intensity = (1 + contrast).clamp_(min=0.0) * transmitted
    if carbon is not None:
        intensity *= torch.exp(-carbon[window] / ice.CARBON_ABSORPTION_LENGTH_ANGSTROM)
    if crystals is not None:
        intensity *= torch.exp(-crystals[window] / dirt.CRYSTAL_ABSORPTION_LENGTH_ANGSTROM)
    if params.has("gradients"):
        intensity *= dirt.relative_illumination(params.seed, layout.number, grid.shape)
    counts = ice.detected_counts(
        intensity * (params.dose_e_per_angstrom2 * params.pixel_size_angstrom**2),
        seed=params.seed,
        uid=layout.number,
        dqe=params.dqe,
    )
    if params.has("hot_pixels"):
        dirt.spoil_pixels(counts, seed=params.seed, uid=layout.number)
    border = (0, 0, 0, 0)
    if params.has("replicated_border"):
        border = dirt.replicate_border(counts, seed=params.seed, uid=layout.number)
    return Micrograph(counts=counts, grid=grid, layout=layout, border_pixel=border)


def particle_phase(layout: Layout, references: References, canvas: ImageGrid, origin: int, sigma: float) -> Tensor:
    """Return the phase that the specimens add, in rad, float32, shape ``canvas.shape``.

    Parameters
    ----------
    canvas : grid of the field with its margins.
    origin : place of the micrograph's first pixel in it.
    sigma : interaction constant, rad/(V Å).
    """
    phase = torch.zeros(canvas.shape, dtype=torch.float32)
    broken = layout.kind == BROKEN
    by_reference: Mapping[tuple[int, bool], NDArray[np.int64]] = {
        (number, bool(damaged)): np.flatnonzero((layout.class_number == number) & (broken == damaged))
        for number in np.unique(layout.class_number)
        for damaged in (False, True)
    }
    for (number, damaged), rows in by_reference.items():
        if not len(rows):
            continue
        reference = (references.broken if damaged else references.whole)[number - 1]
        side = reference.potential.grid.side
        box = ImageGrid.square(side, canvas.pixel_size_angstrom)
        for start in range(0, len(rows), _VIEWS_AT_ONCE):
            some = rows[start : start + _VIEWS_AT_ONCE]
            position = layout.position_pixel[some]
            whole = np.rint(position)
            remainder = torch.from_numpy((position - whole) * canvas.pixel_size_angstrom)
            rotations = torch.from_numpy(layout.rotation[some])
            images = box.irfft(reference.views_rfft(rotations, box, remainder)) * sigma
            corners = whole.astype(np.int64) + origin - side // 2
            for image, (x, y) in zip(images, corners.tolist(), strict=True):
                add_at(phase, image, x, y)
    return phase


def add_at(canvas: Tensor, image: Tensor, x: int, y: int) -> None:
    """Add an image whose first pixel lies at (x, y), as far as it lies on the canvas."""
    rows = slice(max(y, 0), min(y + image.shape[0], canvas.shape[0]))
    columns = slice(max(x, 0), min(x + image.shape[1], canvas.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        canvas[rows, columns] += image[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def _canvas(grid: ImageGrid) -> tuple[ImageGrid, int]:
    """Return a grid with margins, so that nothing wraps around, and the place of the first pixel in it."""
    margin = math.ceil(_MARGIN_ANGSTROM / grid.pixel_size_angstrom)
    sides = tuple(scipy.fft.next_fast_len(side + 2 * margin, real=True) for side in grid.shape)
    return grid.with_shape(sides), margin


def _film_phase(carbon: Tensor | None, crystals: Tensor | None, sigma: float) -> Tensor | None:
    parts = []
    if carbon is not None:
        parts.append(carbon * (sigma * (dirt.CARBON_POTENTIAL_VOLT - dirt.ICE_POTENTIAL_VOLT)))
    if crystals is not None:
        parts.append(crystals * (sigma * dirt.ICE_POTENTIAL_VOLT))
    return sum(parts[1:], parts[0]) if parts else None


def _grain(canvas: ImageGrid, layout: Layout, carbon: Tensor | None, params: MicrographSimulationParams) -> Tensor:
    """Return white noise, stronger where there is carbon, float32, shape ``canvas.shape``."""
    white = torch.from_numpy(keyed_random.normal(params.seed, "grain", layout.number, size=canvas.shape)).float()
    if carbon is not None and layout.carbon is not None:
        ratio = ice.carbon_to_ice_grain(layout.carbon.thickness_angstrom, params.ice_thickness_angstrom)
        white *= 1 + (carbon / layout.carbon.thickness_angstrom) * (ratio - 1)
    return white


def _contrast(
    phase: Tensor,
    grain: Tensor,
    canvas: ImageGrid,
    layout: Layout,
    params: MicrographSimulationParams,
    sigma: float,
) -> tuple[Tensor, float]:
    """Return −2 F⁻¹[CTF (phase + shaped grain)], float32, and the CTF at zero frequency."""
    transform = torch.fft.rfft2(phase)
    white = torch.fft.rfft2(grain)
    spacing = canvas.pixel_size_angstrom
    fx = torch.fft.rfftfreq(canvas.shape[1], d=spacing, dtype=torch.float64)
    fy = torch.fft.fftfreq(canvas.shape[0], d=spacing, dtype=torch.float64)
    nyquist = 0.5 / spacing
    at_zero = 0.0
    for start in range(0, canvas.shape[0], _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, canvas.shape[0]))
        frequencies = torch.stack(torch.meshgrid(fx, fy[rows], indexing="xy"), dim=-1)
        transfer = ctf(
            frequencies,
            defocus_u_angstrom=float(layout.defocus.u_angstrom[0]),
            defocus_v_angstrom=float(layout.defocus.v_angstrom[0]),
            defocus_angle_degrees=float(layout.defocus.angle_degrees[0]),
            voltage_kv=params.voltage_kv,
            spherical_aberration_mm=params.spherical_aberration_mm,
            amplitude_contrast=params.amplitude_contrast,
            phase_shift_degrees=params.phase_shift_degrees,
        )
        if start == 0:
            at_zero = float(transfer[0, 0])
        s = frequencies.norm(dim=-1).float()
        power = ice.ice_grain_power(
            s,
            thickness_angstrom=params.ice_thickness_angstrom,
            dose_e_per_angstrom2=params.dose_e_per_angstrom2,
            interaction_rad_per_volt_angstrom=sigma,
        )
        total = transform[rows] + white[rows] * (power.sqrt() / spacing)
        falloff = 1 - params.detector_falloff * (s / nyquist).clamp(max=1.0) ** 2
        transform[rows] = total * (transfer * falloff * -2.0)
    return torch.fft.irfft2(transform, s=canvas.shape), at_zero
