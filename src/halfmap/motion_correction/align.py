"""From the frames of a movie to its motion: what is found, what is left out, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.data.image_source import ImageSource
from halfmap.errors import InputError
from halfmap.imaging.deformation import movement
from halfmap.motion_correction.fit import FittedMotion, agreements, fit, search
from halfmap.motion_correction.params import MotionParams
from halfmap.motion_correction.spectra import PatchSpectra, patch_spectra
from halfmap.splines.grids import SplineGrid

_LEAST_LIGHT, _MOST_LIGHT = 0.5, 2.0
_LEAST_AGREEMENT = 0.3
_DEVIATIONS = 5.0
_NO_AGREEMENT = 3.0
_MOST_BAD = 0.5

_MOST_DRIFT = 0.01
"""Motion against the side of a patch beyond which patches follow it: one that stays misses 8 pixels over its side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MovieMotion:
    """How the frames of a movie moved.

    Parameters
    ----------
    whole_pixel : (n, 2), (x, y), by which each frame is moved back; 0 of the first.
    local_x_pixel, local_y_pixel : over (x, y, frame), added to it; 0 in the first frame.
    is_used : (n,), frames that take part.
    agreement : (n,), correlation of a frame's group with the sum of the others.
    reasons : of the frames left out, by their numbers from 0.
    patch_centre : (P, 2), (x, y), 0 to 1, of the patches.
    concern : what speaks against the motion; empty for nothing.
    """

    whole_pixel: NDArray[np.float64]
    local_x_pixel: SplineGrid
    local_y_pixel: SplineGrid
    is_used: NDArray[np.bool_]
    agreement: NDArray[np.float64]
    reasons: tuple[tuple[int, str], ...]
    patch_centre: NDArray[np.float64]
    concern: str = ""

    def series(
        self,
        name: str,
        image_size_pixel: Sequence[int],
        optics: SeriesOptics,
        dose_before_e_per_angstrom2: NDArray[np.float64],
        *,
        movie_name: str = "",
    ) -> FrameSeries:
        """Return the movie as a frame series; image size (x, y), doses (n,)."""
        size = optics.pixel_size_angstrom
        whole = torch.from_numpy(self.whole_pixel * size)
        return FrameSeries(
            name=name,
            image_size_angstrom=(image_size_pixel[0] * size, image_size_pixel[1] * size),
            dose_e_per_angstrom2=dose_before_e_per_angstrom2,
            is_used=self.is_used,
            optics=optics,
            movement_x_angstrom=SplineGrid(values=whole[:, 0].reshape(-1, 1, 1)),
            movement_y_angstrom=SplineGrid(values=whole[:, 1].reshape(-1, 1, 1)),
            local_movement_x_angstrom=SplineGrid(values=self.local_x_pixel.values * size),
            local_movement_y_angstrom=SplineGrid(values=self.local_y_pixel.values * size),
            n_frames_of_movie=len(self.is_used),
            movie_name=movie_name,
        )


def align(source: ImageSource, params: MotionParams) -> MovieMotion:
    """Find the motion of a movie.

    Parameters
    ----------
    source : its frames, corrected for gain and defects; read one by one, once, or twice where they move far.
    params : how.

    Raises
    ------
    InputError
        There are too few frames, patches are too small, or most frames are bad.

    Notes
    -----
    Frames of less than half or more than twice the usual light are left out, and so are groups that do not agree with
    the others: both by name, and the motion at their time follows from that of their neighbours.
    """
    spectra = patch_spectra(source, params)
    reasons = _dark_or_bright(spectra.frame_mean)
    is_used = np.array([not any(frame in reasons for frame in group) for group in spectra.groups])
    _check_enough(is_used, reasons)
    start = search(spectra, is_used, params.max_shift_pixel)
    places = start[:, None].expand(-1, len(spectra.centre), -1)
    agreement = agreements(spectra, places, is_used)
    for group in np.flatnonzero(is_used & _is_apart(agreement, is_used)):
        is_used[group] = False
        for frame in spectra.groups[group]:
            reasons[frame] = f"correlation {agreement[group]:.3f} with the others, against {_median(agreement):.3f}"
    _check_enough(is_used, reasons)
    start = _between(start, is_used)
    if float((start - start[0]).abs().max()) > _MOST_DRIFT * min(spectra.patch_pixel):
        spectra = patch_spectra(source, params, (start - start[0]).numpy())
    fitted = fit(spectra, start, is_used, local=params.patches != (1, 1))
    return _motion(spectra, fitted, reasons)


