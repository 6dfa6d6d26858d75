"""Peaks of a score, and which of them may stand beside each other."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels.greedy_suppression import keep_apart


@dataclass(frozen=True, kw_only=True, eq=False)
class Peaks:
    """Local maxima of a score, the highest first.

    Parameters
    ----------
    position : float64, shape (n, 2): (x, y) in pixels of the score, sub-pixel.
    pixel : int64, shape (n, 2): (x, y) of the pixel that is the maximum.
    height : float64, shape (n,): the score there.
    """

    position: np.ndarray
    pixel: np.ndarray
    height: np.ndarray

    def __len__(self) -> int:
        return len(self.height)

    def take(self, indices: np.ndarray) -> "Peaks":
        """Return the peaks chosen by index or truth value."""
        return Peaks(position=self.position[indices], pixel=self.pixel[indices], height=self.height[indices])


def find_peaks(score: Tensor, allowed: Tensor) -> Peaks:
    """Find the positive maxima over eight neighbours, refined by a parabola along each axis.

    Parameters
    ----------
    score : float32, shape (y, x).
    allowed : bool, shape (y, x): where a peak may lie.
    """
    highest = torch.nn.functional.max_pool2d(score[None, None], 3, stride=1, padding=1)[0, 0]
    pixel = ((score >= highest) & allowed & (score > 0)).nonzero().cpu().numpy()[:, ::-1]
    values = score.to(torch.float64).cpu().numpy()
    height = values[pixel[:, 1], pixel[:, 0]]
    order = np.lexsort((pixel[:, 0], pixel[:, 1], -height))
    pixel = np.ascontiguousarray(pixel[order])
    position = pixel + np.stack([_parabola(values, pixel, axis) for axis in (1, 0)], axis=-1)
    return Peaks(position=position, pixel=pixel, height=height[order])


def apart(peaks: Peaks, distance_pixel: float) -> Peaks:
    """Keep, from the highest down, the peaks that lie further than a distance from all kept before."""
    return peaks.take(keep_apart(peaks.position, np.ones(len(peaks)), distance_pixel, distance_pixel))


def compete(positive: Peaks, negative: Peaks, *, distance_pixel: float, lobe_pixel: float) -> np.ndarray:
    """Let peaks of a score and of its mirror image suppress each other, the higher the lower.

    The negative lobes around and between strong particles go with these, while noise leaves as many peaks of one
    sign as of the other.

    Parameters
    ----------
    positive, negative : peaks of the score, and of the score of the inverted micrograph.
    distance_pixel : reach of a peak among those of its own sign.
    lobe_pixel : reach of a peak among those of the other sign.

    Returns
    -------
    float64: heights of the peaks left, with their sign, by falling magnitude.
    """
    position = np.concatenate([positive.position, negative.position])
    height = np.concatenate([positive.height, negative.height])
    sign = np.repeat([1.0, -1.0], [len(positive), len(negative)])
    order = np.lexsort((position[:, 0], position[:, 1], -sign, -height))
    position, height, sign = position[order], height[order], sign[order]
    kept = keep_apart(position, sign, distance_pixel, lobe_pixel)
    return np.asarray((height * sign)[kept])


def _parabola(values: np.ndarray, pixel: np.ndarray, axis: int) -> np.ndarray:
    """Offset of the vertex through three neighbours along one axis; 0 at the frame."""
    side = values.shape[axis]
    x, y = pixel[:, 0], pixel[:, 1]
    here = y if axis == 0 else x
    before, after = np.maximum(here - 1, 0), np.minimum(here + 1, side - 1)
    low = values[before, x] if axis == 0 else values[y, before]
    high = values[after, x] if axis == 0 else values[y, after]
    middle = values[y, x]
    curvature = low - 2 * middle + high
    inner = (here > 0) & (here < side - 1) & (np.abs(curvature) > 1e-12)
    offset = np.where(inner, 0.5 * (low - high) / np.where(inner, curvature, 1.0), 0.0)
    return np.clip(offset, -0.5, 0.5)
