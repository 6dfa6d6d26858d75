"""Blob picking: particles as round things of a given size, without a reference."""

import math

import numpy as np
from torch import Tensor

from halfmap.errors import InputError
from halfmap.picking.choice import choose_peaks, marked_specks
from halfmap.picking.masks import Reason, excluded_areas
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.params import LogPickParams
from halfmap.picking.second_look import without_crowds, without_singles
from halfmap.picking.sphere_score import SphereScore, score_spheres
from halfmap.picking.work_image import WorkImage, inside, reduce

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
    return _choose(
        work,
        scored,
        reason,
        usable & inside(work, edge_angstrom=params.margin_angstrom, particle_angstrom=params.max_diameter_angstrom),
        params,
    )


def _choose(
    work: WorkImage, scored: SphereScore, reason: Tensor, allowed: Tensor, params: LogPickParams
) -> MicrographPicks:
    """Take the peaks between the two thresholds."""
    pixel_size = work.grid.pixel_size_angstrom
    chosen = choose_peaks(
        scored.positive,
        scored.negative,
        allowed,
        distance_pixel=params.pick_distance_angstrom / pixel_size,
        lobe_pixel=LOBE * params.max_diameter_angstrom / pixel_size,
        threshold=params.threshold,
        upper_threshold=params.upper_threshold,
    )
    diameters = np.asarray(scored.diameters_angstrom, dtype=np.float64)
    index = scored.diameter_index.cpu().numpy()
    diameter, strong = (diameters[index[one.pixel[:, 1], one.pixel[:, 0]]] for one in (chosen.picks, chosen.too_strong))
    return MicrographPicks(
        position_pixel=work.to_micrograph(chosen.picks.position),
        figure_of_merit=chosen.picks.height,
        diameter_angstrom=diameter,
        threshold=chosen.threshold,
        upper_threshold=chosen.upper_threshold,
        n_above=len(chosen.too_strong),
        reason=marked_specks(reason.cpu().numpy(), chosen.too_strong, strong / 2 / pixel_size, int(Reason.SPECK)),
        mask_pixel_size_angstrom=pixel_size,
        score=scored.positive,
        reduced=work.values,
    )
