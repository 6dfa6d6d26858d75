"""The CTF of the tilts of a series: one mean height of the sample, the gradient of the defocus known from the tilt."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.ctf_estimation.estimate import CtfEstimate, estimate
from halfmap.ctf_estimation.fit import Lens
from halfmap.ctf_estimation.params import CtfEstimationParams, check_resolution
from halfmap.ctf_estimation.periodogram import PowerSpectra, power_spectra, windows_of
from halfmap.ctf_estimation.rings import Microscope, rings_of
from halfmap.ctf_estimation.search import defocus_scores
from halfmap.data.image_series import TiltSeries
from halfmap.errors import InputError
from halfmap.imaging.deformation import middle_angstrom, projections

MOST_CHANGE_ANGSTROM = 3_000.0
"""By how much the defocus of a tilt may differ from that of the series: the stage's height between tilts."""

_LEAST_STEP_ANGSTROM = 100.0
_STEEPEST = 10.0
_MAX_ASTIGMATISM_ANGSTROM = 1_500.0

Reader = Callable[[int], Tensor]
"""Reads the image of a tilt: its number → float32, shape (y, x)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiltEstimates:
    """The CTF of a tilt series.

    Parameters
    ----------
    tilts : what each tilt shows by itself, within the limits that the series sets.
    lenses : of each tilt: its own defocus and phase shift, the astigmatism of the series. A tilt without rings has the
        defocus of its neighbours.
    hand_scores : how well all tilts go with the gradient that the metadata state, and with the opposite one: twice the
        log likelihood over no rings at all.
    """

    tilts: tuple[CtfEstimate, ...]
    lenses: tuple[Lens, ...]
    hand_scores: tuple[float, float]


def depth_gradients(series: TiltSeries) -> NDArray[np.float64]:
    """Return by how much the defocus grows along x and y in the image of each tilt of a flat sample, shape (T, 2).

    Raises
    ------
    InputError
        A tilt is steeper than 84°.
    """
    matrices = projections(series).numpy()
    gradients = np.stack([matrix[2, :2] @ np.linalg.inv(matrix[:2, :2]) for matrix in matrices])
    if not (np.abs(gradients) < _STEEPEST).all():
        raise InputError(f"Tilts of {series.name} must be below 84°; got steeper ones; leave them out.")
    return np.asarray(gradients)


def estimate_tilts(
    series: TiltSeries, read: Reader, microscope: Microscope, params: CtfEstimationParams
) -> TiltEstimates:
    """Estimate the CTF of all tilts of a series.

    Parameters
    ----------
    series : its geometry; tilts that are not used are estimated, too, but tell nothing of the others.
    read : gives the images.
    microscope, params : of the estimation; known phase shifts are those of the series.

    Raises
    ------
    InputError
        The resolution limits lie beyond the pixels, or images are smaller than a window.

    Notes
    -----
    Windows of an image are put together by how far the tilt raises them; their spectra keep apart, and are fitted with
    one mean defocus. First all tilts are searched for the defocus of the series: each adds the best of its scores
    within 1,500 Å. Then each tilt is estimated within 3,000 Å of that. The astigmatism is the median over the tilts.
    """
    check_resolution(series.optics.pixel_size_angstrom, params)
    gradients = depth_gradients(series)
    middles = middle_angstrom(series).numpy()
    phases = series.phase_shift_degrees(_places(series)).numpy()

    def spectra_of(tilt: int) -> tuple[PowerSpectra, NDArray[np.float64]]:
        return tilt_spectra(
            read(tilt),
            gradients[tilt],
            middles[tilt],
            pixel_size_angstrom=series.optics.pixel_size_angstrom,
            box_pixel=params.box_pixel,
        )

    totals: list[NDArray[np.float64] | float] = [0.0, 0.0]
    for tilt in np.flatnonzero(series.is_used).tolist():
        spectra, offsets = spectra_of(tilt)
        for hand, sign in enumerate((1.0, -1.0)):
            defocus, score = _scores(spectra, sign * offsets, microscope, params, phases[tilt])
            totals[hand] = totals[hand] + score
    within = (defocus >= params.min_defocus_angstrom) & (defocus <= params.max_defocus_angstrom)
    stated = np.where(within, totals[0], -math.inf)
    joint = float(defocus[int(stated.argmax())])
    narrowed = replace(
        params,
        min_defocus_angstrom=max(joint - MOST_CHANGE_ANGSTROM, 0.2 * joint),
        max_defocus_angstrom=joint + MOST_CHANGE_ANGSTROM,
        max_astigmatism_angstrom=min(params.max_astigmatism_angstrom, _MAX_ASTIGMATISM_ANGSTROM),
    )
    found = []
    for tilt in range(len(series)):
        spectra, offsets = spectra_of(tilt)
        found.append(estimate(spectra, microscope, narrowed, phase_shift_degrees=phases[tilt], offset_angstrom=offsets))
    hand_scores = (float(np.max(totals[0])), float(np.max(totals[1])))
    return TiltEstimates(tilts=tuple(found), lenses=_lenses(found, joint), hand_scores=hand_scores)


def tilt_spectra(
    image: Tensor,
    gradient: NDArray[np.float64],
    middle_angstrom: NDArray[np.float64],
    *,
    pixel_size_angstrom: float,
    box_pixel: int,
) -> tuple[PowerSpectra, NDArray[np.float64]]:
    """Return the spectra of strips of a tilted image along its axis, and what each adds to the defocus, in Å.

    Parameters
    ----------
    image : float32, shape (y, x).
    gradient : of the defocus along x and y.
    middle_angstrom : (x, y) of where the sample has its mean height.
    pixel_size_angstrom : of the image.
    box_pixel : side of the spectra.
    """
    windows = windows_of((image.shape[0], image.shape[1]), pixel_size_angstrom, box_pixel)
    rise = (windows.centres_pixel * pixel_size_angstrom - middle_angstrom) @ gradient
    hop = windows.side_pixel / 2 * pixel_size_angstrom
    step = max(_LEAST_STEP_ANGSTROM, hop * float(np.hypot(*gradient)))
    _, groups = np.unique(np.rint(rise / step), return_inverse=True)
    offsets = np.bincount(groups, weights=rise) / np.bincount(groups)
    return power_spectra(image, windows, pixel_size_angstrom=pixel_size_angstrom, groups=groups), offsets


def _places(series: TiltSeries) -> Tensor:
    middle = torch.full((len(series), 2), 0.5, dtype=torch.float64)
    return torch.cat([middle, series.image_time[:, None]], dim=-1)


def _scores(
    spectra: PowerSpectra,
    offsets: NDArray[np.float64],
    microscope: Microscope,
    params: CtfEstimationParams,
    phase_shift_degrees: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return defoci, the same for all tilts, and the best score near each."""
    rings = rings_of(
        spectra,
        min_resolution_angstrom=params.min_resolution_angstrom,
        max_resolution_angstrom=params.max_resolution_angstrom,
        offset_angstrom=offsets,
    )
    scores = defocus_scores(rings, microscope, params, phase_shift_degrees=phase_shift_degrees)
    total = scores.gain.sum(dim=1).amax(dim=0)
    reach = math.ceil(MOST_CHANGE_ANGSTROM / 2 / scores.step_angstrom)
    best = torch.nn.functional.max_pool1d(total[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    grid = np.arange(params.min_defocus_angstrom, params.max_defocus_angstrom, scores.step_angstrom)
    return grid, np.interp(grid, scores.defocus_angstrom.numpy(), best.numpy())


def _lenses(found: Sequence[CtfEstimate], joint_angstrom: float) -> tuple[Lens, ...]:
    good = np.array([not one.failure for one in found])
    if not good.any():
        return tuple(replace(one.lens, defocus_angstrom=joint_angstrom) for one in found)
    defocus = np.array([one.lens.defocus_angstrom for one in found])
    at = np.arange(len(found))
    filled = np.where(good, defocus, np.interp(at, at[good], defocus[good]))
    x, y = (
        float(np.median([getattr(one.lens, f"astigmatism_{axis}_angstrom") for one in found if not one.failure]))
        for axis in "xy"
    )
    return tuple(
        replace(one.lens, defocus_angstrom=float(value), astigmatism_x_angstrom=x, astigmatism_y_angstrom=y)
        for one, value in zip(found, filled, strict=True)
    )
