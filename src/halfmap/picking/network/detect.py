"""Picking with a detector."""

import numpy as np
import torch
from torch import Tensor

from halfmap.inference.peaks import Peaks, apart, find_peaks
from halfmap.picking.masks import Reason
from halfmap.picking.micrograph_picks import MicrographPicks
from halfmap.picking.network.model import DetectorNetwork, score
from halfmap.picking.network.params import NetworkPickParams
from halfmap.picking.network.preparation import PreparedMicrograph, prepare


def pick(
    micrograph: Tensor | np.ndarray,
    *,
    pixel_size_angstrom: float,
    network: DetectorNetwork,
    params: NetworkPickParams,
) -> MicrographPicks:
    """Pick particles in one micrograph.

    The figure of merit is the calibrated log-odds that a particle lies there: 0 is as likely as not.

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
    allowed = prepared.usable & _inside(prepared, params.margin_angstrom)
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


def peaks_above(score: Tensor, allowed: Tensor, least: float, *, distance_pixel: float) -> Peaks:
    """Return the peaks of at least that score, none nearer than a distance to a higher one."""
    peaks = find_peaks(score - least, allowed)
    raised = Peaks(position=peaks.position, pixel=peaks.pixel, height=peaks.height + least)
    return apart(raised, distance_pixel)


def _inside(prepared: PreparedMicrograph, margin_angstrom: float) -> Tensor:
    """Work pixels at least that far from the edge of the micrograph, and from its replicated frame."""
    margin = margin_angstrom / prepared.work.grid.pixel_size_angstrom
    frame = prepared.reason == int(Reason.FRAME)
    lines = []
    for axis in (0, 1):
        side = frame.shape[axis]
        recorded = (~frame.all(dim=1 - axis)).nonzero()[:, 0].cpu()
        first, last = (int(recorded[0]), int(recorded[-1])) if len(recorded) else (0, side - 1)
        centre = torch.arange(side, device=frame.device)
        lines.append((centre >= first + margin) & (centre <= last - margin))
    return lines[0][:, None] & lines[1]
