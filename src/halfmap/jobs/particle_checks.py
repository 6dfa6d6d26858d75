"""Particle images looked at once: which are bad, and what is odd about the stack."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_source import Float32Array
from halfmap.extraction.normalisation import CONSTANT_BELOW, background_mask
from halfmap.io.mrc_values import finite_or_reason

LARGEST_MEAN = 0.5
"""Background mean, in background deviations, up to which a stack counts as normalised (RELION's value)."""

DEVIATIONS = (0.5, 2.0)
"""Background deviations between which a stack counts as normalised (RELION's values)."""

DISC_FRACTIONS = (0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Radii, as shares of the mask's, of the discs in which particles are compared with what is around them."""

DARK_STANDARD_ERRORS = 5.0
OUTLIER_DEVIATIONS = 10.0
_LEAST_IMAGES = 20  # fewer have no reliable standard error

_MEASURED_AT_ONCE = 2**18  # few enough values for the cache
_ROUNDING = 1e-2  # share of the whole deviation below which float32 sums cannot tell the background's


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageChecks:
    """What was found in each image; float64, shape (n,), NaN where the image is bad.

    Parameters
    ----------
    problem : text: why the image cannot be used, empty where it can.
    mean, deviation : of all pixels.
    background_mean, background_deviation : of the pixels outside the mask.
    contrast : shape (n, len(DISC_FRACTIONS)): mean within each of some discs minus that of all the rest, in background
        deviations.
    """

    problem: NDArray[np.object_]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    background_mean: NDArray[np.float64]
    background_deviation: NDArray[np.float64]
    contrast: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.problem)

    def take(self, rows: NDArray[Any]) -> "ImageChecks":
        """Return the checks of these images."""
        return ImageChecks(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: NDArray[Any] | slice, others: "ImageChecks") -> None:
        """Replace the checks of some images."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(others, field.name)

    @classmethod
    def concatenate(cls, parts: Sequence["ImageChecks"]) -> "ImageChecks":
        """Return the checks of several parts, one after the other."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})

    @classmethod
    def unusable(cls, problems: Sequence[str]) -> "ImageChecks":
        """Return the checks of images that cannot be used, one for each reason."""
        names = ("mean", "deviation", "background_mean", "background_deviation")
        return cls(
            problem=np.array(problems, dtype=object),
            contrast=np.full((len(problems), len(DISC_FRACTIONS)), np.nan),
            **{name: np.full(len(problems), np.nan) for name in names},
        )


def check_images(images: Float32Array, mask_radius_pixel: float) -> ImageChecks:
    """Look at images.

    Parameters
    ----------
    images : shape (n, side, side).
    mask_radius_pixel : radius of the circle about the centre voxel outside which background lies.

    Notes
    -----
    Sums over an image are in float32 about its mean, which is exact to 1e-6 of the deviation; images in which that
    may not be enough (constant ones, backgrounds far quieter than the particle) are measured again in float64.
    """
    n, n_pixels = len(images), images[0].size
    regions = _regions(images.shape[-1], mask_radius_pixel)
    weights = regions.T.astype(np.float32)
    counts = regions.sum(axis=1).astype(np.float64)
    at_once = max(1, _MEASURED_AT_ONCE // n_pixels)
    sums = np.empty((n, len(regions)))
    squares = np.empty((n, 2))
    rough = np.empty(n, dtype=np.float32)
    with np.errstate(all="ignore"):  # what is not finite is found by its sums
        for start in range(0, n, at_once):
            part = slice(start, start + at_once)
            flat = images[part].reshape(-1, n_pixels)
            rough[part] = flat.mean(axis=1)
            centred = flat - rough[part, np.newaxis]
            sums[part] = centred @ weights
            squares[part] = np.square(centred) @ weights[:, :2]
        mean, deviation, background_mean, background_deviation, contrast = _numbers(sums, squares, counts)
        # No comparison with NaN is true: images with NaN, infinities or values whose squares overflow are among these.
        suspicious = ~((deviation > 1e-4 * np.abs(rough)) & (background_deviation > _ROUNDING * deviation))
    checks = ImageChecks(
        problem=np.full(n, "", dtype=object),
        mean=mean + rough,
        deviation=deviation,
        background_mean=background_mean + rough,
        background_deviation=background_deviation,
        contrast=contrast,
    )
    for row in np.flatnonzero(suspicious).tolist():
        checks.put(slice(row, row + 1), _checked_exactly(images[row], regions, counts))
    return checks


def _regions(side: int, mask_radius_pixel: float) -> NDArray[np.bool_]:
    """Return which pixels belong to the whole image, its background and each disc, shape (regions, pixels)."""
    discs = [~background_mask(side, fraction * mask_radius_pixel) for fraction in DISC_FRACTIONS]
    whole = np.ones((side, side), dtype=bool)
    return np.stack([whole, ~discs[-1].numpy(), *(disc.numpy() for disc in discs)]).reshape(2 + len(discs), -1)


def _numbers(
    sums: NDArray[np.float64], squares: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Return mean and deviation of images and of their backgrounds, and their contrasts, from sums over regions."""
    means = sums / counts
    deviations = np.sqrt(np.maximum(squares / counts[:2] - means[:, :2] ** 2, 0))
    rest = (sums[:, :1] - sums[:, 2:]) / (counts[0] - counts[2:])
    contrast = (means[:, 2:] - rest) / deviations[:, 1:]
    return means[:, 0], deviations[:, 0], means[:, 1], deviations[:, 1], contrast


def _checked_exactly(image: Float32Array, regions: NDArray[np.bool_], counts: NDArray[np.float64]) -> ImageChecks:
    """Return the checks of one image, in float64."""
    if (reason := finite_or_reason(image)) is not None:
        return ImageChecks.unusable([reason])
    values = image.ravel().astype(np.float64)
    if values.min() == values.max():
        return ImageChecks.unusable([f"all its values are {values[0]:g}"])
    outside = values[regions[1]]
    if outside.std() < max(CONSTANT_BELOW, 1e-7 * values.std()):
        return ImageChecks.unusable([f"its background, outside the mask, is constant ({outside[0]:g}): is it masked?"])
    level = outside.mean()
    centred = values - level
    sums = (regions @ centred)[np.newaxis]
    squares = (regions[:2] @ np.square(centred))[np.newaxis]
    mean, deviation, background_mean, background_deviation, contrast = _numbers(sums, squares, counts)
    return ImageChecks(
        problem=np.array([""], dtype=object),
        mean=mean + level,
        deviation=deviation,
        background_mean=background_mean + level,
        background_deviation=background_deviation,
        contrast=contrast,
    )


def stack_warnings(checks: ImageChecks, optics_group: NDArray[np.int64], mask_diameter_angstrom: float) -> list[str]:
    """Return what is odd about the usable images of a stack, a sentence each.

    Parameters
    ----------
    checks : of the particles that are used, at least one.
    optics_group : of the same, shape (n,).
    mask_diameter_angstrom : outside which the background lies.
    """
    warnings = []
    numbers = np.unique(optics_group).tolist()
    for number in numbers:
        mine = checks.take(optics_group == number)
        whose = "the particle images" if len(numbers) == 1 else f"the images of optics group {number}"
        warnings += _normalisation(mine, whose, mask_diameter_angstrom)
        warnings += _contrast(mine, whose)
    return warnings + _outliers(checks, optics_group)


def _normalisation(checks: ImageChecks, whose: str, mask_diameter_angstrom: float) -> list[str]:
    mean, deviation = float(np.median(checks.background_mean)), float(np.median(checks.background_deviation))
    if abs(mean) <= LARGEST_MEAN * deviation and DEVIATIONS[0] <= deviation <= DEVIATIONS[1]:
        return []
    return [
        f"The background of {whose} should have mean 0 and deviation 1; got mean {mean:.4g} and deviation "
        f"{deviation:.4g} (medians of {len(checks)} images, outside {mask_diameter_angstrom:g} Å); each image is "
        "normalised by its own background as it is read: nothing need be done, but `halfmap extract` writes such "
        "images from the start."
    ]


def _contrast(checks: ImageChecks, whose: str) -> list[str]:
    """Tell whether particles are dark.

    Notes
    -----
    A mean over the mask does not tell: nearly all the power of an image's lowest frequencies is lost to the CTF, so the
    dark fringe around a bright particle weighs as much as the particle (apoferritin at 1.5 µm: −0.02 ± 0.002 deviations
    in a mask of 170 Å, but 0.26 in its inner 110 Å). So that disc counts whose contrast is surest.
    """
    if len(checks) < _LEAST_IMAGES:
        return []
    mean = checks.contrast.mean(axis=0)
    error = checks.contrast.std(axis=0, ddof=1) / np.sqrt(len(checks))
    surest = int(np.argmax(np.abs(mean) / error))
    if not mean[surest] < -DARK_STANDARD_ERRORS * error[surest]:
        return []
    return [
        f"Particles in {whose} should be brighter than what is around them; got {mean[surest]:.2g} ± "
        f"{error[surest]:.1g} background deviations (mean of {len(checks)} images, within {DISC_FRACTIONS[surest]:g} "
        "of the mask's radius): they seem to be dark; extract them again with inverted contrast if class averages are "
        "dark too."
    ]


def _outliers(checks: ImageChecks, optics_group: NDArray[np.int64]) -> list[str]:
    far = np.zeros(len(checks), dtype=bool)
    for number in np.unique(optics_group).tolist():
        mine = optics_group == number
        for values in (checks.mean[mine], checks.deviation[mine]):
            distance = np.abs(values - np.median(values))
            # 1.4826: from the median distance to the deviation of a normal distribution.
            far[mine] |= distance > OUTLIER_DEVIATIONS * max(1.4826 * float(np.median(distance)), 1e-6)
    if not far.any():
        return []
    return [
        f"All images should have much the same mean and deviation; got {int(far.sum())} of {len(far)} more than "
        f"{OUTLIER_DEVIATIONS:g} robust deviations away, such as gold, ice or carbon; they are used: `halfmap select "
        "statistics` removes them."
    ]
