"""Picking by templates: particles as turned copies of class averages or of a map's projections."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.optics.ctf import ctf
from halfmap.picking.choice import choose_peaks, marked_specks
from halfmap.picking.convolution import RoundKernels
from halfmap.picking.local_statistics import BACKGROUND, flatten_background
from halfmap.picking.masks import Reason, excluded_areas
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.params import TemplatePickParams
from halfmap.picking.work_image import WorkImage, inside, reduce

BOX = 2.0
"""Side of a template's box, in diameters: the CTF carries the signal beyond the particle before the disc cuts it."""

PIXELS_AT_ONCE = 2**23
"""Pixels of the scores computed together: 32 MiB for each intermediate array."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Templates:
    """What is looked for.

    Parameters
    ----------
    images : float32, shape (n, side, side), particles bright and centred.
    grid : of the images.
    """

    images: Tensor
    grid: ImageGrid


@dataclass(frozen=True, kw_only=True)
class MicrographOptics:
    """What is known of a micrograph's CTF; units and signs as of `halfmap.optics.ctf.ctf`."""

    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_degrees: float
    phase_shift_degrees: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateScore:
    """How well the best of all turned templates explains a micrograph at every position.

    Parameters
    ----------
    positive, negative : float32, shape (y, x): of the micrograph and of its inverted copy, in standard deviations above
        the usual score of the inverted copy, where templates find nothing but noise; 0 outside the area scored.
    best : int64, shape (y, x): number of the turned template, ``reference · n_angles + angle``.
    psi_degrees : float64, shape (n_angles,).
    """

    positive: Tensor
    negative: Tensor
    best: Tensor
    psi_degrees: np.ndarray


def pick(
    micrograph: Tensor | np.ndarray,
    *,
    pixel_size_angstrom: float,
    params: TemplatePickParams,
    templates: Templates,
    optics: MicrographOptics | None,
) -> MicrographPicks:
    """Pick particles in one micrograph.

    The figure of merit is the score of the best template, turned best: its correlation with the locally normalised
    micrograph, in standard deviations above what the inverted micrograph usually gives. So it compares between
    micrographs.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark, unless ``white_particles``.
    pixel_size_angstrom : of the micrograph.
    params : the settings.
    templates : of any pixel size.
    optics : multiplies the templates by the micrograph's CTF; None leaves them as they are.

    Raises
    ------
    ShapeError
        The array is not an image.
    InputError
        Pixels are not finite or all alike, a template is empty, or the particle is too large for the micrograph.
    """
    diameter = params.diameter_angstrom
    work = reduce(
        micrograph, pixel_size_angstrom=pixel_size_angstrom, work_pixel_angstrom=params.max_resolution_angstrom / 2
    )
    pixel = work.grid.pixel_size_angstrom
    if 1.5 * diameter > min(work.grid.shape) * pixel:
        raise InputError(
            f"--diameter must be less than two thirds of the micrograph's shorter side; got {diameter:g} Å for "
            f"{min(work.grid.shape) * pixel:.0f} Å; check the diameter and the pixel size."
        )
    values = work.values if params.white_particles else -work.values
    reason = excluded_areas(work, shortest_angstrom=diameter, longest_angstrom=diameter)
    usable = reason == int(Reason.USABLE)
    scored = score_templates(
        values, usable, pixel_size_angstrom=pixel, params=params, templates=templates, optics=optics
    )
    allowed = usable & inside(work, edge_angstrom=params.margin_angstrom, particle_angstrom=diameter)
    return _chosen(work, scored, reason, allowed, params)


def _chosen(
    work: WorkImage, scored: TemplateScore, reason: Tensor, allowed: Tensor, params: TemplatePickParams
) -> MicrographPicks:
    pixel = work.grid.pixel_size_angstrom
    chosen = choose_peaks(
        scored.positive,
        scored.negative,
        allowed,
        distance_pixel=params.pick_distance_angstrom / pixel,
        lobe_pixel=params.diameter_angstrom / pixel,
        threshold=params.threshold,
        upper_threshold=params.upper_threshold,
    )
    picks, strong = chosen.picks, chosen.too_strong
    best = scored.best.cpu().numpy()[picks.pixel[:, 1], picks.pixel[:, 0]]
    radius = np.full(len(strong), params.diameter_angstrom / 2 / pixel)
    n_angles = len(scored.psi_degrees)
    return MicrographPicks(
        position_pixel=work.to_micrograph(picks.position),
        figure_of_merit=picks.height,
        diameter_angstrom=np.full(len(picks), params.diameter_angstrom),
        threshold=chosen.threshold,
        upper_threshold=chosen.upper_threshold,
        n_above=len(strong),
        reason=marked_specks(reason.cpu().numpy(), strong, radius, int(Reason.SPECK)),
        mask_pixel_size_angstrom=pixel,
        score=scored.positive,
        reduced=work.values,
        class_number=best // n_angles + 1,
        psi_degrees=scored.psi_degrees[best % n_angles],
    )


