"""Areas of a micrograph where no particle can be trusted: frame, carbon, ice, specks, holes."""

import math
from enum import IntEnum

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from halfmap.picking.convolution import RoundKernels
from halfmap.picking.work_image import WorkImage

OUTLIER_SIGMA = 6.0
"""Robust standard deviations beyond which an area's mean or texture is foreign to its micrograph. A Gaussian field
reaches it once in 5e8 independent places."""

LEAST_TEXTURE = 0.2
"""Least rise of the logarithm of the fine variance that counts as another texture: 22 %."""

AREA_SIGMA = 3.0
"""The same where an area larger than a particle passes it everywhere, which neither particles nor noise do."""

AREA_WIDTH = 1.25
"""Least width of such an area, in longest diameters."""

ROUNDS = 3
"""Most often that statistics are taken again without what was found."""

NEW_SHARE = 0.05
"""Finding less than this part of the area changes the statistics too little to take them again."""

EDGE_SIGMA = 3.0
"""Detail of a foreign thing is followed down to this many robust standard deviations."""

ISLAND_SHARE = 0.25
"""Usable ground that is cut off from a part of the micrograph four times as large is left out."""

EMPTY_VARIANCE = 0.02
"""Fine variance below this part of the usual one means that nothing was recorded there."""


class Reason(IntEnum):
    """Why an area is left out."""

    USABLE = 0
    FRAME = 1
    """Rows or columns that repeat their neighbours, or hold one value."""
    EMPTY = 2
    """No noise: blanked, or shadowed."""
    THICKNESS = 3
    """Mean far from the micrograph's: ice, carbon, a hole."""
    TEXTURE = 4
    """Finer detail far stronger than elsewhere: carbon, crystals."""
    SPECK = 5
    """As large as a particle and far stronger than the others: ice crystals, gold, dirt."""


def excluded_areas(work: WorkImage, *, shortest_angstrom: float, longest_angstrom: float) -> Tensor:
    """Find the areas of a micrograph to be left out.

    Parameters
    ----------
    work : the reduced micrograph.
    shortest_angstrom, longest_angstrom : diameters of the particles looked for. What is foreign is judged on scales at
        which they contribute little: means over areas larger than one, and detail finer than one.

    Returns
    -------
    uint8, shape of the work image: a `Reason` for each pixel.
    """
    shortest, longest = (diameter / work.grid.pixel_size_angstrom for diameter in (shortest_angstrom, longest_angstrom))
    kernels = RoundKernels((work.grid.shape[0], work.grid.shape[1]), 2.0 * longest, work.values.device)
    reason = np.where(_frame(work), int(Reason.FRAME), int(Reason.USABLE)).astype(np.uint8)
    rounded = _rounded(reason, 0.0, 2.0 * longest)
    for _ in range(ROUNDS):
        usable = rounded == int(Reason.USABLE)
        if not usable.any():
            break
        found = _foreign(work.values, usable, kernels, shortest, longest)
        if not (found[usable] != int(Reason.USABLE)).any():
            break
        reason = np.where(usable, found, reason)
        rounded = _rounded(reason, shortest / 4, 2.0 * longest)
        if (rounded[usable] != int(Reason.USABLE)).mean() < NEW_SHARE:
            break
    return torch.from_numpy(rounded).to(work.values.device)


