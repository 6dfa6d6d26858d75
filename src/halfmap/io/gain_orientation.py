"""Whether a gain reference lies on the frames as it should, told by their raw sum."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from halfmap.data.image_source import Float32Array
from halfmap.errors import InconsistentDataError
from halfmap.io.detector import Detector

_SMOOTH_PIXEL = 9
_CLIPPED_DEVIATIONS = 4.0
_LEAST_DEVIATIONS = 8.0
"""How many standard deviations of chance a better orientation must lie above the given one."""


@dataclass(frozen=True, kw_only=True)
class GainFit:
    """How well the reciprocal of a gain agrees with what the pixels counted.

    Parameters
    ----------
    given : correlation in the given orientation.
    best : the largest over all orientations.
    best_detector : with the flags of that orientation.
    chance : standard deviation of correlations by chance.
    """

    given: float
    best: float
    best_detector: Detector
    chance: float

    @property
    def is_turned(self) -> bool:
        """Whether another orientation agrees, and the given one does not as well."""
        return self.best - self.given > _LEAST_DEVIATIONS * self.chance and self.best > 2 * abs(self.given)

    @property
    def is_reciprocal(self) -> bool:
        """Whether pixels of a high gain are those that counted more, so that frames were to be divided by it."""
        return self.given < -_LEAST_DEVIATIONS * self.chance and -self.given > self.best

    def said(self) -> str:
        """Return what is wrong and what to do; empty for nothing."""
        if self.is_turned:
            detector = self.best_detector
            flags = [
                flag if value else f"--no-{flag.removeprefix('--')}"
                for flag, value in (
                    ("--gain-flip-x", detector.gain_flip_x),
                    ("--gain-flip-y", detector.gain_flip_y),
                    ("--gain-transpose", detector.gain_transpose),
                )
            ]
            return (
                f"the gain lies the wrong way round: turned by {' '.join(flags)} it agrees with the raw frames "
                f"(correlation {self.best:.3f}), as given it does not ({self.given:.3f})"
            )
        if self.is_reciprocal:
            return (
                f"the gain is the reciprocal of what frames are multiplied by (correlation {self.given:.3f} with the "
                "raw frames, which must be positive)"
            )
        return ""


def fit_gain(raw_total: Float32Array, detector: Detector, *, is_eer: bool) -> GainFit | None:
    """Compare a gain in all orientations that fit the frames.

    Parameters
    ----------
    raw_total : sum of the raw frames, shape (y, x).
    detector : with a gain; None is returned without.
    is_eer : whether the frames are of an EER movie.

    Notes
    -----
    A pixel counts less the higher the gain that it needs. Both images are freed of what is smooth over nine pixels,
    which is specimen and light, and compared between four deviations. The noise of pixels tells orientations apart.
    """
    if detector.gain_path is None:
        return None
    shape = (raw_total.shape[0], raw_total.shape[1])
    seen = _rough(raw_total)
    fits: list[tuple[float, Detector]] = []
    for transpose in (False, True):
        turned = replace(detector, gain_flip_x=False, gain_flip_y=False, gain_transpose=transpose, defects_path=None)
        try:
            gain = turned.correction(shape, is_eer=is_eer).gain
        except InconsistentDataError:
            continue
        assert gain is not None
        expected = _rough(1 / gain)
        size = float(np.linalg.norm(seen) * np.linalg.norm(expected))
        for flip_x, flip_y in itertools.product((False, True), repeat=2):
            turned = replace(turned, gain_flip_x=flip_x, gain_flip_y=flip_y)
            product = float(np.vdot(seen, _flipped(expected, turned)))
            fits.append((product / size if size > 0 else 0.0, turned))
    given = next(
        value
        for value, turned in fits
        if (turned.gain_flip_x, turned.gain_flip_y, turned.gain_transpose)
        == (detector.gain_flip_x, detector.gain_flip_y, detector.gain_transpose)
    )
    best, best_detector = max(fits, key=lambda fit: fit[0])
    return GainFit(given=given, best=best, best_detector=best_detector, chance=float(1 / np.sqrt(raw_total.size)))


def _flipped(image: Float32Array, detector: Detector) -> Float32Array:
    """Return a transposed image as flips before the transposition would have left it."""
    along_y, along_x = (
        (detector.gain_flip_x, detector.gain_flip_y)
        if detector.gain_transpose
        else (detector.gain_flip_y, detector.gain_flip_x)
    )
    return np.ascontiguousarray(image[:: -1 if along_y else 1, :: -1 if along_x else 1])


def _rough(image: NDArray) -> NDArray[np.float32]:
    values = np.asarray(image, dtype=np.float32)
    rough = values - uniform_filter(values, _SMOOTH_PIXEL)
    limit = _CLIPPED_DEVIATIONS * 1.4826 * float(np.median(np.abs(rough)))
    clipped: NDArray[np.float32] = np.clip(rough, -limit, limit) if limit > 0 else rough
    return clipped - clipped.mean(dtype=np.float64).astype(np.float32)
