"""A second look at areas that were left out: what is full of particles, or is most of them, is specimen after all."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from halfmap.inference.peaks import Peaks, compete, find_peaks
from halfmap.picking.masks import Reason
from halfmap.picking.params import LogPickParams
from halfmap.picking.sphere_score import score_spheres
from halfmap.picking.threshold import mirrored_threshold

CROWD = 20
"""Discs of the longest diameter, apart from a margin of half of it, from which on an area may hold a crowd: and least
number of particles of a crowd."""

CROWDED = 0.1
"""Particles for each disc that fits into an area, below which it is no crowd but something with a few spots on it."""

SINGLE = 3.0
"""Discs of the longest diameter up to which an area, with its margin, may be a single particle."""


def rival_peaks(
    score: Tensor, inverted: Tensor, allowed: Tensor, *, distance_pixel: float, lobe_pixel: float
) -> tuple[Peaks, np.ndarray]:
    """Find the peaks of a score, and let them compete with those of its mirror image.

    Parameters
    ----------
    score, inverted : float32, shape (y, x): of the micrograph, and of its inverted copy.
    allowed : bool, shape (y, x): where a peak may lie.
    distance_pixel, lobe_pixel : reach of a peak among those of its own sign, and of the other.

    Returns
    -------
    positive : all peaks of the score.
    rivals : signed heights of the peaks of both that are left.
    """
    positive = find_peaks(score, allowed)
    rivals = compete(
        positive,
        find_peaks(inverted, allowed),
        distance_pixel=distance_pixel,
        lobe_pixel=lobe_pixel,
    )
    return positive, rivals


def without_crowds(values: Tensor, reason: Tensor, *, pixel_size_angstrom: float, params: LogPickParams) -> Tensor:
    """Give back large areas in which particles stand out from their own background.

    Where particles crowd in a part of the micrograph, its mean and texture differ from the rest as those of carbon do;
    but carbon makes as many bright spots as dark ones.

    Parameters
    ----------
    values : float32, shape (y, x), particles bright.
    reason : uint8, shape (y, x): a `Reason` for each pixel.
    pixel_size_angstrom : of both.
    params : the settings.

    Returns
    -------
    uint8, shape (y, x); ``reason`` itself where nothing is given back.
    """
    labels, sizes = _foreign_parts(reason)
    longest = params.max_diameter_angstrom / pixel_size_angstrom
    distance = params.pick_distance_angstrom / pixel_size_angstrom
    disc = np.pi / 4 * longest**2
    given_back = np.zeros(labels.shape, dtype=bool)
    for label in np.flatnonzero(sizes >= CROWD * disc):
        inner = ndimage.distance_transform_edt(np.pad(labels == label, 1))[1:-1, 1:-1] > longest / 2
        if inner.sum() < CROWD * disc:
            continue
        part = torch.from_numpy(labels == label).to(values.device)
        scored = score_spheres(
            values,
            part,
            pixel_size_angstrom=pixel_size_angstrom,
            shortest_angstrom=params.min_diameter_angstrom,
            longest_angstrom=params.max_diameter_angstrom,
        )
        within = torch.from_numpy(inner).to(values.device)
        # equal reach, lest the lobes of a few dark things hide what the grain of carbon makes
        _, rivals = rival_peaks(scored.positive, scored.negative, within, distance_pixel=distance, lobe_pixel=distance)
        n_taken = int((rivals >= mirrored_threshold(rivals)).sum())
        if n_taken >= max(CROWD, CROWDED * inner.sum() / disc):
            given_back |= labels == label
    return _with_usable(reason, given_back)


def without_singles(reason: Tensor, *, n_pixels: float, n_picks: int) -> Tensor:
    """Give back areas of a particle's size where there are more of them than picks: they are the particles.

    Parameters
    ----------
    reason : uint8, shape (y, x): a `Reason` for each pixel.
    n_pixels : pixels of a disc of the longest diameter.
    n_picks : picks outside of all areas.

    Returns
    -------
    uint8, shape (y, x); ``reason`` itself where nothing is given back.
    """
    labels, sizes = _foreign_parts(reason)
    single = (sizes > 0) & (sizes <= SINGLE * n_pixels)
    return _with_usable(reason, single[labels]) if single.sum() > n_picks else reason


def _foreign_parts(reason: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Label the connected parts of what is foreign, the frame and blanked parts apart; sizes by label, none for 0."""
    known = reason.cpu().numpy()
    labels, n = ndimage.label((known == int(Reason.THICKNESS)) | (known == int(Reason.TEXTURE)))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    return labels, sizes


def _with_usable(reason: Tensor, area: np.ndarray) -> Tensor:
    if not area.any():
        return reason
    return torch.where(torch.from_numpy(area).to(reason.device), int(Reason.USABLE), reason).to(torch.uint8)