def _foreign(
    values: Tensor, usable_area: np.ndarray, kernels: RoundKernels, shortest: float, longest: float
) -> np.ndarray:
    """Judge each pixel by the statistics of the area usable so far; lengths in pixels. Returns reasons.

    Means over windows that see less usable ground scatter more, by the root of what they see.
    """
    usable = torch.from_numpy(usable_area).to(values.device)
    weight_rfft = kernels.forward(usable.to(values.dtype))
    centred = (values - _median(values, usable)) * usable
    centred_rfft = kernels.forward(centred)

    def local_mean(transform: Tensor, sigma: float) -> Tensor:
        window = kernels.gaussian(sigma)
        return kernels.apply(transform, window) / kernels.apply(weight_rfft, window).clamp_min(1e-3)

    wide = kernels.gaussian(longest / 2)
    seen = kernels.apply(weight_rfft, wide).clamp(1e-3, 1.0)

    fine = (centred - local_mean(centred_rfft, 1.0)) * usable
    power_rfft = kernels.forward(fine**2)
    power = local_mean(power_rfft, max(1.0, shortest / 4))
    empty = usable & (power < EMPTY_VARIANCE * _median(power, usable))

    mean = kernels.apply(centred_rfft, wide) / seen
    trend = _trend(mean, usable)
    detail = _robust_z(local_mean(centred_rfft, max(0.7, shortest / 8)) - trend, usable)
    part = _robust_z(local_mean(centred_rfft, shortest / 4) - trend, usable)
    level = _robust_z(mean - trend, usable) * seen.sqrt()
    variance = kernels.apply(power_rfft, wide) / seen
    logarithm = torch.log(variance.clamp_min(torch.finfo(variance.dtype).tiny))
    rough = (_robust_z(logarithm, usable) * seen.sqrt() > OUTLIER_SIGMA) & (
        logarithm - _median(logarithm, usable) > LEAST_TEXTURE
    )
    uneven = (level.abs() > OUTLIER_SIGMA) & usable

    reason = np.zeros(usable_area.shape, dtype=np.uint8)
    for why, area in (
        (Reason.TEXTURE, _opened(_half_height(variance, rough & usable), usable_area, 1.5 * longest)),
        (Reason.THICKNESS, _opened((part > AREA_SIGMA).cpu().numpy(), usable_area, AREA_WIDTH * longest)),
        (Reason.THICKNESS, _opened((part < -AREA_SIGMA).cpu().numpy(), usable_area, AREA_WIDTH * longest)),
        (Reason.THICKNESS, _half_height(level.abs(), uneven) | _spread(detail, uneven, usable_area, longest)),
        (Reason.EMPTY, empty.cpu().numpy()),
    ):
        reason[area & usable_area] = int(why)
    return reason


def _frame(work: WorkImage) -> np.ndarray:
    """Work pixels whose centre lies in the replicated frame."""
    top, bottom, left, right = work.border_pixel
    height, width = work.micrograph_shape
    lines = []
    for side, before, after, n in ((height, top, bottom, work.grid.shape[0]), (width, left, right, work.grid.shape[1])):
        centre = np.arange(n) * work.step_pixel
        reach = 0.5 * work.step_pixel
        lines.append(((centre < before + reach) & (before > 0)) | ((centre > side - 1 - after - reach) & (after > 0)))
    return lines[0][:, None] | lines[1]


def _median(image: Tensor, usable: Tensor) -> Tensor:
    """Median of the usable pixels, from a regular sample of them where they are many."""
    return _sample(image, usable).median()


