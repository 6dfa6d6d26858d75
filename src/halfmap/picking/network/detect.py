"""Picking with a detector."""

import numpy as np
from torch import Tensor

from halfmap.inference.peaks import Peaks, apart, find_peaks
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network.calibration import to_own_share
from halfmap.picking.network.model import DetectorNetwork, score
from halfmap.picking.network.params import NetworkPickParams
from halfmap.picking.network.preparation import DIAMETER_PIXEL, prepare


def pick(
    micrograph: Tensor | np.ndarray,
    *,
    pixel_size_angstrom: float,
    network: DetectorNetwork,
    params: NetworkPickParams,
) -> MicrographPicks:
    """Pick particles in one micrograph.

    The figure of merit is the calibrated log-odds that a particle lies there: 0 is as likely as not. It counts how many
    of this micrograph's peaks look like particles: where there are few, each is less likely to be one.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark, unless ``white_particles``.
    pixel_size_angstrom : of the micrograph.
    network : the detector, on the micrograph's device.
    params : the settings.

    Raises
    ------
    ShapeError
        The array is not an image.
    InputError
        Pixels are not finite or all alike, or the particle is too small or too large for the micrograph.
    """
    prepared = prepare(
        micrograph,
        pixel_size_angstrom=pixel_size_angstrom,
        diameter_angstrom=params.diameter_angstrom,
        white_particles=params.white_particles,
    )
    odds = network.slope * score(network, prepared.values) + network.shift
    pixel = prepared.work.grid.pixel_size_angstrom
    allowed = prepared.pickable(params.margin_angstrom)
    odds += to_own_share(candidates(odds, allowed).height, float(network.share))
    found = peaks_above(odds, allowed, params.threshold, distance_pixel=params.pick_distance_angstrom / pixel)
    return MicrographPicks(
        position_pixel=prepared.work.to_micrograph(found.position),
        figure_of_merit=found.height,
        diameter_angstrom=np.full(len(found), params.diameter_angstrom),
        threshold=params.threshold,
        reason=prepared.reason.cpu().numpy(),
        mask_pixel_size_angstrom=pixel,
        score=odds,
        reduced=prepared.work.values,
    )


def candidates(score: Tensor, allowed: Tensor) -> Peaks:
    """Return all peaks that are half a diameter from any higher one: what particles are told from."""
    return peaks_above(score, allowed, float(score.min()), distance_pixel=0.5 * DIAMETER_PIXEL)


def peaks_above(score: Tensor, allowed: Tensor, least: float, *, distance_pixel: float) -> Peaks:
    """Return the peaks of at least that score, none nearer than a distance to a higher one."""
    peaks = find_peaks(score - least, allowed)
    raised = Peaks(position=peaks.position, pixel=peaks.pixel, height=peaks.height + least)
    return apart(raised, distance_pixel)