def score_templates(
    values: Tensor,
    usable: Tensor,
    *,
    pixel_size_angstrom: float,
    params: TemplatePickParams,
    templates: Templates,
    optics: MicrographOptics | None,
) -> TemplateScore:
    """Correlate a micrograph with turned templates, normalised by what surrounds each place.

    Parameters
    ----------
    values : float32, shape (y, x), particles bright.
    usable : bool, shape (y, x): what counts and is scored.
    pixel_size_angstrom : of the array.
    params, templates, optics : as of `pick`.

    Notes
    -----
    z = Σ T (X − μ) / σ with T the turned, CTF-multiplied template, of mean 0 and norm 1 within the disc, and μ, σ mean
    and standard deviation of X around the place (`flatten_background`): of variance 1 in white noise. σ under the
    disc alone would hold the particle itself and punish strong ones. The best of many templates is well above 0
    everywhere, and the more so the more there are; the median and spread of the same in the inverted micrograph take
    that out.

    References
    ----------
    Roseman 2003, Ultramicroscopy 94, 225, for local normalisation; RELION's reference-based picking, whose μ and σ are
    of the surroundings too, for templates and steps.
    """
    shape = (values.shape[0], values.shape[1])
    diameter = params.diameter_angstrom / pixel_size_angstrom
    wide = RoundKernels(shape, 2 * BACKGROUND * diameter, values.device)
    flat = flatten_background(values, usable, wide, BACKGROUND * diameter)
    side = 2 * math.ceil(BOX * diameter / 2)
    kernels = RoundKernels(shape, side, values.device)
    transform = kernels.forward(flat)
    grid = ImageGrid.square(side, pixel_size_angstrom)
    psi = np.arange(math.ceil(360 / params.psi_step_degrees)) * 360 / math.ceil(360 / params.psi_step_degrees)
    highest = torch.full_like(flat, -math.inf)
    lowest = torch.full_like(flat, math.inf)
    best = torch.zeros(shape, dtype=torch.int64, device=flat.device)
    at_once = max(1, PIXELS_AT_ONCE // (kernels.padded[0] * kernels.padded[1]))
    for first, turned in _turned(templates, grid, psi, optics, diameter, at_once):
        padded = _about_the_corner(turned.to(flat.device), kernels.padded)
        score = torch.fft.irfft2(transform * torch.fft.rfft2(padded).conj(), s=kernels.padded)
        score = score[:, : shape[0], : shape[1]]
        most, which = score.max(dim=0)
        best = torch.where(most > highest, first + which, best)
        highest = torch.maximum(highest, most)
        lowest = torch.minimum(lowest, score.amin(dim=0))
    middle, spread = _usual(-lowest, usable)
    return TemplateScore(
        positive=(highest - middle) / spread * usable,
        negative=(-lowest - middle) / spread * usable,
        best=best,
        psi_degrees=psi,
    )


def _turned(
    templates: Templates,
    grid: ImageGrid,
    psi_degrees: np.ndarray,
    optics: MicrographOptics | None,
    diameter_pixel: float,
    at_once: int,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first and a block of turned templates, of mean 0 and norm 1 within the disc."""
    band = FourierBand(grid)
    transfer = None if optics is None else ctf(band.frequencies, **vars(optics))
    disc = grid.radii(dtype=torch.float32) <= diameter_pixel * grid.pixel_size_angstrom / 2
    around = templates.grid.radii() > diameter_pixel * grid.pixel_size_angstrom / 2
    background = templates.images[:, around].mean(dim=1) if around.any() else templates.images.mean(dim=(1, 2))
    prepared = slices.prepare(templates.images - background[:, None, None], templates.grid)
    zeros = np.zeros(len(psi_degrees))
    rotations = matrix_from_euler(zeros, zeros, psi_degrees)
    for number in range(len(templates.images)):
        one = slices.PaddedTransform(values=prepared.values[number], grid=prepared.grid)
        for start in range(0, len(psi_degrees), at_once):
            band_values = slices.extract(one, rotations[start : start + at_once], band)
            images = grid.irfft(band.scatter(band_values if transfer is None else band_values * transfer))
            images = (images - images[:, disc].mean(dim=1)[:, None, None]) * disc
            norm = images.flatten(1).norm(dim=1)
            if not (norm > 0).all():
                raise InputError(f"Every reference must show something; number {number + 1} is empty; leave it out.")
            yield number * len(psi_degrees) + start, images / norm[:, None, None]


def _about_the_corner(images: Tensor, padded: tuple[int, ...]) -> Tensor:
    """Surround images by zeros with their centre pixel at (0, 0), so that scores lie where particles do."""
    side = images.shape[-1]
    large = torch.zeros((len(images), *padded), dtype=images.dtype, device=images.device)
    large[:, :side, :side] = images
    return large.roll((-(side // 2), -(side // 2)), dims=(1, 2))


def _usual(score: Tensor, usable: Tensor) -> tuple[float, float]:
    """Return the median of a score and its robust standard deviation over the usable area."""
    inner = score[usable]
    if not len(inner):
        return 0.0, 1.0
    middle = inner.median()
    return float(middle), max(float(1.4826 * (inner - middle).abs().median()), 1e-6)