def _sample(image: Tensor, usable: Tensor) -> Tensor:
    """A regular sample of the usable pixels: the images judged are smooth, or the sample is large."""
    stride = max(1, min(image.shape) // 64)
    sampled = image[::stride, ::stride][usable[::stride, ::stride]]
    return sampled if len(sampled) else image[usable]


def _robust_z(image: Tensor, usable: Tensor) -> Tensor:
    """Deviation from the median in robust standard deviations."""
    inside = _sample(image, usable)
    median = inside.median()
    spread = 1.4826 * (inside - median).abs().median()
    return (image - median) / spread.clamp_min(torch.finfo(image.dtype).tiny)


def _trend(image: Tensor, usable: Tensor) -> Tensor:
    """Quadratic surface that fits the bulk of the usable pixels."""
    height, width = image.shape
    stride = max(1, min(height, width) // 32)
    y = torch.linspace(-1, 1, height, dtype=torch.float64, device=image.device)
    x = torch.linspace(-1, 1, width, dtype=torch.float64, device=image.device)
    seen = usable[::stride, ::stride]
    sampled = _quadratic(y[::stride], x[::stride])[:, seen].T
    target = image[::stride, ::stride][seen].to(torch.float64)
    if len(target) < 12:
        return torch.zeros_like(image)
    surface = torch.zeros(6, dtype=torch.float64, device=image.device)
    surface[0] = target.median()  # a first fit to all would follow carbon along a side
    for _ in range(10):
        residual = target - sampled @ surface
        spread = (1.4826 * residual.abs().median()).clamp_min(1e-30)
        weight = (1 - (residual / (2.5 * spread)) ** 2).clamp(min=0) ** 2
        normal = sampled.T @ (sampled * weight[:, None]) + 1e-6 * torch.eye(6, dtype=torch.float64, device=image.device)
        surface = torch.linalg.solve(normal, sampled.T @ (weight * target))
    c, cx, cy, cxx, cxy, cyy = surface
    along_y = c + cy * y + cyy * y * y
    along_x = cx * x + cxx * x * x
    return (along_y[:, None] + along_x + cxy * y[:, None] * x).to(image.dtype)


def _quadratic(y: Tensor, x: Tensor) -> Tensor:
    """Return 1, x, y, x², xy, y² on a grid, shape (6, y, x)."""
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def _half_height(image: Tensor, area: Tensor) -> np.ndarray:
    """Cut each part of an area back to where the image is half as high above its usual value as in the part.

    A blurred step passes half its height where the sharp one stood.
    """
    labels, n = ndimage.label(area.cpu().numpy())
    if n == 0:
        return np.zeros(area.shape, dtype=bool)
    values = image.cpu().numpy()
    base = float(np.median(values[::3, ::3]))
    inside = labels > 0
    middle = np.bincount(labels[inside], values[inside])[1:] / np.bincount(labels[inside])[1:]
    half = np.concatenate([[np.inf], base + 0.5 * (middle - base)])
    return np.asarray(values >= half[labels])


def _spread(detail: Tensor, seed: Tensor, inside: np.ndarray, reach_pixel: float) -> np.ndarray:
    """Follow seeds through connected detail of their own sign, no further than a distance."""
    values = detail.cpu().numpy()
    seeds = seed.cpu().numpy() & inside & (np.abs(values) > EDGE_SIGMA)
    if not seeds.any():
        return seeds
    near = ndimage.distance_transform_edt(~seeds) <= reach_pixel
    spread = np.zeros_like(seeds)
    for sign in (-1.0, 1.0):
        through = (sign * values > EDGE_SIGMA) & near & inside
        if (seeds & through).any():
            spread |= ndimage.binary_propagation(seeds & through, mask=through)
    return spread


def _opened(area: np.ndarray, usable: np.ndarray, diameter_pixel: float) -> np.ndarray:
    """Keep the parts of an area that a disc can cover; it goes on where nothing is known.

    That is outside the micrograph and in what is left out already. A part must be larger than the disc all the same.
    """
    least = math.pi / 4 * diameter_pixel**2
    if (area & usable).sum() <= least:
        return np.zeros_like(area)
    pad = math.ceil(diameter_pixel)
    padded = np.pad(area | ~usable, pad, mode="edge")
    core = np.asarray(ndimage.distance_transform_edt(padded)) > diameter_pixel / 2
    if not core.any():
        return np.zeros_like(area)
    opened = np.asarray(ndimage.distance_transform_edt(~core)) <= diameter_pixel / 2
    kept = opened[pad:-pad, pad:-pad] & area & usable
    labels, n = ndimage.label(kept)
    large = np.bincount(labels.ravel(), minlength=n + 1) > least
    large[0] = False
    return np.asarray(large[labels])


def _rounded(reason: np.ndarray, reach_pixel: float, island_pixel: float) -> np.ndarray:
    """Grow what is left out by a distance, and add usable ground that is cut off in small pieces.

    Ground behind the edge of carbon may look like any other; but the edge cuts it off. The new parts have the reason
    of what lies nearest.
    """
    usable = reason == int(Reason.USABLE)
    if usable.all():
        return reason
    distance, nearest = ndimage.distance_transform_edt(usable, return_indices=True)
    labels, n = ndimage.label(distance > reach_pixel)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    kept = sizes >= max(island_pixel**2, ISLAND_SHARE * sizes.max())
    kept[0] = False
    return np.where(kept[labels], reason, reason[tuple(nearest)])
