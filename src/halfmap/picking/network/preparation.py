"""A micrograph as a detector sees it: particles of one size in pixels, even in brightness and contrast."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from halfmap.errors import InputError
from halfmap.picking.convolution import RoundKernels
from halfmap.picking.masks import Reason, excluded_areas
from halfmap.picking.work_image import WorkImage, inside, reduce

DIAMETER_PIXEL = 16
"""Diameter of every particle in the pixels of the network, so that one network serves all sizes."""

MEAN_SIGMA, SPREAD_SIGMA = 1.0, 2.0
"""Widths of the windows of local mean and local deviation, in diameters: the first takes away what ice, carbon and
illumination add, the second is too wide to follow single particles."""

LIMIT = 5.0
"""Grey values are clipped there: ice and gold are no stronger than this."""

LARGE_PART = 3.0
"""What is foreign is left out where a disc of this many diameters fits into it: carbon, a hole, a sheet of ice. Smaller
things are the network's to judge, which knows ice; among few strong particles each one looks foreign."""

LEAST_WIDTH = 3.0
"""Least side of a micrograph, in diameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedMicrograph:
    """What a detector looks at.

    Parameters
    ----------
    work : the reduced micrograph.
    values : float32, shape (y, x): local mean 0 and deviation 1, particles dark; 0 where left out.
    reason : uint8, shape (y, x): a `Reason` for each pixel.
    diameter_angstrom : of the particles.
    """

    work: WorkImage
    values: Tensor
    reason: Tensor
    diameter_angstrom: float

    @property
    def usable(self) -> Tensor:
        """Where particles are looked for, bool, shape (y, x)."""
        return self.reason == int(Reason.USABLE)

    def pickable(self, margin_angstrom: float) -> Tensor:
        """Where particles are picked, bool, shape (y, x): usable, and that far from the edge of the micrograph."""
        return self.usable & inside(self.work, edge_angstrom=margin_angstrom, particle_angstrom=self.diameter_angstrom)


def prepare(
    micrograph: Tensor | np.ndarray,
    *,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    white_particles: bool = False,
) -> PreparedMicrograph:
    """Reduce a micrograph and even out its brightness and contrast.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded.
    pixel_size_angstrom : of the micrograph.
    diameter_angstrom : of the particles.
    white_particles : they are brighter than the background.

    Raises
    ------
    ShapeError
        The array is not an image.
    InputError
        Pixels are not finite or all alike, or the particle is too small or too large for the micrograph.
    """
    wanted = diameter_angstrom / DIAMETER_PIXEL
    if pixel_size_angstrom > wanted * (1 + 1e-6):
        raise InputError(
            f"--diameter must be at least {DIAMETER_PIXEL} pixels of the micrograph; got {diameter_angstrom:g} Å at "
            f"{pixel_size_angstrom:g} Å per pixel; check both."
        )
    work = reduce(micrograph, pixel_size_angstrom=pixel_size_angstrom, work_pixel_angstrom=wanted)
    if min(work.grid.shape) < LEAST_WIDTH * DIAMETER_PIXEL:
        raise InputError(
            f"--diameter must be less than a third of the micrograph's shorter side; got {diameter_angstrom:g} Å for "
            f"{min(work.grid.shape) * work.grid.pixel_size_angstrom:.0f} Å; check the diameter and the pixel size."
        )
    reason = excluded_areas(work, shortest_angstrom=diameter_angstrom, longest_angstrom=diameter_angstrom)
    reason = _without_small_parts(reason)
    usable = reason == int(Reason.USABLE)
    values = _evened(-work.values if white_particles else work.values, usable)
    return PreparedMicrograph(work=work, values=values, reason=reason, diameter_angstrom=diameter_angstrom)


def _without_small_parts(reason: Tensor) -> Tensor:
    """Make what is foreign but small usable again; what is foreign goes on outside the micrograph."""
    host = reason.cpu().numpy()
    radius = LARGE_PART / 2 * DIAMETER_PIXEL
    pad = math.ceil(radius)
    left_out = np.pad(host != Reason.USABLE, pad, mode="edge")
    core = ndimage.distance_transform_edt(left_out) > radius
    large = np.zeros_like(core)
    if core.any():
        large = ndimage.distance_transform_edt(~core) <= radius
    foreign = (host == Reason.THICKNESS) | (host == Reason.TEXTURE)
    small = foreign & ~large[pad:-pad, pad:-pad]
    return torch.from_numpy(np.where(small, np.uint8(Reason.USABLE), host)).to(reason.device)


def _evened(values: Tensor, usable: Tensor) -> Tensor:
    """Bring local mean to 0 and local deviation to 1, by what is usable alone."""
    if not usable.any():
        return torch.zeros_like(values)
    shape = (values.shape[0], values.shape[1])
    kernels = RoundKernels(shape, 4 * SPREAD_SIGMA * DIAMETER_PIXEL, values.device)
    weight_rfft = kernels.forward(usable.to(values.dtype))

    def local_mean(image: Tensor, width: float) -> Tensor:
        window = kernels.gaussian(width * DIAMETER_PIXEL)
        seen = kernels.apply(weight_rfft, window).clamp_min(1e-3)
        return kernels.apply(kernels.forward(image * usable), window) / seen

    flat = values - values[usable].mean()
    flat = flat - local_mean(flat, MEAN_SIGMA)
    spread = local_mean(flat**2, SPREAD_SIGMA).clamp_min(0).sqrt()
    least = 0.1 * spread[usable].median()
    if not least > 0:
        return torch.zeros_like(values)
    return (flat / spread.clamp_min(least)).clamp(-LIMIT, LIMIT) * usable