def totals(series: FrameSeries, early_e_per_angstrom2: float = 4.0) -> tuple[float, float, float]:
    """Return how far the middle of the field moves from frame to frame, added up, in Å: in all, early and late.

    Parameters
    ----------
    series : with motion and doses.
    early_e_per_angstrom2 : dose up to which motion counts as early.

    Notes
    -----
    RELION's columns ``rlnAccumMotionTotal``, ``Early`` and ``Late``; steps of the whole frame. Without doses early and
    late are NaN.
    """
    x, y = series.movement_x_angstrom.values.flatten(), series.movement_y_angstrom.values.flatten()
    steps = torch.hypot(x.diff(), y.diff()).numpy()
    dose = np.asarray(series.dose_e_per_angstrom2)
    if not np.ptp(dose) > 0:
        return float(steps.sum()), math.nan, math.nan
    is_early = dose[1:] < early_e_per_angstrom2
    return float(steps.sum()), float(steps[is_early].sum()), float(steps[~is_early].sum())


def trajectories(series: FrameSeries, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the motion at places, (P, 2) from 0 to 1, in Å, float64, (P, n, 2)."""
    size = torch.tensor(series.image_size_angstrom, dtype=torch.float64)
    where = (torch.from_numpy(places) * size)[:, None].expand(-1, len(series), -1)
    found: NDArray[np.float64] = movement(series, where).numpy()
    return found


def _dark_or_bright(mean: NDArray[np.float64]) -> dict[int, str]:
    middle = float(np.median(mean))
    if not middle > 0:
        raise InputError(f"Frames must hold electrons; got a median frame of mean {middle:g}; look at the movie.")
    share = mean / middle
    return {
        int(frame): f"{share[frame]:.2f} of the usual light"
        for frame in np.flatnonzero((share < _LEAST_LIGHT) | (share > _MOST_LIGHT))
    }


def _is_apart(agreement: NDArray[np.float64], is_used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    some = agreement[is_used]
    spread = 1.4826 * float(np.median(np.abs(some - np.median(some))))
    limit = min(_LEAST_AGREEMENT * _median(some), float(np.median(some)) - _DEVIATIONS * spread)
    return agreement < limit


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


def _check_enough(is_used: NDArray[np.bool_], reasons: dict[int, str]) -> None:
    if is_used.sum() >= max(2, (1 - _MOST_BAD) * len(is_used)):
        return
    first = "; ".join(f"frame {frame + 1}: {reason}" for frame, reason in list(reasons.items())[:3])
    raise InputError(
        f"At least half the frames of a movie must be good; got {int((~is_used).sum())} bad groups of {len(is_used)} "
        f"({first}); leave the movie out."
    )


def _between(shifts: torch.Tensor, is_used: NDArray[np.bool_]) -> torch.Tensor:
    """Return shifts in which those of unused groups lie between their neighbours'."""
    number = np.arange(len(is_used))
    columns = [np.interp(number, number[is_used], shifts[is_used, axis].numpy()) for axis in range(2)]
    return torch.from_numpy(np.stack(columns, axis=-1))


def _motion(spectra: PatchSpectra, fitted: FittedMotion, reasons: dict[int, str]) -> MovieMotion:
    n = len(spectra.frame_mean)
    whole = CubicSpline(spectra.time, fitted.whole, bc_type="natural")(np.arange(n))
    agreement, is_used = np.zeros(n), np.zeros(n, dtype=bool)
    for group, frames in enumerate(spectra.groups):
        agreement[list(frames)] = fitted.agreement[group]
        is_used[list(frames)] = fitted.is_used[group]
    for frame in np.flatnonzero(~is_used):
        reasons.setdefault(int(frame), "in one group with a bad frame")
    # correlations of nothing but noise scatter by one over the root of the number of frequencies
    noise = 1 / np.sqrt(spectra.values.shape[1] * float(spectra.weight.sum()))
    middle = _median(fitted.agreement[fitted.is_used])
    concern = "" if middle > _NO_AGREEMENT * noise else f"frames hardly agree (correlation {middle:.4f})"
    return MovieMotion(
        whole_pixel=whole - whole[0],
        local_x_pixel=fitted.local_x,
        local_y_pixel=fitted.local_y,
        is_used=is_used,
        agreement=agreement,
        reasons=tuple(sorted(reasons.items())),
        patch_centre=spectra.centre,
        concern=concern,
    )
