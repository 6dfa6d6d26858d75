"""Blob picking: particles as round things of a given size, without a reference."""

import math

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.picking.masks import Reason, excluded_areas
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.params import LogPickParams
from halfmap.picking.peaks import apart
from halfmap.picking.second_look import rival_peaks, without_crowds, without_singles
from halfmap.picking.sphere_score import SphereScore, score_spheres
from halfmap.picking.threshold import Threshold, automatic_threshold, middle_and_spread
from halfmap.picking.work_image import WorkImage, reduce

LOBE = 1.0
"""Distance, in longest diameters, within which a particle takes the negative responses beside it with it. Those lie in
the ring around it, and between neighbours that touch."""


def pick(micrograph: Tensor | np.ndarray, *, pixel_size_angstrom: float, params: LogPickParams) -> MicrographPicks:
    """Pick particles in one micrograph.

    The figure of merit is the score of the sphere, in standard deviations that it has in white noise of the strength
    found around the particle at the resolution looked at. It depends on no other part of the micrograph, so it
    compares between micrographs of one data set.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark, unless ``white_particles``.
    pixel_size_angstrom : of the micrograph.
    params : the settings.

    Raises
    ------
    ShapeError
        The array is not an image.
    InputError
        Pixels are not finite or all alike, or the particle is too small or too large for the micrograph.
    """
    shortest, longest = params.min_diameter_angstrom, params.max_diameter_angstrom
    work = reduce(
        micrograph,
        pixel_size_angstrom=pixel_size_angstrom,
        work_pixel_angstrom=params.max_resolution_angstrom / 2,
    )
    pixel = work.grid.pixel_size_angstrom
    if shortest < 3 * pixel:
        raise InputError(
            f"--min-diameter must be at least 3 pixels of the micrograph; got {shortest:g} Å at "
            f"{pixel:g} Å per pixel; check the pixel size."
        )
    if 1.5 * longest > min(work.grid.shape) * pixel:
        raise InputError(
            f"--max-diameter must be less than two thirds of the micrograph's shorter side; got {longest:g} Å for "
            f"{min(work.grid.shape) * pixel:.0f} Å; check the diameter and the pixel size."
        )
    values = work.values if params.white_particles else -work.values
    reason = excluded_areas(work, shortest_angstrom=shortest, longest_angstrom=longest)
    reason = without_crowds(values, reason, pixel_size_angstrom=pixel, params=params)
    found = _pick_outside(work, values, reason, params)
    singles = without_singles(reason, n_pixels=math.pi / 4 * (longest / pixel) ** 2, n_picks=len(found))
    return found if singles is reason else _pick_outside(work, values, singles, params)


def _pick_outside(work: WorkImage, values: Tensor, reason: Tensor, params: LogPickParams) -> MicrographPicks:
    """Pick where nothing is left out."""
    usable = reason == int(Reason.USABLE)
    scored = score_spheres(
        values,
        usable,
        pixel_size_angstrom=work.grid.pixel_size_angstrom,
        shortest_angstrom=params.min_diameter_angstrom,
        longest_angstrom=params.max_diameter_angstrom,
    )
    return _choose(work, scored, reason, usable & _inside(work, params), params)


def _choose(
    work: WorkImage, scored: SphereScore, reason: Tensor, allowed: Tensor, params: LogPickParams
) -> MicrographPicks:
    """Take the peaks between the two thresholds."""
    pixel_size = work.grid.pixel_size_angstrom
    distance = params.pick_distance_angstrom / pixel_size
    lobe = LOBE * params.max_diameter_angstrom / pixel_size
    positive, rivals = rival_peaks(scored, allowed, distance_pixel=distance, lobe_pixel=lobe)
    peaks = apart(positive, distance)
    automatic = automatic_threshold(scored.negative, allowed, height=peaks.height, rivals=rivals)
    threshold = automatic.value + params.threshold * automatic.sigma
    upper = _upper_threshold(peaks.height, automatic, params.upper_threshold)
    taken = peaks.height >= threshold
    kept = taken & (peaks.height <= upper)
    index = scored.diameter_index.cpu().numpy()[peaks.pixel[:, 1], peaks.pixel[:, 0]]
    diameter = np.asarray(scored.diameters_angstrom, dtype=np.float64)[index]
    too_strong = taken & ~kept
    marked = reason.cpu().numpy().copy()
    for (x, y), radius in zip(peaks.position[too_strong], diameter[too_strong] / 2 / pixel_size, strict=True):
        marked[_disc(marked.shape, x, y, radius) & (marked == 0)] = int(Reason.SPECK)
    return MicrographPicks(
        position_pixel=work.to_micrograph(peaks.position[kept]),
        figure_of_merit=peaks.height[kept],
        diameter_angstrom=diameter[kept],
        threshold=threshold,
        upper_threshold=upper,
        n_above=int(too_strong.sum()),
        reason=marked,
        mask_pixel_size_angstrom=pixel_size,
        score=scored.positive,
        reduced=work.values,
    )


def _disc(shape: tuple[int, ...], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def _upper_threshold(height: np.ndarray, automatic: Threshold, factor: float) -> float:
    """Height above which a peak is too strong for the particles of this micrograph."""
    middle, spread = middle_and_spread(height[height >= automatic.value])
    return middle + factor * spread if math.isfinite(middle) else math.inf


def _inside(work: WorkImage, params: LogPickParams) -> Tensor:
    """Work pixels far enough from the edge of the micrograph, or from its replicated frame.

    Beside a frame no part of even the largest particle may lie on it: whoever extracts it would get copies.
    """
    to_pixel = work.step_pixel / work.grid.pixel_size_angstrom
    edge = params.margin_angstrom * to_pixel
    frame = max(params.margin_angstrom, params.max_diameter_angstrom / 2) * to_pixel
    top, bottom, left, right = work.border_pixel
    lines = []
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        n, side = work.grid.shape[axis], work.micrograph_shape[axis]
        centre = torch.arange(n, device=work.values.device) * work.step_pixel
        lines.append(
            (centre >= (before + frame if before else edge)) & (centre <= side - 1 - (after + frame if after else edge))
        )
    return lines[0][:, None] & lines[1]
