"""Stacks of particle images with known truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.fourier.resample import crop_or_pad
from halfmap.fourier.shells import shell_frequencies
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer
from halfmap.simulation import truth
from halfmap.simulation.params import ParticleSimulationParams
from halfmap.simulation.references import Reference
from halfmap.tensors import Images
from halfmap.units import electron_wavelength_angstrom

PARTICLE = "particle"
JUNK_KINDS = ("empty", "off-centre", "aggregate", "broken", "ice")
KIND_COLUMN = "halfmapKind"
JUNK_COLUMN = "halfmapIsJunk"

_MEASURED_PARTICLES = 1000
_MEASURED_AT_ONCE = 50
_ICE_VOLT = 9.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleProblem:
    """Everything that decides what the images are.

    Parameters
    ----------
    params : the settings.
    truth : of every particle: uid, optics group, micrograph_name, defocus, rotation, origin_angstrom,
        class_number, and what the image shows, in the columns `KIND_COLUMN` and `JUNK_COLUMN`.
    references : for each optics group, one for each class.
    broken : the same, damaged; empty if there is no junk.
    """

    params: ParticleSimulationParams
    truth: ParticleSet
    references: Sequence[Sequence[Reference]]
    broken: Sequence[Sequence[Reference]]

    @property
    def group_rows(self) -> list[NDArray[np.int64]]:
        """Rows of the particles of each optics group."""
        groups = self.truth["optics_group"]
        return [np.flatnonzero(groups == number) for number in self.truth.optics.numbers]

    def grid(self, group: int) -> ImageGrid:
        """Return the grid of the images of an optics group, counted from 0."""
        return ImageGrid.square(self.params.box_pixel, self.params.pixel_size_of_group_angstrom(group))


def draw_truth(params: ParticleSimulationParams, n_classes: int, diameters_angstrom: Sequence[float]) -> ParticleSet:
    """Draw pose, defocus, class and kind of every particle.

    Parameters
    ----------
    diameters_angstrom : of the classes.

    Returns
    -------
    ParticleSet
        Particles of a micrograph, and micrographs of an optics group, follow one another.
    """
    n, seed = params.number, params.seed
    uids = np.arange(1, n + 1)
    micrograph = (uids - 1) // params.particles_per_micrograph
    n_micrographs = int(micrograph[-1]) + 1
    group = micrograph * params.optics_groups // n_micrographs
    lens = truth.defocus(
        seed,
        np.arange(n_micrographs),
        minimum_angstrom=params.min_defocus_angstrom,
        maximum_angstrom=params.max_defocus_angstrom,
        astigmatism_angstrom=params.astigmatism_angstrom,
    )
    height = params.defocus_spread_angstrom * keyed_random.normal(seed, "height in the ice", uids)
    shares = keyed_random.uniform(seed, "class and kind", uids, size=3)
    class_number = truth.class_of_quantile(shares[:, 0], n_classes, params.class_fractions)
    is_junk = shares[:, 1] < params.junk_fraction
    kind = np.where(is_junk, np.array(JUNK_KINDS)[(shares[:, 2] * len(JUNK_KINDS)).astype(int)], PARTICLE)
    shift = params.shift_sigma_angstrom * keyed_random.normal(seed, "offset", uids, size=2)
    away = np.asarray(diameters_angstrom)[class_number - 1] * (
        0.5 + 0.25 * keyed_random.uniform(seed, "how far off centre", uids)
    )
    angle = 2 * math.pi * keyed_random.uniform(seed, "off centre", uids)
    off_centre = away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shift = np.where((kind == "off-centre")[:, None], off_centre, shift)
    groups = range(params.optics_groups)
    optics = OpticsGroups(
        columns={
            "optics_group": np.arange(1, params.optics_groups + 1),
            "name": np.array([f"opticsGroup{g + 1}" for g in groups], dtype=object),
            "voltage_kv": np.array([params.voltage_of_group_kv(g) for g in groups]),
            "spherical_aberration_mm": np.full(params.optics_groups, params.spherical_aberration_mm),
            "amplitude_contrast": np.full(params.optics_groups, params.amplitude_contrast),
            "pixel_size_angstrom": np.array([params.pixel_size_of_group_angstrom(g) for g in groups]),
            "image_size_pixel": np.full(params.optics_groups, params.box_pixel),
            "image_dimensionality": np.full(params.optics_groups, 2),
            "ctf_premultiplied": np.zeros(params.optics_groups, dtype=bool),
        }
    )
    return ParticleSet(
        columns={
            "uid": uids,
            "micrograph_name": np.array([f"micrograph{m + 1:05d}.mrc" for m in micrograph], dtype=object),
            "optics_group": group + 1,
            "defocus_u_angstrom": lens.u_angstrom[micrograph] + height,
            "defocus_v_angstrom": lens.v_angstrom[micrograph] + height,
            "defocus_angle_degrees": lens.angle_degrees[micrograph],
            "phase_shift_degrees": np.full(n, params.phase_shift_degrees),
            "rotation": truth.views(seed, "views", uids, preference=params.preferred_orientation).numpy(),
            "origin_angstrom": -shift,
            "class_number": class_number,
            KIND_COLUMN: kind.astype(object),
            JUNK_COLUMN: is_junk.astype(int).astype(str).astype(object),
        },
        optics=optics,
    )


def clean_images(problem: ParticleProblem, rows: NDArray[np.int64]) -> Images:
    """Return images without noise: CTF-modulated projections, positive, of arbitrary scale.

    Parameters
    ----------
    rows : of particles of one optics group.

    Returns
    -------
    float32, shape (n, side, side)

    Notes
    -----
    They are cut from fields that are wider by what the CTF delocalises at the greatest defocus, as from a
    micrograph, so nothing wraps around the edge of the box.
    """
    particles = problem.truth.take(rows)
    group = int(particles["optics_group"][0]) - 1
    grid = problem.grid(group)
    field = _field(grid, problem.params, group)
    seed, purpose = problem.params.seed, "junk"
    transform = torch.zeros((len(rows), *field.rfft_shape), dtype=torch.complex64)
    kind = particles[KIND_COLUMN]
    rotation, shift = torch.from_numpy(particles["rotation"].copy()), torch.from_numpy(-particles["origin_angstrom"])
    for number, reference in enumerate(problem.references[group], start=1):
        mine = particles["class_number"] == number
        plain = np.flatnonzero(mine & np.isin(kind, (PARTICLE, "off-centre", "aggregate")))
        transform[plain] = reference.views_rfft(rotation[plain], field, shift[plain])
        aggregate = np.flatnonzero(mine & (kind == "aggregate"))
        for member in (1, 2):
            uids = particles.uid[aggregate]
            turns = truth.views(seed, f"{purpose} view {member}", uids)
            angle = 2 * math.pi * keyed_random.uniform(seed, purpose, uids, draw=member)
            away = 0.7 * reference.diameter_angstrom * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            transform[aggregate] += reference.views_rfft(turns, field, torch.from_numpy(away))
        if problem.broken:
            broken = np.flatnonzero(mine & (kind == "broken"))
            transform[broken] = problem.broken[group][number - 1].views_rfft(rotation[broken], field, shift[broken])
        ice = np.flatnonzero(mine & (kind == "ice"))
        if len(ice):
            size = 0.4 + 0.8 * keyed_random.uniform(seed, purpose, particles.uid[ice], draw=3)
            transform[ice] = _ice(field, reference.diameter_angstrom * size, shift[ice])
    images = field.irfft(transform * contrast_transfer(particles, field.frequencies()))
    return crop_or_pad(images, field, grid.shape)[0]


def signal_variance(problem: ParticleProblem) -> float:
    """Return the variance of the clean images inside the particle's circle, averaged over particles.

    The circle has the particle's diameter and the image's centre. Up to 1000 particles, evenly spread and without
    junk, are measured; so it does not depend on how the stack is divided into chunks.
    """
    particles = np.flatnonzero(problem.truth[KIND_COLUMN] == PARTICLE)
    if len(particles) > _MEASURED_PARTICLES:
        particles = particles[np.linspace(0, len(particles) - 1, _MEASURED_PARTICLES).astype(np.int64)]
    variances: list[float] = []
    for group, rows in enumerate(problem.group_rows):
        mine = np.intersect1d(particles, rows)
        discs = [
            soft_disc(problem.grid(group), reference.diameter_angstrom / 2, 0.0).bool()
            for reference in problem.references[group]
        ]
        for start in range(0, len(mine), _MEASURED_AT_ONCE):
            some = mine[start : start + _MEASURED_AT_ONCE]
            images = clean_images(problem, some)
            for image, number in zip(images, problem.truth["class_number"][some], strict=True):
                variances.append(float(image[discs[number - 1]].double().var(correction=0)))
    return math.fsum(variances) / max(len(variances), 1)


def images(problem: ParticleProblem, rows: NDArray[np.int64], scale: float) -> Images:
    """Return images with noise of variance 1 per pixel.

    Parameters
    ----------
    rows : of particles of one optics group.
    scale : of the clean images: the square root of SNR / `signal_variance`.

    Returns
    -------
    float32, shape (n, side, side), each depending on its uid alone.
    """
    group = int(problem.truth["optics_group"][rows[0]]) - 1
    grid = problem.grid(group)
    spectrum = noise_spectrum(problem.params.seed, group, grid)
    drawn = noise.draw(problem.params.seed, "image noise", problem.truth.uid[rows], grid, spectrum)
    return drawn.add_(clean_images(problem, rows), alpha=scale)


def noise_spectrum(seed: int, group: int, grid: ImageGrid) -> Tensor:
    """Return the noise spectrum of an optics group, of variance 1 per pixel, float64, shape (n_shells,).

    Notes
    -----
    Its shape is 1 + rise / (1 + (s · length)²) − fall · (s / Nyquist)²: grain of ice and neighbours at low
    frequency, the detector's loss at high frequency. Rise (1 to 4), length (50 to 120 Å) and fall (0 to 0.4)
    are drawn for each group.
    """
    rise, length, fall = keyed_random.uniform(seed, "noise spectrum", group, size=3)
    s = shell_frequencies(grid)
    nyquist = 0.5 / grid.pixel_size_angstrom
    shape = 1 + (1 + 3 * rise) / (1 + (s * (50 + 70 * length)) ** 2) - 0.4 * fall * (s / nyquist).clamp(max=1.0) ** 2
    return noise.with_pixel_variance(shape, grid, 1.0)


def _field(grid: ImageGrid, params: ParticleSimulationParams, group: int) -> ImageGrid:
    """Return the grid of the field that an image is cut from, with the same parity of its sides."""
    wavelength = electron_wavelength_angstrom(params.voltage_of_group_kv(group))
    defocus = params.max_defocus_angstrom + params.astigmatism_angstrom + 3 * params.defocus_spread_angstrom
    delocalised = wavelength * abs(defocus) * 0.5 / grid.pixel_size_angstrom
    margin = min(math.ceil(delocalised / grid.pixel_size_angstrom), grid.side // 2)
    side = grid.side + 2 * margin
    while scipy.fft.next_fast_len(side, real=True) != side or side % 2:
        side += 1
    return ImageGrid.square(side, grid.pixel_size_angstrom)


def _ice(field: ImageGrid, diameters_angstrom: NDArray[np.float64], centres_angstrom: Tensor) -> Tensor:
    """Return the transforms of round lumps of ice, half as thick as wide, in V Å."""
    positions = field.positions(dtype=torch.float32)
    lumps = []
    for diameter, centre in zip(diameters_angstrom, centres_angstrom.float(), strict=True):
        r = (positions - centre).norm(dim=-1) / (0.5 * diameter)
        lumps.append(_ICE_VOLT * 0.5 * diameter * (1 - r**2).clamp(min=0.0).sqrt())
    return field.rfft(torch.stack(lumps).float())
