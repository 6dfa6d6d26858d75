"""What a page shows of any stack of particle images: a montage, the mean of all, the background."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from halfmap.extraction.normalisation import background_mask, background_statistics
from halfmap.io.mrc import StackSource
from halfmap.report.blocks import Axis, Gallery, Histogram, Mark, Section

MONTAGE_IMAGES = 96
BACKGROUND_DIAMETER = 0.75
"""Share of the box outside whose circle pixels count as background where no circle is given, as in extraction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StackStatistics:
    """Sum of images, float64, shape (side, side), and the mean and deviation of each one's background, shape (n,)."""

    total: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def read_alike(root: Path, names: np.ndarray) -> np.ndarray:
    """Read images of one size in pixels, whatever their pixel sizes: those of several optics groups lie side by side.

    Returns
    -------
    float32, shape (n, side, side)
    """
    return StackSource(names, root, StackSource(names[:1], root).grid).read(np.arange(len(names)))


def chunks(names: np.ndarray, radius_pixel: np.ndarray, images_per_task: int) -> list[tuple[float, np.ndarray]]:
    """Divide images into the tasks of `measure`.

    Parameters
    ----------
    names : image names, shape (n,).
    radius_pixel : of each one's background circle, shape (n,): optics groups may differ in it.
    images_per_task : at most so many names in a task.
    """
    made = []
    for radius in np.unique(radius_pixel):
        mine = names[radius_pixel == radius]
        made += [(float(radius), mine[i : i + images_per_task]) for i in range(0, len(mine), images_per_task)]
    return made


def measure(root: Path, task: tuple[float, np.ndarray]) -> StackStatistics:
    """Measure some images of stacks.

    Parameters
    ----------
    root : folder to which the names are relative.
    task : radius of the background circle in pixels, and image names, ``000001@stack.mrcs``.
    """
    radius_pixel, names = task
    images = torch.from_numpy(read_alike(root, names))
    background = background_statistics(images, background_mask(images.shape[-1], radius_pixel))
    return StackStatistics(
        total=images.sum(dim=0, dtype=torch.float64).numpy(),
        mean=background.mean.numpy(),
        deviation=background.deviation.numpy(),
    )


def pictures(root: Path, names: np.ndarray, total: np.ndarray) -> Section:
    """Return the montage of evenly spaced images and the mean of all."""
    chosen = names[np.unique(np.linspace(0, len(names) - 1, MONTAGE_IMAGES).astype(np.int64))]
    images = read_alike(root, chosen)
    return Section(
        title="Images",
        blocks=(
            Gallery.of(
                total[np.newaxis] / len(names),
                title=f"Mean of all {len(names)} unaligned images",
                caption="A ring or disc in the middle: the picks are centred on particles. Flat: they are not.",
                tile_pixel=260,
            ),
            Gallery.montage(
                images, columns=12, title=f"{len(chosen)} images, evenly spaced", caption="Contrast of each on its own."
            ),
        ),
    )


def background(mean: np.ndarray, deviation: np.ndarray) -> Section:
    """Return histograms of the backgrounds' mean and standard deviation."""
    return Section(
        title="Background",
        intro="Outside the background circle, from the images as written. Refinement expects mean 0 and deviation 1.",
        blocks=(
            _around(mean, 0.0, "mean"),
            _around(deviation, 1.0, "standard deviation"),
        ),
    )


def _around(values: np.ndarray, expected: float, what: str) -> Histogram:
    """Count values on an axis no finer than matters: five hundredths either way."""
    limits = (min(expected - 0.05, float(values.min())), max(expected + 0.05, float(values.max())))
    axis = Axis(label=f"background {what}", limits=limits)
    return Histogram.of(values, title=what.capitalize(), x=axis, marks=(Mark(value=expected),), bins=40)
