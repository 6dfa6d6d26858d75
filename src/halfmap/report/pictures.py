"""`Picture`: grey values made visible, encoded once and small."""

import base64
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from halfmap.errors import ShapeError

ByteImage = NDArray[np.uint8]

_DISPLAY_SMOOTHING_PIXEL = 0.8
_TINT = (214, 90, 60)
_TINT_SHARE = 0.35
_BACKGROUND_SIDE = 96
_SAMPLED_PIXELS = 10_000
_BACKGROUND_FRACTION = 0.08
_CONTRAST_DEVIATIONS = 3.0
_OUTLIER_DEVIATIONS = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An encoded picture.

    Parameters
    ----------
    data : the PNG or JPEG file.
    media_type : ``image/png`` or ``image/jpeg``.
    shape : its sides (y, x) in its own pixels.
    """

    data: bytes
    media_type: Literal["image/png", "image/jpeg"]
    shape: tuple[int, int]

    @classmethod
    def png(cls, values: ArrayLike) -> "Picture":
        """Encode without loss: uint8, shape (y, x) or (y, x, 3)."""
        return cls._encoded(values, "image/png", optimize=True)

    @classmethod
    def jpeg(cls, values: ArrayLike, quality: int = 80) -> "Picture":
        """Encode with loss: uint8, shape (y, x) or (y, x, 3)."""
        return cls._encoded(values, "image/jpeg", quality=quality, optimize=True)

    @classmethod
    def _encoded(cls, values: ArrayLike, media_type: Literal["image/png", "image/jpeg"], **options: Any) -> "Picture":
        pixels = np.asarray(values)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise ShapeError(
                f"A picture must be uint8 of shape (y, x) or (y, x, 3); got {pixels.dtype} {pixels.shape}."
            )
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format=media_type.split("/")[1], **options)
        return cls(data=stream.getvalue(), media_type=media_type, shape=(pixels.shape[0], pixels.shape[1]))

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def suffix(self) -> str:
        """Suffix of a file that holds the picture: ``.png`` or ``.jpg``."""
        return ".png" if self.media_type == "image/png" else ".jpg"

    def reduced(self, factor: float, quality: int = 70) -> "Picture":
        """Return a JPEG of fewer pixels.

        Parameters
        ----------
        factor : new over old side, at most 1.
        quality : of the JPEG.
        """
        with Image.open(io.BytesIO(self.data)) as picture:
            sides = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
            smaller = picture.resize(sides, Image.Resampling.LANCZOS) if factor < 1 else picture.copy()
        return Picture.jpeg(np.asarray(smaller.convert("L" if smaller.mode == "L" else "RGB")), quality)


def to_grey(
    images: ArrayLike,
    *,
    percentiles: tuple[float, float] = (1.0, 99.0),
    contrast: Literal["each", "shared"] = "each",
) -> ByteImage:
    """Scale grey values to 0 … 255 between two percentiles.

    Parameters
    ----------
    images : shape (..., y, x); what is not finite becomes black.
    percentiles : the values that become black and white.
    contrast : whether each image has its own limits, or all share them.

    Returns
    -------
    Same shape.
    """
    values = np.asarray(images, dtype=np.float32)
    finite = np.where(np.isfinite(values), values, np.nan)
    axes = (-2, -1) if contrast == "each" else None
    with np.errstate(all="ignore"):
        low, high = (
            np.percentile(np.nan_to_num(finite, nan=_median(finite)), percentiles, axis=axes, keepdims=True)
            if values.size
            else (np.float32(0), np.float32(1))
        )
    return grey_between(finite, low, high)


def grey_between(images: ArrayLike, low: ArrayLike, high: ArrayLike) -> ByteImage:
    """Scale grey values to 0 … 255 between two limits.

    Parameters
    ----------
    images : shape (..., y, x); what is not finite becomes black.
    low, high : the values that become black and white, any shape that goes with the images.

    Returns
    -------
    Same shape.
    """
    values = np.asarray(images, dtype=np.float32)
    lowest = np.asarray(low, dtype=np.float32)
    with np.errstate(all="ignore"):
        scaled = (values - lowest) / np.maximum(np.asarray(high) - lowest, np.finfo(np.float32).tiny)
    grey: ByteImage = np.round(np.nan_to_num(np.clip(scaled, 0, 1), nan=0.0) * 255).astype(np.uint8)
    return grey


def shrink(image: ArrayLike, max_side: int) -> NDArray[np.float32]:
    """Average an image (y, x) down until no side is longer than ``max_side``."""
    values = np.asarray(image, dtype=np.float32)
    factor = max_side / max(values.shape)
    if factor >= 1:
        return values
    sides = (max(1, round(values.shape[1] * factor)), max(1, round(values.shape[0] * factor)))
    return np.asarray(Image.fromarray(values).resize(sides, Image.Resampling.BOX))


def enlarge(image: ArrayLike, min_side: int) -> NDArray[np.float32]:
    """Interpolate an image (y, x) up smoothly until no side is shorter than ``min_side``."""
    values = np.asarray(image, dtype=np.float32)
    factor = min_side / min(values.shape)
    if factor <= 1:
        return values
    sides = (round(values.shape[1] * factor), round(values.shape[0] * factor))
    return np.asarray(Image.fromarray(values).resize(sides, Image.Resampling.BICUBIC))


def micrograph_picture(
    micrograph: ArrayLike, *, max_side: int = 900, quality: int = 78, tinted: ArrayLike | None = None
) -> Picture:
    """Make a micrograph visible: averaged down, freed of its background, with local contrast.

    Parameters
    ----------
    micrograph : shape (y, x).
    max_side : longest side of the picture in pixels.
    quality : of the JPEG.
    tinted : bool, shape of any scale (y, x): true where the picture is tinted, as what is left out.

    Returns
    -------
    A JPEG of the whole field, so positions scale by its sides over the micrograph's.
    """
    from scipy import ndimage  # slow to load, and pages of particles do without

    values = np.asarray(micrograph, dtype=np.float32)
    sample = _sample(values)
    median = _median(sample)
    reach = _OUTLIER_DEVIATIONS * _median(np.abs(sample - median)) or np.inf
    small = shrink(np.clip(np.nan_to_num(values, nan=median), median - reach, median + reach), max_side)
    small = ndimage.gaussian_filter(small, _DISPLAY_SMOOTHING_PIXEL, truncate=3)
    flat = small - _background(small)
    low, high = np.percentile(_sample(flat), (0.5, 99.5))
    deviation = np.sqrt(np.maximum(_background(np.clip(flat, low, high) ** 2, sloping=False), 0))
    floor = 0.3 * float(np.median(_sample(deviation))) + np.finfo(np.float32).tiny
    scaled = flat / np.maximum(deviation, floor) * (255 / (2 * _CONTRAST_DEVIATIONS)) + 127.5
    grey = np.clip(scaled, 0, 255).round().astype(np.uint8)
    if tinted is None or not np.any(tinted):
        return Picture.jpeg(grey, quality)
    mask = Image.fromarray(np.asarray(tinted, dtype=np.uint8) * 255).resize((grey.shape[1], grey.shape[0]))
    colour = Image.new("RGB", mask.size, _TINT)
    mixed = Image.composite(colour, Image.fromarray(grey).convert("RGB"), mask.point(lambda level: level * _TINT_SHARE))
    return Picture.jpeg(np.asarray(mixed), quality)


def _background(image: NDArray[np.float32], *, sloping: bool = True) -> NDArray[np.float32]:
    """Return the image's plane of least squares and what is smooth over a good part of the field beside it.

    Both are found on a small copy, at the cost of nothing.
    """
    from scipy import ndimage

    coarse = shrink(image, _BACKGROUND_SIDE)
    plane = _plane(coarse) if sloping else np.zeros_like(coarse)
    smooth = plane + ndimage.gaussian_filter(coarse - plane, _BACKGROUND_FRACTION * max(coarse.shape))
    sides = (image.shape[1], image.shape[0])
    return np.asarray(Image.fromarray(smooth.astype(np.float32)).resize(sides, Image.Resampling.BICUBIC))


def _plane(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the plane of least squares, which a Gaussian misses along the frame."""
    plane = np.full(image.shape, image.mean(dtype=np.float64))
    for axis, side in enumerate(image.shape):
        ramp = np.expand_dims(np.arange(side) - (side - 1) / 2, 1 - axis)
        plane += ramp * (image * ramp).sum() / max(float((ramp**2).sum() * image.size / side), 1.0)
    return plane.astype(np.float32)


def _sample(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return evenly spaced pixels, enough for medians."""
    step = max(1, round((image.size / _SAMPLED_PIXELS) ** 0.5))
    return image[step // 2 :: step, step // 2 :: step]


def _median(values: NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else 0.0
